"""The recorded runs in data/records: what each notebook's dict `record` held when the suite last ran it."""

import os
import tempfile
from pathlib import Path

import numpy as np

from helpers import ROOT

FOLDER = ROOT / "data" / "records"
TOOLS = {"numpy": "NumPy", "keras": "Keras", "pytorch": "PyTorch"}
AGREED = 1e-12  # the suite's promise: no two tools further apart than this, in float64


def load(name: str) -> dict[str, np.ndarray]:
    """The recorded run of a notebook.

    Args:
        name: the notebook's name without its ending, such as "03_mlp_keras".

    Returns:
        The arrays of its `record`, shapes and dtypes as the notebook made them.

    Raises:
        FileNotFoundError: nothing is recorded under that name.
    """
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `python3 -m helpers run {name}` runs the notebook and records it"
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def save(name: str, record: dict) -> bool:
    """Record a run, unless it differs from the recorded one by rounding only; return whether it did.

    Args:
        name: the notebook's name without its ending.
        record: numbers and arrays of any shape, by name.
    """
    path = FOLDER / f"{name}.npz"
    record = {key: np.asarray(value) for key, value in record.items()}
    if path.exists():
        old = load(name)
        same = old.keys() == record.keys() and all(_comparable(old[key], record[key]) for key in old)
        if same and max(difference(key, old[key], record[key]) for key in old) < AGREED / 10:
            return False
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:  # beside the target, so that the move is atomic
        np.savez_compressed(Path(folder) / path.name, **record)
        os.replace(Path(folder) / path.name, path)
    return True


def _comparable(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype.kind == b.dtype.kind


def difference(key: str, a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two arrays of one shape: relative for losses, absolute for all else.

    Integers that differ at all count as infinitely far apart; so do floats where only one is finite.
    """
    if a.dtype.kind in "iub":
        return 0.0 if np.array_equal(a, b) else np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(a - b) / (np.abs(b) if key.endswith("losses") else 1.0)
    gap = np.where(a == b, 0.0, gap)
    return float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0))


def bound(gap: float, limit: float = AGREED) -> str:
    """Say "within LIMIT" of a gap that is no larger, and otherwise how large it is.

    Digits near the rounding level differ from processor to processor; whether a bound holds does not.
    """
    return f"within {limit:.0e}" if gap <= limit else f"{gap:.1e}"


def _first_departure(key: str, a: np.ndarray, b: np.ndarray) -> str:
    if not key.endswith("losses"):
        return ""
    apart = [difference(key, a[i : i + 1], b[i : i + 1]) > AGREED for i in range(len(a))]
    return f" from step {apart.index(True) + 1}"


def _verdict(key: str, mine: np.ndarray, theirs: np.ndarray) -> str:
    if mine.dtype.kind in "iub":
        count = np.count_nonzero(mine != theirs)
        return f"{count} differ" if count else "identical"
    gap = difference(key, mine, theirs)
    return bound(gap) + ("" if gap <= AGREED else f" apart{_first_departure(key, mine, theirs)}")


def compare(name: str, record: dict) -> None:
    """Print how far a notebook's run is from the recorded runs of its two siblings.

    Losses are compared relatively, all else absolutely. Nothing is raised when runs differ: a reader who
    changes something is meant to see where the run departs, and the tests compare what is printed.

    Args:
        name: the notebook's name without its ending, such as "03_mlp_numpy".
        record: the notebook's own run: numbers and arrays by name; names a sibling lacks are left out for it.
    """
    lesson, tool = name.rsplit("_", 1)
    record = {key: np.asarray(value) for key, value in record.items()}
    columns = {TOOLS[other]: load(f"{lesson}_{other}") for other in TOOLS if other != tool}
    for title, theirs in list(columns.items()):
        other = [key for key in record.keys() & theirs.keys() if not _comparable(record[key], theirs[key])]
        if other:
            shapes = (
                f"{min(other)} has shape {record[min(other)].shape} here and {theirs[min(other)].shape} there"
            )
            print(f"not compared with the recorded run of {title}: {shapes} (other data or settings)")
            del columns[title]
    rows = {
        key: [_verdict(key, mine, theirs[key]) if key in theirs else "" for theirs in columns.values()]
        for key, mine in record.items()
        if columns
    }
    if not rows:
        return
    key_width = max(map(len, rows))
    width = max(len(cell) for cells in [*rows.values(), list(columns)] for cell in cells) + 2
    print(f"{TOOLS[tool]:{key_width}}  " + "".join(f"{'to ' + title:{width}}" for title in columns).rstrip())
    for key, cells in rows.items():
        print(f"{key:{key_width}}  " + "".join(f"{cell:{width}}" for cell in cells).rstrip())
