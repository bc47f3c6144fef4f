"""Loads the MNIST digits from disk, verified; and downloads the full set when asked to."""

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import ROOT

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"


class MnistFile(NamedTuple):
    """An .npz file in Keras's layout: its name, what it must hold, and what to do when it doesn't."""

    name: str
    n_train: int
    n_test: int
    n_bytes: int
    sha256: str
    remedy: str


FILES = {
    "5k": MnistFile(
        "mnist_5k.npz",
        n_train=4_000,
        n_test=1_000,
        n_bytes=3_925_922,
        sha256="fc3781684f2e8e0362fc2f2cae33f8c278099dabce8a7bb85966cb204bd5f2ca",
        remedy="Restore it, in the checkout: git checkout -- data/mnist_5k.npz",
    ),
    "full": MnistFile(
        "mnist.npz",
        n_train=60_000,
        n_test=10_000,
        n_bytes=11_490_434,
        sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        remedy="Download it, in the checkout: python3 -m helpers download",
    ),
}


def load_mnist(which="5k"):
    """Return (x_train, y_train), (x_test, y_test), as Keras's own loader does, and never use the network.

    which: "5k" for the 4,000 + 1,000 digits of the checkout, "full" for the 60,000 + 10,000 of MNIST.
    Out: images (n, 28, 28), uint8, 0 (paper) to 255 (ink); labels (n,), uint8, 0 to 9.
    Raises ValueError for another `which`, FileNotFoundError for a missing file and ValueError for a
    truncated, altered or wrongly shaped one; each says what to do. Source: data/README.md.
    """
    if which not in FILES:
        raise ValueError(
            f'no MNIST set {which!r}; there are "5k" (4,000 + 1,000 digits) and "full" (all 70,000)'
        )
    expected, places, problem = FILES[which], [], None
    for path in _paths(which):
        places.append(str(path))
        if not path.is_file():
            continue
        try:
            arrays = _verified(path.read_bytes(), expected)
        except ValueError as error:
            problem = problem or f"{path}: {error}. {expected.remedy}"
        else:
            return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    if problem:
        raise ValueError(problem)
    raise FileNotFoundError(f"{' and '.join(places)}: no such file. {expected.remedy}")


def download(source=None):
    """Fetch the full MNIST set, verify it, save it, and return its Path.

    source: another address (http or https), or a file already on disk, of the same mnist.npz.
    It goes into the checkout's data folder, or into the user's cache folder where that one can't be
    written. A verified copy already there is kept, and nothing is fetched.
    Raises OSError when it can't be read or saved, ValueError when it is another file; each leaves
    no file behind.
    """
    expected = FILES["full"]
    for path in _paths("full"):
        if path.is_file() and _sha256(path.read_bytes()) == expected.sha256:
            return path
    target = _writable(_paths("full"))
    source = str(source or URL)
    advice = (
        "Nothing was saved. Try again, or from another address or a file: "
        "python3 -m helpers download --from ADDRESS_OR_FILE"
    )

    # 11 MB fit into memory: nothing lies on the disk before it is whole and verified, so that even
    # a killed download leaves nothing behind.
    try:
        if source.lower().startswith(("http://", "https://")):
            import pooch  # here, because loading doesn't need them
            from tqdm import tqdm

            buffer = io.BytesIO()
            # A bar of our own, so that it is closed before any error is shown.
            with tqdm(total=expected.n_bytes, unit="B", unit_scale=True, ncols=79) as bar:
                pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)(source, buffer, None)
            raw = buffer.getvalue()
        else:
            raw = Path(source).expanduser().read_bytes()
    except OSError as error:  # those of requests are OSErrors too
        raise OSError(f"{source} can't be read: {error}. {advice}") from error
    try:
        _verified(raw, expected)
    except ValueError as error:
        raise ValueError(f"{source}: {error}. {advice}") from None

    # A folder of our own, then one move: whoever looks sees no file or a whole one, and two
    # downloads at once replace each other's file with the same bytes.
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=target.parent) as private:
        new = Path(private) / target.name
        new.write_bytes(raw)
        try:
            os.replace(new, target)
        except PermissionError:  # Windows, while another process has the file open
            if not (target.is_file() and _sha256(target.read_bytes()) == expected.sha256):
                raise
    return target


def _paths(which):
    """Yield the places to look in, the best first."""
    yield ROOT / "data" / FILES[which].name
    if which == "full":  # a checkout that can't be written has its copy elsewhere
        import pooch

        yield Path(pooch.os_cache("three-ways")) / FILES[which].name


def _writable(paths):
    """Return the first of `paths` that can be written; only trying tells, on every system."""
    problems = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                return path
        except OSError as error:
            problems.append(f"{path} ({error})")
    raise OSError(f"no place for the file: {', '.join(problems)}. Make one of these folders writable")


def _sha256(raw):
    return hashlib.sha256(raw).hexdigest()


def _verified(raw, expected):
    """Return the four arrays of a file's bytes, or raise a ValueError that says what is wrong with them."""
    # The hash alone would do; the rest is there to name what is wrong, the most specific thing first.
    if not raw.startswith(b"PK"):
        begins = f"it begins with {raw[:20]!r}" if raw else "it is empty"
        raise ValueError(f"this is not an .npz file: {begins}")
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a broken file
        raise ValueError(
            f"the file is truncated or damaged ({error}): it has {len(raw):,} bytes, not {expected.n_bytes:,}"
            if len(raw) != expected.n_bytes
            else f"the file is damaged: {error}"
        ) from error
    for part, n in (("train", expected.n_train), ("test", expected.n_test)):
        for name, shape in ((f"x_{part}", (n, 28, 28)), (f"y_{part}", (n,))):
            if name not in arrays:
                raise ValueError(f"there is no array {name} in it, only {', '.join(arrays) or 'nothing'}")
            array = arrays[name]
            if array.shape != shape or array.dtype != np.uint8:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint8 {shape}")
    found = _sha256(raw)
    if found != expected.sha256:
        raise ValueError(f"the file was altered: its SHA-256 is {found}, not {expected.sha256}")
    return arrays
