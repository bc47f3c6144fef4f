"""Timing repeats as often as it says, and what the lessons and the benchmark time really trains.

What needs TensorFlow or PyTorch is looked at in one process of its own: `observe`, below.
"""

import contextlib
import inspect
import io
import itertools
import os
import pickle
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from helpers import ROOT, THREADS, benchmark, lessons, timing

LESSONS = (
    "01_matmul",
    "02_gradient",
    "03_mlp",
    "04_optimizers",
    "05_custom_training",
    "20_equality",
    "22_key_differences",
)
TOOLS = ("numpy", "keras", "pytorch")


class Clock:
    """A clock that stands still until a call made by `call` moves it on."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return self.now

    def call(self, seconds):
        """Return a function that takes so many seconds (always, or in turn) and counts its calls."""
        seconds = itertools.repeat(seconds) if isinstance(seconds, float) else iter(seconds)

        def call():
            call.count += 1
            self.now += next(seconds)

        call.count = 0
        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.read)
    return clock


# helpers/timing.py


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "AB"}
    timing.interleaved(calls, rounds=3, number=2)
    assert "".join(order) == "AB" + 3 * "AABB"


def test_each_turn_is_divided_by_its_calls(clock):
    calls = {"A": clock.call([100.0, 1.0, 2.0, 3.0, 4.0]), "B": clock.call(itertools.count(10.0))}
    seconds = timing.interleaved(calls, rounds=2, number=2)
    assert seconds == {"A": [1.5, 3.5], "B": [11.5, 13.5]}  # without the first, untimed call
    assert clock.now == 110 + 1 + 2 + 3 + 4 + 11 + 12 + 13 + 14


def test_calls_are_repeated_as_often_as_the_signature_says(clock):
    call = clock.call(1.0)
    assert timing.interleaved({"": call}) == {"": [1.0] * 15}
    assert call.count == 1 + 15 * 50


def test_calls_that_time_themselves():
    clock = itertools.count(1.0)
    assert timing.interleaved({"A": lambda: next(clock)}, rounds=3, number=None) == {"A": [2.0, 3.0, 4.0]}


def test_the_median_is_the_middle():
    assert timing.median([5.0, 1.0, 100.0]) == 5 and timing.median([4.0, 1.0, 100.0, 2.0]) == 3


def test_table_gives_median_quartiles_and_ratio(capsys):
    seconds = {"one": [9e-5, 1e-5, 2e-5], "two": [4e-6, 4e-6, 4e-6]}
    timing.table(seconds, relative_to="two")
    head, one, two = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["median", "quartiles", "ratio"]
    assert one == ["one", "20", "us", "10", "to", "90", "5.00"]
    assert two == ["two", "4.00", "us", "4.00", "to", "4.00", "1.00"]
    timing.table(seconds)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == ["1.00", "0.20"]
    with pytest.raises(KeyError):
        timing.table({"one": [1.0, 2.0]}, relative_to="three")


# The tables of the lessons: what stands beside a label is what was timed, and is divided by what it says


class NotedTimes:
    """Stands in for helpers.timing in a cell: notes what would be timed; it takes 9 seconds, and then 8."""

    def __init__(self):
        self.calls, self.numbers, self.tables, self.median = {}, [], [], timing.median

    def interleaved(self, calls, rounds=15, number=50):
        self.calls |= calls
        self.numbers.append(number)
        return {name: [9.0, 8.0] for name in calls}

    def table(self, seconds, relative_to=None):
        self.tables.append(seconds)


def run_cell(name, cell_id, namespace):
    """Run one cell of a notebook in `namespace`, with a stand-in for the timing, and return that."""
    (cell,) = (cell for cell in lessons.cells(name) if cell.id == cell_id)
    namespace["timing"] = NotedTimes()
    exec(cell.source, namespace)
    return namespace["timing"]


def asked(kind):
    """Return a stand-in for a timer of lesson 3 that answers with what it was asked for."""

    def timer(dtype, optimizer="sgd", size=32, make_optimizer=None, **options):
        adam = "adam" in str(make_optimizer or optimizer).lower()
        return SimpleNamespace(kind=kind, dtype=dtype, adam=adam, size=size, **options)

    return timer


def lesson_3_with_stand_ins():
    """A namespace for the measuring cells of lesson 3, in which nothing is trained."""
    torch, keras = mock.MagicMock(), mock.MagicMock()
    torch.optim.Adam = "Adam"
    timers = {f"{kind}_timer": asked(kind) for kind in ("step", "fit", "products")}
    constants = dict(BATCH=32, DTYPE="float64", threadpool_limits=contextlib.nullcontext)
    return timers | dict(torch=torch, keras=keras, **constants)


@pytest.mark.parametrize("tool", TOOLS)
def test_each_row_of_lesson_3_times_what_its_label_says(tool):
    noted = run_cell(f"03_mlp_{tool}", "measure-step", lesson_3_with_stand_ins())
    assert list(noted.tables[0]) == list(noted.calls) and len(noted.calls) >= 3
    assert len({str(call) for call in noted.calls.values()}) == len(noted.calls)
    for label, call in noted.calls.items():
        (dtype,) = re.findall(r"float\d\d", label) or ["float32"]
        assert (call.dtype, call.adam, call.size) == (dtype, "Adam" in label, 32), label
        assert (call.kind == "products") == ("products" in label), label
        assert getattr(call, "fused", False) == ("fused" in label), label
        assert getattr(call, "jit_compile", False) == ("jit" in label or "both" in label), label
        many = "steps_per_execution" in label or "both" in label
        assert getattr(call, "steps_per_execution", 1) == (16 if many else 1), label


@pytest.mark.parametrize("tool", TOOLS)
def test_each_batch_size_of_lesson_3_is_divided_by_itself(tool):
    noted = run_cell(f"03_mlp_{tool}", "measure-batch", lesson_3_with_stand_ins())
    sizes = [call.size for call in noted.calls.values()]
    assert len(sizes) >= 3 and {call.dtype for call in noted.calls.values()} == {"float32"}
    assert noted.tables == [{f"batch {n}": [9 / n, 8 / n] for n in sizes}]
    for label, size in zip(noted.calls, sizes, strict=True):
        assert str(label).split()[-1] == str(size)


MADE = {  # what lesson 4 calls each: its class, and its momentum
    "SGD": ("SGD", 0),
    "momentum": ("SGD", 0.9),
    "RMSprop": ("RMSprop", 0),
    "Adam": ("Adam", 0),
}


@pytest.mark.parametrize("tool", ["keras", "pytorch"])
def test_each_row_of_lesson_4_times_the_optimizer_of_its_label(tool):
    def timer(dtype, optimizer, **options):
        assert dtype == "float32"
        return optimizer(**options) if callable(optimizer) else optimizer

    def maker(name):
        return lambda *_, momentum=0, **__: (name, momentum)

    optimizers = SimpleNamespace(**{name: maker(name) for name in ("SGD", "RMSprop", "Adam")})
    loaded = mock.Mock(return_value={"fit_timer": timer, "step_timer": timer})
    lesson = dict(SMALL=0.001, keras=mock.Mock(optimizers=optimizers), lessons=SimpleNamespace(load=loaded))
    lesson |= dict(torch=mock.Mock(optim=optimizers), sgd=optimizers.SGD)
    noted = run_cell(f"04_optimizers_{tool}", "measure-step", lesson)
    assert noted.calls == MADE and list(noted.tables[0]) == list(MADE)
    assert loaded.call_args.args == (f"03_mlp_{tool}",)


def test_numpys_optimizers_are_timed_while_they_move_weights():
    lesson = lessons.load("04_optimizers_numpy", until="lesson-3")
    noted = run_cell("04_optimizers_numpy", "measure-step", lesson)
    assert list(noted.calls) == ["SGD", "Momentum", "RMSprop", "Adam"] and noted.numbers == [10]
    for name, call in noted.calls.items():
        around = inspect.getclosurevars(call).nonlocals
        before = [w.copy() for w in around["params"]]
        expected = [w.copy() for w in before]
        call()
        lesson[name](expected, lesson["SMALL"]).step(expected, around["grads"])
        for w, one, other in zip(before, around["params"], expected, strict=True):
            assert np.array_equal(one, other) and not np.array_equal(one, w), name


@pytest.mark.parametrize("tool", ("numpy", "pytorch"))
def test_each_row_of_lesson_5_times_the_change_of_its_label(tool):
    names = ("lesson 3", "smoothing", "focal", "stairs", "two", "penalty")
    page = dict(runs={name: name for name in names}, BATCH=32, threadpool_limits=contextlib.nullcontext)
    noted = run_cell(f"05_custom_training_{tool}", "measure-step", page | dict(timer=str, torch=mock.Mock()))
    assert noted.calls == {name: name for name in names} and noted.numbers == [None]


def test_each_row_of_lesson_5_times_the_keras_of_its_label():
    page = dict(BATCH=32, TwoOptimizers="train_step", Penalised="compute_loss")
    page |= dict(timer=lambda kind="lesson 3's step": kind)
    noted = run_cell("05_custom_training_keras", "measure-step", page)
    assert len(noted.calls) == 3
    for label, kind in noted.calls.items():
        assert label.startswith(kind), label


@pytest.mark.parametrize("tool", TOOLS)
def test_a_step_of_lesson_5_is_one_step(tool, clock):
    # The timer runs so many steps, and divides by as many.
    ran, numbers = [], np.zeros((1, 125, 32), int)
    page = dict(batches=numbers, start=[], LEARNING_RATE=0.1, BATCH=32, loss_fn=None, lesson=mock.MagicMock())
    page |= dict(keras=mock.MagicMock(), X_train=np.zeros((4000, 1)), Y_train=np.zeros((4000, 1)))
    page |= dict(time=time)
    (cell,) = (cell for cell in lessons.cells(f"05_custom_training_{tool}") if cell.id == "measure-timer")
    exec(cell.source, page)

    def run(start, batches):
        ran.append(batches.shape[1])
        clock.now += 3.0 * batches.shape[1]

    def fit(X, Y, batch_size, verbose):
        ran.append(-(-len(X) // batch_size))
        clock.now += 3.0 * ran[-1]

    net = SimpleNamespace(compile=lambda *_, **__: None, fit=fit)
    seconds = page["timer"](lambda layers: net, rows=320) if tool == "keras" else page["timer"](run)
    assert seconds() == 3.0 and ran == [10 if tool == "keras" else 25]


def test_lesson_1_computes_its_rates_from_the_best_times(capsys):
    lesson = {"np": np, "tool_call": lambda n: ("tool", n)}
    noted = run_cell("01_matmul_numpy", "measure-define", lesson)
    assert lesson["seconds_by_size"](lesson["tool_call"], [2, 10, 64, 200]).tolist() == [8] * 4
    assert noted.numbers == [1000, 1000, 3, 1]  # small products are repeated, so that a turn isn't too short
    assert noted.calls == {n: ("tool", n) for n in (2, 10, 64, 200)}

    rates = {lesson["tool_call"]: 5.0, lesson["loop_call"]: 0.01}  # GFLOP/s; a product takes 2 n³ operations
    lesson["seconds_by_size"] = lambda call, sizes: 2e-9 * sizes**3.0 / rates[call]
    run_cell("01_matmul_numpy", "measure-run", lesson)
    printed = capsys.readouterr().out
    for words in (
        "ran at 5 GFLOP/s",
        "same time at n = 4\n",
        "reaches 0.010 GFLOP/s, 500 times less",
        "need 29 minutes, the tool 3.44 seconds",
    ):
        assert words in printed


# What is timed: `observe` looks at it, in a process of its own for Keras and PyTorch, and the tests judge


def calls_of_lessons_1_and_2(tool):
    """Return what each call that lessons 1 and 2 time returns, as lists of arrays by label, by cell."""
    one = lessons.load(f"01_matmul_{tool}", also=["measure-tool", "measure-define"])
    one |= {"peak": 1.0}
    found = {"measure-define": {name: _arrays(one[name](48)()) for name in ("tool_call", "loop_call")}}
    for cell in ("measure-small", "measure-types"):
        calls = run_cell(f"01_matmul_{tool}", cell, one).calls
        found[cell] = {label: _arrays(call()) for label, call in calls.items()} | {"L": _arrays(one["L"])}
    two = lessons.load(f"02_gradient_{tool}")
    calls = run_cell(f"02_gradient_{tool}", "measure-large", two).calls
    found["gradient"] = {label: _arrays(call()) for label, call in calls.items()}
    return found


def _arrays(result):
    """A number, an array, or a list or dict of them, of any tool, as a list of NumPy's arrays."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, tuple) or (isinstance(result, list) and not isinstance(result[0], list)):
        return [array for part in result for array in _arrays(part)]
    result = getattr(result, "data", result) if type(result).__name__ == "Value" else result
    return [] if result is None else [np.asarray(result.detach() if hasattr(result, "detach") else result)]


