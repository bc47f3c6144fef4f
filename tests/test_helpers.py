"""Records and the quiet start-up."""

import json
import subprocess
import sys

import numpy as np
import pytest

from helpers import records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return tmp_path / "records"


def a_record(**changes):
    arrays = {"losses": np.array([2.0, 1.0, 0.5]), "W": np.eye(2), "predictions": np.array([3, 1])}
    return arrays | {"accuracy": 0.5} | changes


def test_record_survives_saving(folder):
    assert records.save("01_x_numpy", a_record())
    for key, array in records.load("01_x_numpy").items():
        np.testing.assert_array_equal(array, a_record()[key], strict=True)
    assert [path.name for path in folder.iterdir()] == ["01_x_numpy.npz"]


def test_record_is_kept_when_only_rounding_changed(folder):
    records.save("01_x_numpy", a_record())
    before = (folder / "01_x_numpy.npz").read_bytes()
    assert not records.save("01_x_numpy", a_record(W=np.eye(2) + 1e-15))
    assert (folder / "01_x_numpy.npz").read_bytes() == before
    assert not records.save("01_x_numpy", a_record(W=np.eye(2) + 5e-14))
    for change in (
        dict(W=np.eye(2) + 5e-13),  # still within the promise, but no rounding
        dict(W=np.eye(2) + 1e-11),
        dict(W=np.eye(3)),
        dict(predictions=np.array([3, 2])),
        dict(new=1),
    ):
        assert records.save("01_x_numpy", a_record(**change))


def test_a_record_that_is_not_written_whole_leaves_the_old_one(folder, monkeypatch, no_leftovers):
    def fail(*args):
        raise OSError(28, "No space left on device")

    records.save("01_x_numpy", a_record())
    before = (folder / "01_x_numpy.npz").read_bytes()
    for where, name in ((records.np, "savez_compressed"), (records.os, "replace")):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(where, name, lambda *args, **arrays: fail())
            records.save("01_x_numpy", a_record(new=1))
        assert [path.name for path in folder.iterdir()] == ["01_x_numpy.npz"]
        assert (folder / "01_x_numpy.npz").read_bytes() == before


def test_missing_record_names_the_command(folder):
    with pytest.raises(FileNotFoundError, match="python3 -m helpers run 01_x_keras"):
        records.load("01_x_keras")


def test_difference():
    def gap(key, a, b):
        return records.difference(key, np.asarray(a), np.asarray(b))

    assert gap("losses", [2.0, 1.0], [1.0, 1.0]) == 1.0  # relative
    assert gap("keras_adam_losses", [0.5, 0.25], [0.5, 0.5]) == 0.5
    assert gap("W", [2.0, 0.25], [2.0, 0.5]) == 0.25  # absolute
    assert gap("predictions", [1, 2], [1, 2]) == 0 and gap("predictions", [1, 2], [1, 3]) == np.inf
    assert gap("losses", [np.nan], [1.0]) == np.inf and gap("W", [np.inf], [1.0]) == np.inf
    assert gap("losses", [0.0], [0.0]) == 0


def test_compare_says_where_a_run_departs_and_raises(folder, capsys):
    records.save("01_x_keras", a_record())
    records.save("01_x_pytorch", a_record())
    mine = a_record(losses=np.array([2.0, 1.1, 0.5]), predictions=np.array([3, 2]), accuracy=0.25, own=1.0)
    with pytest.raises(AssertionError, match=r"accuracy from Keras's, .*losses from PyTorch's"):
        records.compare("01_x_numpy", mine)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["losses"].count("1.0e-01 apart from step 2") == 2
    assert lines["W"].count("within 1e-12") == 2
    assert lines["predictions"].count("1 differ") == 2
    assert lines["accuracy"].count("2.5e-01 apart") == 2
    assert lines["own"].split() == ["own"]


def test_compare_in_short_has_a_row_for_each_beginning_and_says_what_departs(folder, capsys):
    numbers = dict(big_losses=np.array([2.0, 1.0]), big_W=np.eye(2), small_losses=np.ones(2), small=1)
    for tool in ("keras", "pytorch"):
        records.save(f"01_x_{tool}", numbers)
    records.compare("01_x_numpy", numbers, short=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["big"] + 2 * ["within", "1e-12"], ["small"] + 2 * ["within", "1e-12"]]
    with pytest.raises(AssertionError, match="big_W from Keras's, big_W from PyTorch's"):
        records.compare("01_x_numpy", numbers | {"big_W": np.eye(2) + 0.5}, short=True)
    big, small = capsys.readouterr().out.splitlines()[1:]
    assert big.split() == ["big", "5.0e-01", "apart", "5.0e-01", "apart"] and "apart" not in small


