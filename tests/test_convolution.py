"""What lesson 6 says of convolution is what it computes: its sentences, its pictures and its timers."""

import ast
import io
import re
from contextlib import redirect_stdout
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers import benchmark, lessons, plotting, records, timing
from helpers.records import TOOLS

LESSONS = ("06_convolution",)
PAGES = [f"06_convolution_{tool}" for tool in TOOLS]
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def lesson():
    with redirect_stdout(io.StringIO()):
        return lessons.load("06_convolution_numpy", until="shift-run", also=["padding-define"])


def source(page, cell_id):
    (cell,) = (cell for cell in lessons.cells(page) if cell.id == cell_id)
    return cell.source


def drawn(page, cell_id, monkeypatch, **namespace):
    """Run a cell that draws; return its figure, its description, and what it has drawn as grids."""
    shown, grids, image_grid = [], [], plotting.image_grid

    def noted(ax, images, columns, captions=None, signed=False):
        grids.append((np.array(images), captions, signed))
        image_grid(ax, images, columns, captions, signed)

    monkeypatch.setattr(plotting, "show", lambda fig, alt: shown.append((fig, alt)))
    monkeypatch.setattr(plotting, "image_grid", noted)
    with redirect_stdout(io.StringIO()):
        exec(source(page, cell_id), {"np": np, "plt": plt, "plotting": plotting} | namespace)
    ((fig, alt),) = shown
    plt.close(fig)
    return fig, alt, grids


def test_windows_are_laid_out_as_the_loops_read_them(lesson):
    X = np.random.default_rng(0).random((2, 7, 9, 3))
    R = lesson["windows"](X, k=3).reshape(2, 5, 7, 3, 3, 3)
    for i, j, u, v in np.ndindex(5, 7, 3, 3):
        assert np.array_equal(R[:, i, j, u, v], X[:, i + u, j + v])
    K, b = np.random.default_rng(1).random((3, 3, 3, 4)), np.arange(4.0)
    Z = lesson["windows"](X[:1], k=3) @ K.reshape(27, 4) + b
    np.testing.assert_allclose(Z.reshape(5, 7, 4), lesson["by_loops"](X[0], K, b), rtol=1e-12)


def test_windows_and_their_way_back_are_transposes(lesson):
    # <windows(X) W, Z> = <X, windows_back(Z, W)>: no pixel's copy is lost or counted twice.
    rng = np.random.default_rng(2)
    X, W = rng.random((2, 9, 8, 3)), rng.random((27, 4))
    Z = rng.random((2 * 7 * 6, 4))
    there, back = lesson["windows"](X, 3) @ W, lesson["windows_back"](Z, W, X, 3)
    assert (there * Z).sum() == pytest.approx((X * back).sum(), rel=1e-12)


def test_pooling_gives_away_each_gradient_once_and_to_the_first(lesson):
    rng = np.random.default_rng(3)
    A, dM = rng.integers(0, 2, (3, 6, 8, 2)).astype(float), rng.random((3, 3, 4, 2))
    M = lesson["pool"](A)
    dA = lesson["unpool"](dM, A, M)
    for n, i, j, f in np.ndindex(M.shape):
        block = A[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, f]
        given = np.zeros(4)
        given[block.ravel().argmax()] = dM[n, i, j, f]
        assert M[n, i, j, f] == block.max()
        assert np.array_equal(dA[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, f].ravel(), given)


@pytest.mark.parametrize("page", PAGES)
def test_the_key_points_send_the_gradient_to_the_first(page):
    assert "the gradient to the first of the largest" in source(page, "key-points")


def test_careless_pooling_hands_out_more_than_it_got(ran):
    line = re.search(r"in (\S+), out (\S+), to all the largest (\S+)", ran(PAGES[0]).text("pooling-check"))
    given, out, careless = map(float, line.groups())
    assert given == out == 5 + 7 and careless == 2 * 5 + 4 * 7