def steps_of(lesson, call):
    """Return what two calls train, with lesson 3's own step: for each step what went in and what came out."""
    steps, train_step = [], lesson["train_step"]
    weights = lesson.get("get_weights") or (lambda params: [array.copy() for array in params])

    def noted(X, y, model, update):
        before = weights(model)
        train_step(X, y, model, update)
        steps.append((np.asarray(X), np.asarray(y), before, weights(model)))

    lesson["train_step"] = noted
    call(), call()
    lesson["train_step"] = train_step
    return dict(start=lesson["start"], rows=lesson["batches"][0].ravel(), steps=steps)


def fits_of(lesson, call):
    """Return what two calls of a timer of Keras's `fit` train, by a clock that ticks once when it is read."""
    net = inspect.getclosurevars(call).nonlocals["net"]
    fit, before, noted = net.fit, net.get_weights(), {}

    def noted_fit(X, Y, **options):
        noted.update(options, X=X, Y=Y)
        fit(X, Y, **options)

    net.fit, lesson["time"] = noted_fit, SimpleNamespace(perf_counter=itertools.count().__next__)
    return dict(
        seconds=[call(), call()],
        steps=int(net.optimizer.iterations.numpy()),
        before=before,
        after=net.get_weights(),
        layers=[(layer.units, layer.activation.__name__) for layer in net.layers],
        compiled=(
            type(net.optimizer).__name__.lower(),
            net.loss,
            bool(net.jit_compile),
            net.steps_per_execution,
        ),
        batch_size=noted["batch_size"],
        data=(noted["X"], noted["Y"]),
    )


