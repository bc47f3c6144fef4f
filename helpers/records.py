"""The pages' comparisons: of two results on a page, and of a run with the recorded runs in data/records.

A record is what a notebook's dict `record` held when the suite last ran it.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from helpers import ROOT

FOLDER = ROOT / "data" / "records"
TOOLS = {"numpy": "NumPy", "keras": "Keras", "pytorch": "PyTorch"}
NOTES = "THREE_WAYS_NOTES"  # names the file to which a test run's checks are noted
ROUNDING = {64: 1e-14, 32: 1e-5, 16: 1e-2}  # by bits of a float: some dozens of units in the last place
AGREED = 1e-12  # the suite's promise: no two tools further apart than this, in float64


def load(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """The recorded run of a notebook.

    Args:
        name: the notebook's name without its ending, such as "03_mlp_keras".
        folder: where it was recorded; None: data/records.

    Returns:
        The arrays of its `record`, shapes and dtypes as the notebook made them.

    Raises:
        FileNotFoundError: nothing is recorded under that name.
    """
    path = (folder or FOLDER) / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `python3 -m helpers run {name}` runs the notebook and records it"
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def save(name: str, record: dict, folder: Path | None = None) -> bool:
    """Record a run, unless it differs from the recorded one by rounding only; return whether it did.

    Args:
        name: the notebook's name without its ending.
        record: numbers and arrays of any shape, by name.
        folder: where to; None: data/records.
    """
    folder = folder or FOLDER
    path = folder / f"{name}.npz"
    record = {key: np.asarray(value) for key, value in record.items()}
    if path.exists():
        old = load(name, folder)
        same = old.keys() == record.keys() and all(_comparable(old[key], record[key]) for key in old)
        if same and max(difference(key, old[key], record[key]) for key in old) < AGREED / 10:
            return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as beside:  # so that the move is atomic
        np.savez_compressed(Path(beside) / path.name, **record)
        os.replace(Path(beside) / path.name, path)
    return True


def _comparable(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype.kind == b.dtype.kind


def difference(key: str, a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two arrays of one shape: relative for losses, absolute for all else.

    Integers and words that differ at all count as infinitely far apart; so do floats of which one is finite.
    """
    if a.dtype.kind in "iubU":
        return 0.0 if np.array_equal(a, b) else np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(a - b) / (np.abs(b) if key.endswith("losses") else 1.0)
    gap = np.where(a == b, 0.0, gap)
    return float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0))


def bound(gap: float, limit: float = AGREED) -> str:
    """Say "within LIMIT" of a gap that is no larger, and otherwise how large it is.

    For a gap that a page measures because there is one; what has to agree goes through `agree`.
    Digits near the rounding level differ from processor to processor; whether a bound holds does not.
    """
    return f"within {limit:.0e}" if gap <= limit else f"{gap:.1e}"


def _gap(a: np.ndarray, b: np.ndarray, each: bool) -> float:
    if not {a.dtype.kind, b.dtype.kind} <= set("fc"):
        return difference("", a, b) if a.dtype.kind not in "fc" else difference("", a, b.astype(a.dtype))
    if not each:
        with np.errstate(invalid="ignore"):
            scale = float(np.abs(b).max(initial=0.0))  # or a gap in 32 bits is one of their numbers
        return difference("", a, b) / (scale if 0 < scale < np.inf else 1.0)
    return difference("losses", a, b)


def agreement(what: str, a, b, limit: float | None = None, each: bool = False) -> str:
    """Say how closely `a` and `b` agree, or raise when they don't; for a table, where `agree` prints a line.

    Args:
        what: what is compared, a few words that no other check of the page has.
        a, b: numbers, or arrays of one shape (one of them may be a single number).
        limit: the largest gap, relative to the largest number in `b`. Without one it is the rounding
            level of the coarser of the two types; with one it is never less than that. 0: to the last bit.
        each: relative to each number of `b` instead.

    Returns:
        "within LIMIT"; "identical" for integers, words, and a limit of 0.

    Raises:
        AssertionError: they are further apart; it says how far.
    """
    one, other = np.asarray(a), np.asarray(b)
    one, other = np.broadcast_arrays(one, other) if 0 in (one.ndim, other.ndim) else (one, other)
    assert one.shape == other.shape, f"{what}: shapes {one.shape} and {other.shape}"
    types = [array.dtype for array in (one, other) if array.dtype.kind in "fc"]
    exact = limit == 0 or not types
    if not exact:
        limit = max(limit or 0, max(ROUNDING[np.finfo(kind).bits] for kind in types))
    gap = _gap(one, other, each)
    if NOTES in os.environ:
        _note(what, a, b, one, other, gap, 0 if exact else limit, each)
    if not gap <= (0 if exact else limit):
        raise AssertionError(
            f"{what}: {gap:.1e} apart, and not " + ("identical" if exact else bound(0, limit))
        )
    return "identical" if exact else bound(0, limit)


