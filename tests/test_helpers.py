"""Records, timing, plotting, the quiet start-up and the benchmark."""

import io
import json
import subprocess
import sys
from itertools import count

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import imread

from helpers import benchmark, plotting, records, timing


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
    for change in (
        dict(W=np.eye(2) + 1e-11),
        dict(W=np.eye(3)),
        dict(predictions=np.array([3, 2])),
        dict(new=1),
    ):
        assert records.save("01_x_numpy", a_record(**change))


def test_missing_record_names_the_command(folder):
    with pytest.raises(FileNotFoundError, match="python3 -m helpers run 01_x_keras"):
        records.load("01_x_keras")


def test_difference():
    def gap(key, a, b):
        return records.difference(key, np.asarray(a), np.asarray(b))

    assert gap("losses", [2.0, 1.0], [1.0, 1.0]) == 1.0  # relative
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


def test_checks_are_noted(tmp_path, monkeypatch):
    monkeypatch.setenv(records.NOTES, str(tmp_path / "notes"))
    array = np.arange(6.0)
    records.agree("its own view", array[::2], array.reshape(3, 2)[:, 0])
    records.agree("constants", np.zeros(3), np.zeros(3))
    records.agree("two things", array + 1e-15, array, limit=1e-12)
    view, constants, good = (json.loads(line) for line in (tmp_path / "notes").read_text().splitlines())
    assert view["same"] and not constants["same"] and not good["same"]
    assert constants["constant"] == [True, True] and good["constant"] == [False, False]
    assert (good["what"], good["limit"], good["fails when moved"]) == ("two things", 1e-12, True)
    assert 0 < good["gap"] < 1e-15


def test_pictures_carry_their_description(monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "display", lambda image, metadata: shown.append((image, metadata)))
    fig, ax = plt.subplots()
    plotting.curve(ax, np.ones(50), "Keras")
    ax.legend()
    plotting.show(fig, "A flat line at 1, over fifty steps.")
    image, metadata = shown[0]
    assert image.alt == "A flat line at 1, over fifty steps."
    drawn = metadata["image/png"]["drawn"]
    assert "line: Keras | #D55E00 -- None | 2" in drawn and "legend: Keras" in drawn
    assert not plt.get_fignums()

    with pytest.raises(ValueError, match="needs a description"):
        plotting.show(plt.figure(), "A line.")
    fig, ax = plt.subplots()
    ax.plot([1, 2], label="NumPy, float32", color=plotting.STYLES["PyTorch"]["color"])
    with pytest.raises(ValueError, match="not in the colour of NumPy"):
        plotting.show(fig, "A line from 1 to 2, in another's colour.")
    plt.close("all")


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds = timing.interleaved(calls, rounds=3, number=2)
    assert "".join(order) == "AB" + 3 * "AABB"
    assert all(len(values) == 3 and min(values) > 0 for values in seconds.values())


def test_calls_that_time_themselves():
    clock = count(1.0)
    assert timing.interleaved({"A": lambda: next(clock)}, rounds=3, number=None) == {"A": [2.0, 3.0, 4.0]}


def test_table_gives_median_quartiles_and_ratio(capsys):
    timing.table({"one": [1e-5, 2e-5, 3e-5], "two": [4e-6, 4e-6, 4e-6]}, relative_to="two")
    one, two = capsys.readouterr().out.splitlines()[1:]
    assert one.split() == ["one", "20", "us", "10", "to", "30", "5.00"] and two.split() == [
        "two",
        *"4.00 us 4.00 to 4.00 1.00".split(),
    ]
    with pytest.raises(KeyError):
        timing.table({"one": [1.0, 2.0]}, relative_to="three")


def test_tools_can_be_told_apart():
    assert list(plotting.STYLES) == list(records.TOOLS.values())
    for key in ("color", "linestyle"):
        assert len({style[key] for style in plotting.STYLES.values()}) == 3


def test_curve_averages_windows():
    fig, ax = plt.subplots()
    plotting.curve(ax, np.arange(6.0), "Keras", window=2)
    pale, full = ax.get_lines()
    np.testing.assert_array_equal(pale.get_ydata(), np.arange(6))
    np.testing.assert_array_equal(full.get_ydata(), [0.5, 2.5, 4.5])
    assert (full.get_color(), full.get_linestyle()) == ("#D55E00", "--")
    plt.close(fig)


def test_image_grid_places_images_row_by_row():
    fig, ax = plt.subplots()
    images = np.arange(1, 4)[:, None, None] * np.ones((3, 2, 2))
    plotting.image_grid(ax, images, columns=2, captions=["a", "b", "c"])
    canvas = ax.get_images()[0].get_array().filled(0)
    ranks = [np.argwhere(canvas == value).mean(axis=0) for value in (1, 2, 3)]
    assert ranks[0][0] == ranks[1][0] < ranks[2][0] and ranks[0][1] == ranks[2][1] < ranks[1][1]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]
    plt.close(fig)


def test_confusion_leaves_right_answers_white():
    fig, ax = plt.subplots()
    plotting.confusion(ax, np.array([[9, 1], [0, 8]]))
    shown = ax.get_images()[0].get_array()
    assert np.ma.getmaskarray(shown).tolist() == [[True, False], [True, True]]
    assert sorted(text.get_text() for text in ax.texts) == ["1", "8", "9"]
    plt.close(fig)


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


def test_show_keeps_the_colours_and_saves_bytes(monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "display", lambda image, metadata: shown.append(image))
    fig, ax = plt.subplots()
    plotting.curve(ax, np.random.default_rng(0).random(300), "NumPy")
    ax.axhline(0.5, linewidth=3, color=plotting.STYLES["Keras"]["color"])
    full = io.BytesIO()
    fig.savefig(full, format="png", bbox_inches="tight")
    plotting.show(fig, "Noise, and a line through the middle of it.")
    assert not plt.fignum_exists(fig.number)
    (image,) = shown
    assert len(image.data) < 0.6 * len(full.getvalue())
    drawn, before = (imread(io.BytesIO(data))[..., :3] for data in (image.data, full.getvalue()))
    assert drawn.shape == before.shape and np.abs(drawn - before).max() < 0.1
    orange = np.array([0xD5, 0x5E, 0x00]) / 255
    assert np.abs(drawn - orange).max(axis=-1).min() < 0.02


def test_benchmark_prints_every_candidate(capsys):
    assert benchmark.main(["--rounds", "2"]) == 0
    out = capsys.readouterr().out
    for name in (
        "five products alone",
        "bound: ",
        "NumPy, SGD",
        "PyTorch, Adam",
        "Keras fit, two dials, SGD",
    ):
        assert f"\n{name}" in out
    assert "PyTorch, SGD               / NumPy, SGD" in out