def threads():
    """Return how many threads each library of products has."""
    return {pool["num_threads"] for pool in threadpool_info()}


def observe_benchmark():
    """Run the benchmark with seconds made up, and look at what each of its rows calls."""
    import torch

    loaded, found, asked_for, load = {}, {}, {}, lessons.load
    threadpool_limits(2)

    def noted_load(name, **options):
        found.setdefault("environment", [os.environ.get(variable) for variable in THREADS])
        loaded[name] = load(name, **options)
        if "pytorch" in name:
            torch.set_num_threads(2)
        if "keras" in name:  # shorter epochs are enough here
            loaded[name] |= {data: loaded[name][data][:800] for data in ("X_train", "Y_train")}
        return loaded[name]

    def interleaved(calls, rounds, number):
        asked_for.update(calls=calls, rounds=rounds, number=number)
        found["threads"] = threads() | {torch.get_num_threads()}
        return {name: [place, place] for place, name in enumerate(calls, start=1)}

    printed = io.StringIO()
    with (
        mock.patch.object(lessons, "load", noted_load),
        mock.patch.object(timing, "interleaved", interleaved),
        mock.patch.object(benchmark, "self_timed", lambda call, number=50: call),
        contextlib.redirect_stdout(printed),
    ):
        found["code"] = benchmark.main(["--rounds", "3"])
    found |= {"printed": printed.getvalue(), "turns": (asked_for["rounds"], asked_for["number"]), "rows": {}}
    for label, call in asked_for["calls"].items():
        if label.startswith(("NumPy", "PyTorch")):
            found["rows"][label] = steps_of(loaded[f"03_mlp_{label.split(',')[0].lower()}"], call)
        elif label.startswith("Keras"):
            found["rows"][label] = fits_of(loaded["03_mlp_keras"], call)
        elif label.startswith("five"):
            found["rows"][label] = call()
        elif label.startswith("scikit"):
            classifier = inspect.getclosurevars(call).nonlocals["classifier"]
            clock = itertools.count(0, 125).__next__  # as if an epoch's 125 steps took 125 seconds
            with mock.patch.object(benchmark, "time", SimpleNamespace(perf_counter=clock)):
                seconds, before = call(), [array.copy() for array in classifier.coefs_]
                call()
            moved = [np.abs(new - old).max() for new, old in zip(classifier.coefs_, before, strict=True)]
            found["rows"][label] = dict(seconds=seconds, moved=moved, settings=classifier.get_params())
    return found, loaded