def test_compare_raises_only_under_the_records_settings(folder, capsys):
    for tool in ("keras", "pytorch"):
        records.save(f"01_x_{tool}", a_record(settings=["5k", 3]))
    records.compare("01_x_numpy", a_record(settings=["5k", 3]))
    other = a_record(settings=["5k", 2], losses=np.array([2.0, 1.1, 0.5]))
    capsys.readouterr()
    records.compare("01_x_numpy", other)
    out = capsys.readouterr().out
    assert "other settings than in the recorded run of Keras: 2 for 3\n" in out and "from step 2" in out
    for mine in (other | {"settings": ["5k", 3]}, a_record(settings=["5k", 3], W=np.eye(3))):
        with pytest.raises(AssertionError):
            records.compare("01_x_numpy", mine)
    capsys.readouterr()
    records.compare("01_x_numpy", a_record(settings=["5k", 7], losses=np.ones(7)))
    out = capsys.readouterr().out
    assert "recorded run of PyTorch: losses has shape (7,) here and (3,) there" in out
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        ([1.0, 2.0 + 1e-15], [1, 2], {}, "within 1e-14"),
        (np.float32([1, 2]), [1.0, 2.000001], {}, "within 1e-05"),
        (np.float32([1, 2]), [1.0, 2.000001], {"limit": 1e-12}, "within 1e-05"),  # never below the type's
        ([1.0, 2.001], [1.0, 2.0], {"limit": 1e-3}, "within 1e-03"),
        (np.ones(3) / 3 * 3, 1, {}, "within 1e-14"),
        ([1e-9, 1.0], [1.0000001e-9, 1.0], {}, "within 1e-14"),  # relative to the largest
        ([3, 1], [3, 1], {}, "identical"),
        ("relu", "relu", {}, "identical"),
        ([0.1, 0.2], [0.1, 0.2], {"limit": 0}, "identical"),
    ],
)
def test_what_agrees_is_said_with_its_bound(capsys, a, b, options, words):
    records.agree("the two", a, b, **options)
    assert capsys.readouterr().out == f"the two: {words}\n"


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        ([1.0, 2.0 + 1e-13], [1.0, 2.0], {}),
        ([1.0, 2.0], [1.0, -2.0], {}),
        (np.float32([1, 2]), [1.0, 2.0001], {}),
        ([1e-9, 1.0], [1.0000001e-9, 1.0], {"each": True}),
        ([0.1 + 0.2], [0.3], {"limit": 0}),
        ([np.nan, 1.0], [np.nan, 1.0], {}),
        ([1.0, np.inf], [1.0, 1.0], {}),
        (np.zeros(2), [1e-13, 0.0], {}),
        ([3, 1], [3, 2], {}),
        ("relu", "relu6", {}),
        (np.ones(3), np.ones(4), {}),
        (np.ones((3, 1)), np.ones(3), {}),
    ],
)
def test_what_does_not_agree_raises(a, b, options):
    with pytest.raises(AssertionError, match="the two: "):
        records.agree("the two", a, b, **options)


def test_a_gap_that_is_no_number_is_not_within():
    assert records.bound(1e-13) == records.bound(1e-12) == "within 1e-12"
    assert records.bound(2e-12) == "2.0e-12" and records.bound(np.nan) == "nan"


def test_checks_are_noted(tmp_path, monkeypatch):
    monkeypatch.setenv(records.NOTES, str(tmp_path / "notes"))
    array = np.arange(6.0)
    records.agree("its own view", array[::2], array.reshape(3, 2)[:, 0])
    records.agree("constants", np.zeros(3), np.zeros(3))
    records.agree("two things", array + 1e-15, array, limit=1e-12)
    lines = (tmp_path / "notes").read_text(encoding="utf-8").splitlines()
    view, constants, good = map(json.loads, lines)
    assert view["same"] and not constants["same"] and not good["same"]
    assert constants["constant"] == [True, True] and good["constant"] == [False, False]
    assert (good["what"], good["limit"], good["fails when moved"]) == ("two things", 1e-12, True)
    assert 0 < good["gap"] < 1e-15


def python(code, **env):
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", env=os.environ | env
    )


def test_tensorflow_starts_without_a_word():
    done = python("import helpers.quiet_tensorflow, tensorflow as tf; print(int(tf.constant(2) + 1))")
    assert (done.stdout.split(), done.stderr, done.returncode) == (["3"], "", 0)


def test_a_failing_start_is_not_hushed_up(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'the reason'); raise ImportError('broken')", encoding="utf-8"
    )
    done = python(
        "import sys; sys.path.insert(0, sys.argv[0] or '.'); import helpers.quiet_tensorflow",
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode and "the reason" in done.stderr and "broken" in done.stderr


# Stands in for TensorFlow, which needs seconds to start; the first operation writes once more.
STAND_IN = """
import os
os.write(2, b"as loud as ever")
def constant(value):
    os.write(2, b"and louder")
    {}
    return value
"""
START = """
import os, sys
def open_descriptors():
    found = {}
    for number in range(64):
        try:
            found[number] = os.fstat(number)[:3]
        except OSError:
            pass
    return found
before = open_descriptors()
try:
    import helpers.quiet_tensorflow
except RuntimeError:
    print("failed")
print(open_descriptors() == before)
os.write(2, b" after")
"""


@pytest.mark.parametrize(
    ("line", "out", "error"),
    [("pass", "True", " after"), ("raise RuntimeError", "failed True", "as loud as everand louder after")],
)
def test_the_quiet_start_closes_what_it_opens(tmp_path, no_leftovers, line, out, error):
    (tmp_path / "tensorflow.py").write_text(STAND_IN.format(line), encoding="utf-8")
    done = python(START, PYTHONPATH=str(tmp_path))
    assert (done.stdout.split(), done.stderr) == (out.split(), error)