def agree(what: str, a, b, limit: float | None = None, each: bool = False) -> None:
    """Print how closely two results agree, such as "forward and back: within 1e-14", or raise.

    The arguments, and what is raised, are those of `agreement`.
    """
    print(f"{what}: {agreement(what, a, b, limit, each)}")


def _note(what, a, b, one, other, gap, limit, each):
    # For tests/test_checks.py: a check that compares a thing with itself, or can't fail, is none.
    moved = np.array(other)
    if moved.dtype.kind in "fc":
        moved = moved + 10 * max(limit, np.finfo(moved.dtype).eps) * max(np.abs(moved).max(initial=0), 1e-300)
    elif moved.dtype.kind in "iub":
        moved = ~moved if moved.dtype == bool else moved + 1
    else:
        moved = np.char.add(moved, "x")
    note = {
        "what": what,
        "gap": gap,
        "limit": limit,
        "rounding": max(
            (float(np.finfo(x.dtype).eps) for x in (one, other) if x.dtype.kind in "fc"), default=0
        ),
        "same": one.ndim > 0 and (a is b or np.shares_memory(one, other)),
        "constant": [
            bool(x.size > 1 and x.ndim and (x == x.flat[0]).all()) for x in (np.asarray(a), np.asarray(b))
        ],
        "size": int(one.size),
        "fails when moved": not _gap(one, moved, each) <= limit,
    }
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")


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


def _together(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """One row for all keys that are the same up to their first "_"; what departs goes before what agrees."""
    groups = {}
    for key, cells in rows.items():
        groups.setdefault(key.split("_")[0], []).append(cells)

    def first(column):
        said = [cell for cell in column if cell]
        apart = [cell for cell in said if not cell.startswith(("within", "identical"))]
        return next(iter(apart + said), "")

    return {name: [first(column) for column in zip(*group, strict=True)] for name, group in groups.items()}


def compare(name: str, record: dict, short: bool = False) -> None:
    """Print how far a notebook's run is from the recorded runs of its two siblings.

    Losses are compared relatively, all else absolutely. A record may hold its `settings`, a list of the
    constants that the page offers: a run with others departs, which is meant to be seen, not raised.

    Args:
        name: the notebook's name without its ending, such as "03_mlp_numpy".
        record: the notebook's own run: numbers and arrays by name; names a sibling lacks are left out for it.
        short: one row for all names that are the same up to their first "_": of what departs, if any does.

    Raises:
        AssertionError: under the settings of the recorded run, something is further apart than AGREED.
    """
    lesson, tool = name.rsplit("_", 1)
    record = {key: np.asarray(value) for key, value in record.items()}
    settings = record.pop("settings", np.array([])).tolist()
    columns, departed = {TOOLS[other]: load(f"{lesson}_{other}") for other in TOOLS if other != tool}, []
    for title, theirs in list(columns.items()):
        theirs_settings = theirs.pop("settings", np.array([])).tolist()
        own = settings == theirs_settings
        if not own:
            pairs = zip(settings, theirs_settings, strict=False)
            apart = ", ".join(f"{here} for {there}" for here, there in pairs if here != there)
            print(f"other settings than in the recorded run of {title}: {apart or 'more of them'}")
        other = [key for key in record.keys() & theirs.keys() if not _comparable(record[key], theirs[key])]
        if other:
            key = min(other)
            shapes = f"{key} has shape {record[key].shape} here and {theirs[key].shape} there"
            assert not own, f"{shapes}, in the recorded run of {title}"
            print(f"not compared with the recorded run of {title}: {shapes}")
            del columns[title]
        elif own:
            for key in record.keys() & theirs.keys():
                if difference(key, record[key], theirs[key]) > AGREED:
                    departed.append(f"{key} from {title}'s")
    rows = {
        key: [_verdict(key, mine, theirs[key]) if key in theirs else "" for theirs in columns.values()]
        for key, mine in record.items()
        if columns
    }
    if short:
        rows = _together(rows)
    if not rows:
        return
    key_width = max(map(len, rows))
    width = max(len(cell) for cells in [*rows.values(), list(columns)] for cell in cells) + 2
    print(f"{TOOLS[tool]:{key_width}}  " + "".join(f"{'to ' + title:{width}}" for title in columns).rstrip())
    for key, cells in rows.items():
        print(f"{key:{key_width}}  " + "".join(f"{cell:{width}}" for cell in cells).rstrip())
    if departed:
        raise AssertionError(f"departs from the recorded runs: {', '.join(sorted(departed))}; see the table")