def observe_lesson_22():
    """Look at the timers of lesson 22, for 16 hidden units and batches of 8."""
    needed = ("setup-imports", "setup-threads", "speed-")
    skip = [cell.id for cell in lessons.cells("22_key_differences") if not cell.id.startswith(needed)]
    page = lessons.load("22_key_differences", skip=skip)
    found, clock = {"turns": {}}, Clock()
    with mock.patch.object(time, "perf_counter", clock.read):
        for seconds in (1e-6, 1e-3, 1.0):
            call = clock.call(seconds)
            found["turns"][seconds] = (page["turns"](call)(), call.count)
    page["turns"] = lambda step: step
    numpy, keras = page["numpy_timers"](16, 8), page["keras_timers"](16, 8)
    found["products"] = [product.shape for product in numpy["products alone"]()]
    found["NumPy"] = steps_of(page["sized"]("numpy", 16), numpy["NumPy"])
    found["PyTorch"] = steps_of(page["sized"]("pytorch", 16), page["pytorch_timer"](16, 8, "cpu"))
    found |= {name: fits_of(page["sized"]("keras", 16), call) for name, call in keras.items()}
    found["flop"] = {size: page["flop"](*size) for size in ((128, 32), (16, 8))}

    run_cell("22_key_differences", "speed-sweeps-define", page)
    rows = [[[*size, "NumPy"], [float(sum(size))]] for size in page["SIZES"]]
    page["answer"] = lambda process: ([["peak", [2.0]], *rows], {})
    found["sweep"] = page["end_sweep"](None)[0]
    page |= {"SWEEP": "", "start_process": lambda program, *arguments, **environment: environment}
    found["environment"] = page["start_sweep"](2, {}, "folder")
    return found