def test_a_shift_leaves_paper_behind_and_loses_what_goes(lesson):
    X = 1 + np.arange(2 * 28 * 28.0).reshape(2, 28, 28, 1)
    moved = lesson["moved"](X, 5)
    assert not moved[:, :, :5].any() and np.array_equal(moved[:, :, 5:], X[:, :, :23])
    assert np.array_equal(lesson["moved"](X, 0), X)


def measured(ran, page):
    """The table of the shift, column by column: pixels, the MLP, ours, the share that loses ink."""
    rows = re.findall(r"^ +(\d) ([\d.]+)  ([\d.]+)  (\d+)%$", ran(page).text("shift-run"), re.M)
    return np.array(rows, float).T


def test_lesson_3s_network_takes_as_many_steps(lesson):
    own = lessons.load("03_mlp_numpy", until="train-define")
    params = [w.copy() for w in own["start"]]
    own["train"](params, own["sgd"], lesson["batches"])
    for ours, theirs in zip(lesson["mlp"], params, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    right = np.mean(lesson["mlp_answers"](lesson["X_test"]) == lesson["y_test"])
    assert right == np.mean(own["forward"](own["X_test"], *params)[-1].argmax(axis=1) == own["y_test"])


def test_kerass_glorot_draws_less_for_a_convolution():
    keras = pytest.importorskip("tensorflow").keras
    layer = keras.layers.Conv2D(8, 5)
    layer.build((None, 28, 28, 1))
    limit = np.abs(layer.kernel.numpy()).max()
    assert "for a Conv2D, Keras draws less" in source(PAGES[0], "data-start")
    assert limit < np.sqrt(6 / (25 + 25 * 8)) + 1e-6 < np.sqrt(6 / (25 + 8))


@pytest.mark.parametrize("page", PAGES)
def test_the_story_of_the_shift_is_what_was_measured(ran, page):
    pixels, theirs, ours, lost = measured(ran, page)
    assert [*pixels] == [*range(7)]
    assert (ours > theirs).all()  # more digits after as many steps, and later
    assert ours[-1] < 0.25  # and yet
    changes = [int(change) for change in re.findall(r"change by (\d+)%", ran(page).text("shift-check"))]
    assert 10 < changes[0] < changes[1] < 100  # softened
    trained, moved = map(float, re.findall(r"0\.\d+", ran(page).text("shift-along")))
    assert trained == ours[4] and ours[0] - 0.03 < moved <= ours[0]  # nearly all are back
    assert lost[0] == 0 and (np.diff(lost) >= 0).all() and lost[-1] > 30
    said = ran(page).record["features"]
    assert said.std(axis=(0, 1)).max() > 0.1  # of a digit, and not of blank paper


@pytest.mark.parametrize("page", PAGES)
def test_each_curve_of_the_shift_has_its_own_name(page, monkeypatch):
    numbers = dict(FARTHEST=3, pixels=np.arange(4), ours=np.linspace(0.9, 0.2, 4))
    numbers["theirs"] = numbers["ours"] - np.array([0, 0.1, 0.15, 0.1])
    fig, alt, _ = drawn(page, "shift-picture", monkeypatch, **numbers)
    (ax,) = fig.axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert np.array_equal(lines["MLP"], numbers["theirs"])
    assert np.array_equal(lines["ours"], numbers["ours"])
    assert ax.get_ylim() == (0, 1) and {text.get_text() for text in ax.get_legend().get_texts()} <= {*lines}
    assert "MLP from 0.90 over 0.57 to 0.10, ours from 0.90" in alt and "up to 0.15" in alt


@pytest.mark.parametrize("page", PAGES)
def test_the_filters_stand_as_they_are_first_at_the_start(lesson, page, monkeypatch):
    W1, maps = lesson["trained"][0], lesson["maps"]
    grids = drawn(page, "look-picture", monkeypatch, start=lesson["start"], W1=W1, maps=maps)[2]
    for (images, _, signed), W in zip(grids, (lesson["start"][0], W1), strict=False):
        assert signed and len(images) == 8
        for f, image in enumerate(images):
            assert np.array_equal(image.ravel(), W[:, f])
    assert np.array_equal(grids[2][0], maps) and len(grids) == 3


def test_training_hardly_turns_the_filters(ran):
    (least, most) = map(int, re.findall(r"(\d+) to (\d+) degrees", ran(PAGES[0]).text("look-picture"))[0])
    assert 0 < least < most < 30


@pytest.mark.parametrize("page", PAGES)
def test_the_seven_finds_its_lower_edges(page, lesson, monkeypatch):
    names = ("seven", "by_loops")
    _, _, grids = drawn(page, "convolution-picture", monkeypatch, **{name: lesson[name] for name in names})
    answers, ink = grids[1][0][0], lesson["seven"][..., 0]
    i, j = np.unravel_index(answers.argmax(), answers.shape)
    above, below = ink[i : i + 2, j : j + 5].mean(), ink[i + 3 : i + 5, j : j + 5].mean()
    assert above > 0.5 > 0.2 > below


@pytest.mark.parametrize("page", PAGES)
def test_the_two_paddings_are_said_and_drawn_as_they_are(lesson, page, monkeypatch):
    seven, K = lesson["seven"], lesson["W1"].reshape(5, 5, 1, 8)[..., :1]
    both = {}
    for tool, (before, after) in {"Keras": (1, 2), "PyTorch": (2, 2)}.items():
        padded = np.pad(seven[..., 0], ((before, after), (before, after)))
        V = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[::2, ::2]
        both[tool] = np.tensordot(V, K[..., 0, 0], 2)[..., None]
    for tool, answers in both.items():
        for name in TOOLS.keys() - {"pytorch" if tool == "Keras" else "keras"}:
            kept = records.load(f"06_convolution_{name}")[f"same ({tool}'s)"]
            np.testing.assert_allclose(kept, answers, atol=1e-12)
    text = source(page, "padding")
    assert "$p = k - 2$" in text and 1 + 2 == 5 - 2  # what Keras's windows have taken
    assert "the larger half goes below" in text and "`padding=2`: two on each side" in text

    _, _, grids = drawn(page, "padding-picture", monkeypatch, same=both)
    ((images, titles, _),) = grids
    assert titles == ["Keras's", "PyTorch's", "the difference"]
    for image, one in zip(images, (*both.values(), both["Keras"] - both["PyTorch"]), strict=True):
        assert np.array_equal(image, one[..., 0])


@pytest.mark.parametrize("page", PAGES)
def test_the_corner_has_so_many_entries_of_padding(page, ran):
    corner = ran(page).record["average (PyTorch's)"][0]
    (said,) = re.findall(r"In a corner, (\w+) of nine entries are padding", source(page, "average"))
    assert WORDS.index(said) == round(9 * (1 - corner)) and ran(page).record["average (Keras's)"][0] == 1


def test_the_defaults_of_batch_norm_are_those_of_the_tools():
    torch, keras = pytest.importorskip("torch"), pytest.importorskip("tensorflow").keras
    theirs, its = torch.nn.BatchNorm1d(5).momentum, keras.layers.BatchNormalization().momentum
    for page in PAGES:
        text = source(page, "norm")
        assert f"its momentum is $1 - \\mu$, by default {theirs}" in text
        assert f"Keras's is $\\mu$, by default {its}." in text
    assert torch.nn.BatchNorm1d(5).eps != keras.layers.BatchNormalization().epsilon  # "differ, too"


def test_in_testing_batch_norm_differs(ran):
    said = re.search(r"tested, they differ by (\S+)", ran(PAGES[0]).text("norm-check"))
    keras, pytorch = (
        ran(f"06_convolution_{tool.lower()}").record[f"tested ({tool}'s)"] for tool in ("Keras", "PyTorch")
    )
    apart = np.abs(keras - pytorch).max()
    assert apart > 0.01 and float(said[1]) == pytest.approx(apart, rel=0.1)


@pytest.mark.parametrize("page", PAGES)
def test_masks_keep_the_mean(page):
    scope = {"np": np, "DTYPE": "float64", "BATCH": 32, "batches": np.zeros((1, 1, 32), int)}
    scope |= {"features": lambda X: np.ones((32, 4, 4, 16)), "X_train": np.zeros((1, 28, 28, 1))}
    with redirect_stdout(io.StringIO()):
        exec(source(page, "dropout-define"), scope)
    assert {*np.unique(scope["masks"])} == {0, 2} and abs(scope["masks"].mean() - 1) < 0.02


@pytest.mark.parametrize("page", PAGES)
def test_flatten_in_the_other_order_is_guessing(ran, page):
    right, wrong = map(float, re.findall(r"accuracy ([\d.]+)", ran(page).text("first-flatten")))
    assert right > 0.9 > 0.4 > wrong


def test_tensorflow_refuses_channels_first(ran):
    assert ran(PAGES[1]).text("first-run").splitlines() == [
        "call raises UnimplementedError",
        "fit raises InvalidArgumentError",
        "fit, by XLA works",
        "Flatten, told the order: within 1e-14",
    ]


def test_the_two_orders_of_pytorch_are_two(ran):
    first, last = re.findall(r"strides \((.+)\)", ran(PAGES[2]).text("first-run"))
    assert first == "1024, 64, 8, 1" and last == "1024, 1, 128, 16"
    timed = benchmark.load(PAGES[2], "measure-define", "measure-last")
    seen = []
    with mock.patch.dict(timed, train_step=lambda X, y, net, sgd: seen.append(net[0](X).stride()[1])):
        timed["step_timer"]("float32")()
        timed["step_timer"]("float32", prepare=timed["last"])()
    assert seen == [24 * 24, 24 * 24] or seen == [24 * 24, 1]


def test_keras_is_timed_in_whole_executions():
    (rows,) = re.findall(r"rows=(\d+) \* BATCH", source(PAGES[1], "measure-timer"))
    (many,) = re.findall(r'"steps_per_execution": (\d+)', source(PAGES[1], "measure-step"))
    assert int(rows) % int(many) == 0 and int(rows) >= 3 * int(many)


@pytest.mark.parametrize("page", PAGES)
def test_in_short_reads_digits(ran, page):
    cell = "in-short-look" if page.endswith("keras") else "in-short-train"
    assert float(re.search(r"test accuracy ([\d.]+)", ran(page).text(cell))[1]) >= 0.94


def test_in_short_holds_back_what_it_validates_on():
    from helpers.data import load_mnist

    (x_train, y_train), (x_test, _) = load_mnist()
    exec(source(PAGES[0], "in-short-parts"), scope := {})
    for name, images in {"X": x_train[:3600], "X_val": x_train[3600:], "X_test": x_test}.items():
        np.testing.assert_array_equal(scope[name][..., 0], images.astype("float32") / 255)
    assert np.array_equal(scope["Y"].argmax(1), y_train[:3600])
    assert np.array_equal(scope["Y_val"].argmax(1), y_train[3600:])


@pytest.mark.parametrize("page", PAGES)
def test_what_is_predicted_is_what_comes_out(ran, page):
    first = ast.parse(source(page, "exercise-predict-solution")).body[0]
    shape, count = ast.literal_eval(first.value)
    assert ran(page).text("exercise-predict-solution").split() == [
        "shape",
        *map(str, shape),
        "parameters",
        str(count),
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_solutions_comments_are_right(ran, page):
    here, there = map(float, re.findall(r"0\.\d+", ran(page).text("exercise-build-solution")))
    flat_here, flat_there = measured(ran, page)[2][[0, 4]]
    assert here < flat_here and there > flat_there and here - there < 0.1 < flat_here - flat_there
    shuffled = float(ran(page).text("exercise-modify-solution").split()[-1])
    assert shuffled < flat_here - 0.05


# The ledger


def owners(tool):
    """Who owns what, as the program shows it."""
    program = "\n".join(
        cell.source
        for cell in lessons.cells(f"06_convolution_{tool}")
        if "program" in cell.metadata.get("tags", ())
    )
    named = {node.name for node in ast.walk(ast.parse(program)) if isinstance(node, ast.FunctionDef)}
    steps = re.search(r"train_step\(X, [Yy], \w+", program) is not None
    own_gradient, asked = "backward" in named, ".backward()" in program
    return {
        "ties": "ours" if "unpool" in named else "the tool's",
        "loop": "ours" if steps and "net.fit(" not in program else "the tool's",
        "gradient": "ours" if own_gradient else "on request" if asked else "the tool's",
        "pooling": "ours" if "pool" in named else None,
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_the_ledger_says_whose_line_it_is(tool):
    table = source(f"06_convolution_{tool}", "ledger-table").splitlines()[2:]
    said = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in table}
    for stage, owner in owners(tool).items():
        assert owner is None or said[stage].startswith(owner), stage
    assert len({*said}) == 6


# Time


@pytest.mark.parametrize("page", PAGES)
def test_eight_products_are_those_of_a_step(lesson, page):
    scope = {"np": np, "BATCH": 32, "start": lesson["start"]}
    exec(source(page, "measure-products"), scope)
    shapes, flop = [], 0
    products = scope["products_timer"]("float32")()
    for product in products:
        assert product.dtype == "float32"
        shapes.append(product.shape)
    # Forwards: answers. Backwards: a gradient for each kernel, and for what came in but the image.
    expected = [(18432, 8), (2048, 16), (32, 10), (256, 10), (32, 256), (200, 16), (2048, 200), (25, 8)]
    assert shapes == expected
    inner = (25, 200, 256, 32, 10, 2048, 16, 18432)
    flop = sum(2 * np.prod(shape) * k for shape, k in zip(shapes, inner, strict=True))
    assert flop == benchmark.FLOP_CONVOLUTION


@pytest.fixture(scope="module")
def numpy_timer():
    return benchmark.load("06_convolution_numpy", "measure-products", "measure-define")


def test_numpys_step_timer_trains(numpy_timer):
    seen, train_step = [], numpy_timer["train_step"]

    def noted(X, Y, params):
        before = [w.copy() for w in params]
        train_step(X, Y, params)
        seen.append((X, Y, before, [w.copy() for w in params]))

    with mock.patch.dict(numpy_timer, train_step=noted):
        call = numpy_timer["step_timer"]("float32")
        call(), call()
    assert_trains(numpy_timer, seen)


def assert_trains(lesson, seen):
    """Two steps of SGD from the start on the first two batches, all in float32."""
    weights = [w.astype("float32") for w in lesson["start"]]
    for rows, (X, Y, before, after) in zip(lesson["batches"][0][:2], seen, strict=True):
        np.testing.assert_array_equal(X, lesson["X_train"][rows].astype("float32"), strict=True)
        Y = lesson["Y_train"][rows].astype("float32") if Y is None else Y
        kept = lesson["forward"](X, *before)
        grads = lesson["backward"](Y, before[2], before[4], *kept)
        for old, new, first, dw in zip(before, after, weights, grads, strict=True):
            np.testing.assert_allclose(old, first, rtol=1e-6)
            assert new.dtype == "float32"
            np.testing.assert_allclose(new - old, -lesson["LEARNING_RATE"] * dw, rtol=5e-3, atol=2e-6)
        weights = after


@pytest.mark.parametrize("last", [False, True])
def test_pytorchs_step_timer_trains(numpy_timer, last):
    pytest.importorskip("torch")
    lesson, seen = benchmark.load("06_convolution_pytorch", "measure-define", "measure-last"), []
    train_step, flat = lesson["train_step"], lesson["flat"]

    def noted(X, y, net, optimizer):
        before = flat(net.parameters())
        train_step(X, y, net, optimizer)
        seen.append((X.permute(0, 2, 3, 1).numpy(), None, before, flat(net.parameters())))

    with mock.patch.dict(lesson, train_step=noted):
        call = lesson["step_timer"]("float32", prepare=lesson["last"] if last else None)
        call(), call()
    assert_trains(numpy_timer, seen)


def noted_times(page, **names):
    """What the cell measure-step hands to the clock, by label."""
    calls = {}

    def interleaved(new, **_):
        calls.update(new)
        return {label: [1.0, 2.0, 3.0] for label in new}

    clock = SimpleNamespace(interleaved=interleaved, table=lambda seconds: None)
    scope = {"np": np, "timing": clock, "BATCH": 32, "DTYPE": "float64"}
    scope |= {"threadpool_limits": mock.MagicMock()} | names
    with redirect_stdout(io.StringIO()):
        exec(source(page, "measure-step"), scope)
    return calls


@pytest.mark.parametrize("tool", TOOLS)
def test_each_row_times_what_its_label_says(tool):
    def timer(kind):
        return lambda dtype, prepare=None, **dials: (kind, dtype, prepare, *dials)

    names = {f"{kind}_timer": timer(kind) for kind in ("step", "fit", "products")}
    names |= dict(torch=mock.Mock(), keras=mock.Mock(), last="last", alone=("products", "float32", None))
    calls = noted_times(f"06_convolution_{tool}", **names)
    assert len(calls) >= 3
    for label, (kind, dtype, prepare, *dials) in calls.items():
        assert dtype == (re.findall(r"float\d\d", label) or ["float32"])[0], label
        assert (kind == "products") == ("products" in label), label
        assert (prepare == "last") == ("last" in label), label
        assert dials == (["steps_per_execution"] if "steps_per_execution" in label else []), label


def test_the_table_of_the_benchmark_names_what_it_times(monkeypatch):
    def loaded(name, *also, **_):
        tool = name.rpartition("_")[2]
        step = lambda dtype, prepare=None, **dials: (tool, dtype, prepare, dials)  # noqa: E731
        torch = SimpleNamespace(compile="compile")
        return {"step_timer": step, "fit_timer": step, "products_timer": step, "last": "last", "torch": torch}

    monkeypatch.setattr(benchmark, "load", loaded)
    monkeypatch.setattr(benchmark, "self_timed", lambda call, number=50: call)
    monkeypatch.setattr(benchmark, "bound_timer", lambda flop: ("bound", "float32", flop, {}))
    with redirect_stdout(io.StringIO()) as printed:
        _, calls, pairs = benchmark.convolution()
    assert "can't compile" in printed.getvalue()  # a tuple can't be called
    row = "bound: 54.6 MFLOP at this machine's best"
    assert calls[row] == ("bound", "float32", benchmark.FLOP_CONVOLUTION, {})
    assert calls["NumPy"] == ("numpy", "float32", None, {}) == calls["eight products alone"]
    assert calls["PyTorch"] == ("pytorch", "float32", None, {})
    assert calls["PyTorch, channels last"] == ("pytorch", "float32", "last", {})
    assert calls["Keras fit as shipped"] == ("keras", "float32", None, {})
    assert calls["Keras fit, a dial"] == ("keras", "float32", None, {"steps_per_execution": 16})
    assert {name for pair in pairs for name in pair} <= calls.keys() | {"PyTorch, compiled"}


def test_a_table_prints_its_rows_and_the_ratios_of_those_it_has(monkeypatch, capsys):
    table = ("a network", {"one": lambda: 2.0, "two": lambda: 4.0}, [("two", "one"), ("three", "one")])
    monkeypatch.setattr(benchmark, "TABLES", {"mine": lambda: table})
    monkeypatch.setattr(benchmark, "threadpool_limits", lambda number: None)
    monkeypatch.setattr(benchmark.os, "environ", {})
    assert benchmark.main(["--rounds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "One training step, a network, batches of 32, float32, 1 thread, 3 interleaved" in printed
    assert re.search(r"two +/ one +2\.00\n", printed) and "three" not in printed
    assert timing.median([1, 2, 9]) == 2