def observe(setups, file):
    """Write to `file` what there is to see; `setups` are lesson 3 of PyTorch and of Keras, once set up."""
    torch, tf = setups[0]["torch"], setups[1]["tf"]
    torch.ones(9, 9) @ torch.ones(9, 9), tf.ones((9, 9)) @ tf.ones((9, 9))
    tasks = [
        task.read_text(encoding="utf-8").strip() for task in Path("/proc/self/task").glob("*/comm")
    ]  # none but on Linux
    found = {"threads": threads() | {torch.get_num_threads()}, "TensorFlow's": tasks.count("tf_Compute")}
    found["benchmark"], loaded = observe_benchmark()
    found["lesson 22"] = observe_lesson_22()
    step_timer, fit_timer = (
        loaded[f"03_mlp_{tool}"][f"{kind}_timer"] for tool, kind in (("pytorch", "step"), ("keras", "fit"))
    )
    found["PyTorch"] = steps_of(loaded["03_mlp_pytorch"], step_timer("float64", size=64))
    found["Keras"] = fits_of(loaded["03_mlp_keras"], fit_timer("float64", size=64, rows=200))
    for tool in ("keras", "pytorch"):
        found[tool] = calls_of_lessons_1_and_2(tool)
    with open(file, "wb") as out:
        pickle.dump(found, out)


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """What `observe` has seen."""
    for package in ("torch", "tensorflow"):
        if not find_spec(package):
            pytest.skip(f"needs {package}")
    file = tmp_path_factory.mktemp("timing") / "observed.pickle"
    # Nothing but the lessons' own setups comes before NumPy, so that one sees what they do to the threads.
    program = (
        "import sys; from helpers import lessons;"
        "setups = [lessons.load(f'03_mlp_{tool}', until='setup-imports') for tool in ('pytorch', 'keras')];"
        "import test_timing; test_timing.observe(setups, sys.argv[1])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    command = [sys.executable, "-c", program, file]
    done = subprocess.run(command, cwd=ROOT / "tests", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def mlp():
    return lessons.load("03_mlp_numpy", until="train-define", also=["measure-define"])


def assert_trains(mlp, seen, dtype, size, adam=False):
    """Each call was one update of the same network on the next batch, of this size and type."""
    weights = [array.astype(dtype) for array in seen["start"]]
    assert len(seen["steps"]) == 2
    for turn, (X, y, before, after) in enumerate(seen["steps"]):
        rows = seen["rows"][turn * size : (turn + 1) * size]
        np.testing.assert_array_equal(X, mlp["X_train"][rows].astype(dtype), strict=True)
        np.testing.assert_array_equal(y.argmax(axis=1) if y.ndim == 2 else y, mlp["y_train"][rows])
        for array, old in zip(before, weights, strict=True):
            np.testing.assert_array_equal(array, old, strict=True)
        Z1, A1, P = mlp["forward"](X, *before)
        grads = mlp["backward"](X, mlp["Y_train"][rows].astype(dtype), Z1, A1, P, before[2])
        for old, new, grad in zip(before, after, grads, strict=True):
            assert new.dtype == dtype
            if adam:  # which moves every weight by about its rate, at first
                assert 0.0009 < np.abs(new - old).max() < 0.0011
            else:
                np.testing.assert_allclose(new - old, -mlp["LEARNING_RATE"] * grad, rtol=1e-3, atol=1e-6)
                assert np.abs(new - old).max() > 1e-4
        weights = after


def assert_fits(seen, size, rows, dtype="float32", optimizer="sgd", width=128, jit=False, per_call=1):
    """Each call was one epoch on `rows` digits, and its seconds are those of one step."""
    assert seen["seconds"] == [1 / per_call] * 2
    assert seen["steps"] == 2 * -(-rows // size) and seen["batch_size"] == size
    assert seen["layers"] == [(width, "relu"), (10, "softmax")]
    assert seen["compiled"] == (optimizer, "categorical_crossentropy", jit, per_call)
    X, Y = seen["data"]
    assert (X.shape, Y.shape, X.dtype, Y.dtype) == ((rows, 784), (rows, 10), dtype, dtype)
    assert X.any(axis=1).all() and (Y.sum(axis=1) == 1).all()
    for old, new in zip(seen["before"], seen["after"], strict=True):
        assert new.dtype == dtype and np.abs(new - old).max() > 1e-4


@pytest.mark.parametrize(("dtype", "size"), [("float32", 32), ("float64", 512)])
def test_numpys_step_timer_trains(mlp, dtype, size):
    assert_trains(mlp, steps_of(mlp, mlp["step_timer"](dtype, size=size)), dtype, size)
    adam = mlp["step_timer"](dtype, benchmark.numpy_adam(), size)
    assert_trains(mlp, steps_of(mlp, adam), dtype, size, adam=True)


def assert_are_the_five_products(mlp, products, X):
    W1, _, W2, _ = (array.astype("float32") for array in mlp["start"])
    ones = [np.ones((32, width), "float32") for width in (128, 128, 10)]
    expected = (X @ W1, ones[0] @ W2, ones[0].T @ ones[2], ones[2] @ W2.T, X.T @ ones[1])
    for product, one in zip(products, expected, strict=True):
        np.testing.assert_allclose(product, one, rtol=1e-4, atol=1e-4, strict=True)


def test_numpys_products_timer_computes_the_five_products(mlp):
    products = mlp["products_timer"]("float32")
    for rows in mlp["batches"][0, :2]:
        assert_are_the_five_products(mlp, products(), mlp["X_train"][rows].astype("float32"))
    inner = (784, 128, 32, 10, 32)
    assert benchmark.FLOP == sum(2 * product.size * n for product, n in zip(products(), inner, strict=True))


def test_pytorchs_step_timer_trains(observed, mlp):
    assert_trains(mlp, observed["PyTorch"], "float64", 64)


def test_kerass_fit_timer_trains(observed):
    assert_fits(observed["Keras"], 64, 200, "float64")


def test_lesson_22_times_the_size_it_names(observed, mlp):
    seen = observed["lesson 22"]
    assert_trains(mlp, seen["NumPy"], "float32", 8)
    assert_trains(mlp, seen["PyTorch"], "float32", 8)
    for tool in ("NumPy", "PyTorch"):
        assert [array.shape for array in seen[tool]["start"]] == [(784, 16), (16,), (16, 10), (10,)]
    assert_fits(seen["Keras fit"], 8, 384, width=16)
    assert_fits(seen["Keras fit tuned"], 8, 384, width=16, jit=True, per_call=16)
    assert seen["products"] == [(8, 16), (8, 10), (16, 10), (8, 16), (784, 16)]
    inner = (784, 16, 8, 10, 8)
    products = zip(seen["products"], inner, strict=True)
    assert seen["flop"] == {(128, 32): benchmark.FLOP, (16, 8): sum(2 * a * b * n for (a, b), n in products)}


def test_lesson_22_takes_turns_of_one_length(observed):
    # Each is called once untimed, then 2 times to see how long it takes, once untimed again, then in a turn.
    turns = observed["lesson 22"]["turns"]
    assert {seconds: count - 4 for seconds, (_, count) in turns.items()} == {1e-6: 50, 1e-3: 12, 1.0: 1}
    for seconds, (measured, _) in turns.items():
        assert measured == pytest.approx(seconds)


def test_lesson_22_scales_the_peak_to_each_size(observed):
    for (width, batch), tools in observed["lesson 22"]["sweep"].items():
        assert tools["NumPy"] == [width + batch]
        work = 2 * batch * (2 * 784 * width + 3 * 10 * width)
        assert tools["peak"] == [pytest.approx(2.0 * work / benchmark.FLOP)]


@pytest.mark.parametrize("tool", TOOLS)
def test_lessons_1_and_2_time_what_their_labels_say(tool, request, mlp):
    seen = calls_of_lessons_1_and_2(tool) if tool == "numpy" else request.getfixturevalue("observed")[tool]
    L = np.random.default_rng(0).random((48, 48))
    (by_loop,), (by_tool,) = seen["measure-define"]["loop_call"], seen["measure-define"]["tool_call"]
    np.testing.assert_allclose(by_loop, L @ L)
    L = np.random.default_rng(0).random((48, 48), dtype="float32")
    np.testing.assert_allclose(by_tool, L @ L, rtol=1e-5, strict=True)
    for cell in ("measure-small", "measure-types"):
        (L,) = seen[cell].pop("L")
        assert len(seen[cell]) >= 3
        for label, results in seen[cell].items():
            power = 101 if "hundred" in label else 2
            for result in results:
                np.testing.assert_allclose(result, np.linalg.matrix_power(L, power), rtol=1e-4)
                assert cell == "measure-small" or result.dtype == label
            assert len(results) == ("inference_mode" not in label)  # that one returns nothing
    many = np.linspace(-1, 1, 1000)
    for label, results in seen["gradient"].items():
        walked = "gradient" in label or "same" in label
        expected = 2 * many + 2 if walked else 4 if "difference" in label else ((many + 1) ** 2).sum()
        np.testing.assert_allclose(np.hstack(results), expected, rtol=1e-9, err_msg=label)


# The benchmark


def test_a_candidate_times_itself(clock):
    call = clock.call(2.0)
    assert benchmark.self_timed(call, number=7)() == 2 and call.count == 8
    assert benchmark.self_timed(call)() == 2 and call.count == 8 + 51


def test_the_bound_is_a_product_of_its_size(monkeypatch):
    called = []
    monkeypatch.setattr(benchmark, "self_timed", lambda call, number: called.append(call) or (lambda: 2.0))
    assert benchmark.bound_timer()() == pytest.approx(2 * benchmark.FLOP / (2 * 768**3))
    product = called[0]()
    assert (product.shape, product.dtype) == ((768, 768), "float32") and product.mean() == pytest.approx(
        192, 0.02
    )


def test_each_row_of_the_benchmark_trains_what_it_names(observed, mlp):
    seen = observed["benchmark"]
    assert (seen["code"], *seen["turns"]) == (0, 3, None)
    assert len(seen["rows"]) >= 9
    for label, row in seen["rows"].items():
        adam = "Adam" in label
        if label.startswith(("NumPy", "PyTorch")):
            assert_trains(mlp, row, "float32", 32, adam)
        elif label.startswith("Keras"):
            dials = dict(jit=True, per_call=50) if "dials" in label else {}
            assert_fits(row, 32, 4 * 800, optimizer="adam" if adam else "sgd", **dials)
        elif label.startswith("scikit"):
            assert row["seconds"] == 1 and min(row["moved"]) > 1e-4
            assert row["settings"]["solver"] == ("adam" if adam else "sgd")
            rates = {
                key: row["settings"][key] for key in ("batch_size", "learning_rate_init", "momentum", "alpha")
            }
            assert tuple(rates.values()) == (32, 0.001 if adam else 0.1, 0, 0)
        else:
            rows = mlp["batches"][0, 0]
            assert_are_the_five_products(mlp, row, mlp["X_train"][rows].astype("float32"))


def test_the_benchmark_prints_every_row_and_ratio(observed):
    table, ratios = observed["benchmark"]["printed"].split("\nRatios of medians\n")
    rows = [line for line in table.splitlines() if " us " in line]
    medians = {re.split(r"  +", row)[0]: float(row.split(" us")[0].split()[-1]) for row in rows}
    assert len(rows) >= 10 and list(medians.values()) == [1e6 * place for place in range(1, len(rows) + 1)]
    for line in ratios.splitlines():
        one, other, ratio = re.fullmatch(r"(.*?) +/ (.*?) +([\d.]+)", line).groups()
        assert float(ratio) == round(medians[one] / medians[other], 2)


# Threads


@pytest.mark.parametrize("name", [path.stem for path in sorted(lessons.NOTEBOOKS.glob("*.ipynb"))])
def test_every_notebook_sets_its_threads_before_it_imports_what_reads_them(name):
    quiet = "import helpers.quiet_tensorflow"
    source = next(
        cell.source for cell in lessons.cells(name) if re.search(f"_NUM_THREADS|{quiet}", cell.source)
    )
    before = re.split(
        r"^(?:import|from) (?:keras|helpers|matplotlib|numpy|tensorflow|torch)", source, flags=re.M
    )[0]
    if source.removeprefix(before).startswith(quiet):  # what it does before it imports TensorFlow
        before += (ROOT / "helpers" / "quiet_tensorflow.py").read_text(encoding="utf-8").split("\n@")[0]
    with mock.patch.dict(os.environ):
        for variable in THREADS:
            os.environ.pop(variable, None)
        exec(before, {})
        found = {variable for variable in THREADS if os.environ.get(variable) == "1"}
    assert found >= {"OMP_NUM_THREADS"}
    if "keras" in source.lower():
        assert found >= {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"}


def test_one_thread_means_one_thread(observed):
    assert observed["threads"] == {1} and observed["TensorFlow's"] <= 1
    assert observed["benchmark"]["threads"] == {1}
    assert observed["benchmark"]["environment"] == ["1"] * len(THREADS)
    environment = observed["lesson 22"]["environment"]
    assert {environment[variable] for variable in THREADS} == {"2"}
