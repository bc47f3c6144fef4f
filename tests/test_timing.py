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
import psutil
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from helpers import ROOT, THREADS, benchmark, lessons, timing

LESSONS = (
    "01_matmul",
    "02_gradient",
    "03_mlp",
    "04_optimizers",
    "05_custom_training",
    "06_convolution",
    "07_recurrence",
    "08_probability",
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


def test_a_run_whose_times_nobody_reads_takes_fewer_turns(monkeypatch):
    for asked, taken in ((15, 2), (1, 1)):
        monkeypatch.setenv(timing.ROUNDS, "2")
        order = []
        calls = {name: lambda name=name, order=order: order.append(name) for name in "AB"}
        timing.interleaved(calls, rounds=asked, number=1)
        assert "".join(order) == "AB" * (1 + taken)


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


# Two clocks, and processes that take turns. No time passes here: the clocks are ours.


@pytest.fixture
def two_clocks(clock, monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: clock.now / 2)
    return clock


def test_a_turn_is_divided_by_its_calls_and_steps(two_clocks):
    call = two_clocks.call(0.01)
    turn = timing.turn(call, steps=4, seconds=0.1)
    assert call.count == 2
    np.testing.assert_allclose(turn(), [0.01 / 4, 0.005 / 4])
    assert call.count == 2 + 1 + 10  # one to warm up, untimed
    turn()
    assert call.count == 2 + 2 * 11


@pytest.mark.parametrize(("seconds", "calls"), [(1e-9, 100), (1e-4, 100), (0.015, 2), (7.0, 1)])
def test_a_turn_lasts_about_as_long_whatever_it_times(two_clocks, seconds, calls):
    call = two_clocks.call(seconds)
    turn = timing.turn(call)
    before = call.count
    turn()
    assert call.count - before == 1 + calls


def test_a_turn_ends_early_on_a_busy_machine(two_clocks):
    seconds = itertools.chain([0.001] * 2, itertools.repeat(1.0))
    call = two_clocks.call(seconds)
    turn = timing.turn(call)
    np.testing.assert_allclose(turn(), [1.0, 0.5])
    assert call.count == 2 + 1 + 1


TOY = """
import os, sys
from helpers import timing
print("chatter of a library")
{}
env = [float(os.environ.get("TOY", 0)), len(sys.argv)]
timing.serve({{"size": {{"one": lambda: [2.0, 1.0], "env": lambda: env}}}}, "note")
"""


@pytest.fixture
def child(no_leftovers):
    """Start children that are ended whatever the test does."""
    with contextlib.ExitStack() as stack:

        def start(program, *arguments, **environment):
            child = timing.Child(program, *arguments, **environment)
            stack.callback(child.end)
            return child

        yield start


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_child_says_its_note_and_answers(child):
    toy = child(TOY.format(""), "argument", TOY="7")
    assert toy.answer() == "note"
    assert toy.ask("size") == {"one": [2.0, 1.0], "env": [7.0, 2.0]}
    assert toy.ask("size")["one"] == [2.0, 1.0]
    toy.end()
    assert not alive(toy.process.pid)


def test_a_child_that_fails_says_why(child):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        child(TOY.format("1 / 0")).answer()
    toy = child(TOY.format(""))
    toy.answer()
    with pytest.raises(RuntimeError, match="KeyError: 'another size'"):
        toy.ask("another size")
    with pytest.raises(RuntimeError, match="KeyError: 'another size'"):
        toy.ask("size")  # nobody is there any more


def test_a_child_ends_with_all_that_it_has_started(child):
    sleeper = "import subprocess; p = subprocess.Popen(['sleep', '60']); print('=>', p.pid)"
    toy = child(TOY.format(sleeper))
    pid = toy.answer()
    assert alive(pid)
    toy.end()
    for _ in range(1000):
        if not alive(pid):
            break
        time.sleep(0.01)
    assert not alive(pid)


def test_a_child_ends_when_its_parent_does(child):
    toy = child(TOY.format(""))
    toy.answer()
    toy.process.stdin.close()  # as when the parent is killed
    assert toy.process.wait(60) == 0


SWEPT = """
import json, os, sys
from helpers import timing
page, prefix, tool, constants = json.loads(sys.argv[1])
seen = [page, prefix, constants, os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")]
turn = __import__("itertools").count(1.0).__next__
turns = {size: {tool: lambda size=size: [turn(), len(size)]} for size in constants["SIZES"]}
timing.serve(turns, [*seen, os.getpid()])
"""
PLAN = {
    "1 thread": (1, {"A": "cpu", "B": "cpu"}, {"SIZES": ("x", "yy")}),
    "accelerator": (2, {"A": "cpu", "B": "gpu"}, {"SIZES": ("yy",)}),
}


def test_sweeps_ask_every_tool_for_every_size_in_every_round(monkeypatch, no_leftovers):
    asked = []
    ask = timing.Child.ask
    monkeypatch.setattr(timing, "_PROGRAM", SWEPT)
    monkeypatch.setattr(timing.Child, "ask", lambda self, size: asked.append((size, self)) or ask(self, size))
    times, notes = timing.sweeps("page", "cell", PLAN, rounds=2)
    assert times["1 thread"]["x"]["A"].tolist() == [[1, 1], [3, 1]]
    assert times["1 thread"]["yy"]["B"].tolist() == [[2, 2], [4, 2]]
    assert times["accelerator"]["yy"]["B"].tolist() == [[1, 2], [2, 2]]
    assert list(times["1 thread"]["x"]) == ["A", "B"] and list(times["accelerator"]) == ["yy"]
    assert [size for size, _ in asked] == ["x", "x", "yy", "yy"] * 2 + ["yy"] * 4
    assert len({child for _, child in asked}) == 4 == len({note[-1] for note in notes.values()})
    for (sweep, tool), (page, prefix, constants, threads, visible, pid) in notes.items():
        count, devices, _ = PLAN[sweep]
        assert (page, prefix, threads, constants["DEVICE"]) == ("page", "cell", str(count), devices[tool])
        assert (visible == "-1") == (devices[tool] == "cpu") and not alive(pid)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_sweeps_leave_nothing_behind_when_they_break_off(monkeypatch, no_leftovers, error):
    started, start = [], timing.Child.__init__

    def ask(self, size):
        raise error

    def noted(self, *arguments, **environment):
        start(self, *arguments, **environment)
        started.append(self.process.pid)

    monkeypatch.setattr(timing, "_PROGRAM", SWEPT)
    monkeypatch.setattr(timing.Child, "__init__", noted)
    monkeypatch.setattr(timing.Child, "ask", ask)
    with pytest.raises(error):
        timing.sweeps("page", "cell", PLAN, rounds=2)
    assert len(started) == 4 and not any(map(alive, started))


def test_sweeps_say_which_program_failed(monkeypatch, no_leftovers):
    monkeypatch.setattr(timing, "_PROGRAM", "raise ValueError('no such page')")
    with pytest.raises(RuntimeError, match="no such page"):
        timing.sweeps("page", "cell", PLAN, rounds=2)


def test_one_round_has_no_quartiles():
    with pytest.raises(ValueError, match="two rounds or more, not 1"):
        timing.sweeps("page", "cell", PLAN, rounds=1)


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


@pytest.mark.parametrize("tool", TOOLS)
def test_each_row_of_lesson_7_times_what_its_label_says(tool):
    def timer(dtype, kind="LSTM", **options):
        return SimpleNamespace(dtype=dtype, kind=str(kind), options=options)

    keras = SimpleNamespace(config=mock.Mock(), layers=SimpleNamespace(LSTM="LSTM", SimpleRNN="RNN"))
    page = dict(step_timer=timer, fit_timer=timer, BATCH=32, torch=mock.Mock(), keras=keras)
    page["products_timer"] = lambda dtype: SimpleNamespace(dtype=dtype, kind="products", options={})
    noted = run_cell(f"07_recurrence_{tool}", "measure-step", page)
    assert list(noted.tables[0]) == list(noted.calls) and len(noted.calls) >= 3
    for label, call in noted.calls.items():
        (dtype,) = re.findall(r"float\d\d", label) or ["float32"]
        kind = {"LSTM": "LSTM", "plain": "RNN", "products": "products"}[re.match(r"\w+", label)[0]]
        assert (call.dtype, call.kind) == (dtype, kind), label
        assert bool(call.options) == ("steps_per_execution" in label), label


@pytest.mark.parametrize("tool", ("numpy", "pytorch"))
@pytest.mark.parametrize(("dtype", "kind"), [("float32", "LSTM"), ("float64", "LSTM"), ("float32", "RNN")])
def test_a_step_of_lesson_7_trains_in_the_type_it_names(tool, dtype, kind):
    if tool == "pytorch":
        torch = pytest.importorskip("torch")
    until = {"numpy": "gates-back", "pytorch": "train-define"}[tool]
    lesson = lessons.load(f"07_recurrence_{tool}", until=until, also=["measure-define"])
    step = lesson["step_timer"](dtype, kind)
    around = inspect.getclosurevars(step).nonlocals
    params = around["params"] if tool == "numpy" else around["sgd"].param_groups[0]["params"]
    params = [w if tool == "numpy" else w.detach() for w in params]
    copy = np.copy if tool == "numpy" else torch.clone
    before = [copy(w) for w in params]
    step()
    assert all(str(w.dtype).endswith(dtype) for w in params)
    assert (params[0] != before[0]).any() and (params[1] != before[1]).any()
    if tool == "pytorch":
        torch.set_default_dtype(torch.float32)


def test_each_row_of_lesson_8_times_what_its_label_says():
    def timer(losses="TFP", wrap="a graph"):
        return (losses if isinstance(losses, str) else "torch.distributions"), wrap

    page = dict(step_timer=timer, products_timer=lambda dtype: (f"products alone, {dtype}",), BATCH=32)
    page |= dict(by_formula="formulas", torch=mock.Mock(), VAE=SimpleNamespace(forward=len, call=len))
    noted = {tool: run_cell(f"08_probability_{tool}", "measure-step", page) for tool in TOOLS}
    for each in noted.values():
        assert list(each.tables[0]) == list(each.calls) and len(each.calls) >= 2
    for label, (what, *_) in noted["numpy"].calls.items():
        assert what == (label if "products" in label else label.removeprefix("step, "))
    for label, (what, wrap) in noted["keras"].calls.items():
        assert label == f"{what}, " + ("in a graph" if wrap == "a graph" else "eager")
        assert wrap == "a graph" or wrap(1) == 1
    for label, (what, _) in noted["pytorch"].calls.items():
        assert label == what


@pytest.mark.parametrize("tool", TOOLS)
def test_a_step_of_lesson_8_computes_its_gradients(tool):
    until = "train-define"
    also = ["measure-define", *(["measure-timer"] if tool != "numpy" else [])]
    lesson = lessons.load(f"08_probability_{tool}", until=until, also=also)
    if tool == "numpy":
        lesson["gradients"] = asked = mock.Mock()
        lesson["step_timer"]("float32")()
        params, X, e = asked.call_args.args
        assert all(w.dtype == "float32" for w in (*params, X, e)) and e.shape == (32, 2)
    elif tool == "keras":
        one, other = (lesson["step_timer"](losses)() for losses in (lesson["VAE"].call, lesson["by_formula"]))
        for here, there in zip(one, other, strict=True):
            np.testing.assert_allclose(here, there, atol=1e-12)
    else:
        import torch

        for losses in (lesson["VAE"].forward, lesson["by_formula"]):
            step = lesson["step_timer"](losses)
            step()
            net = inspect.getclosurevars(step).nonlocals["net"]
            found = [w.grad.numpy().T for w in net.parameters()]
            for here, there in zip(found, lesson["gradient_at"](lesson["start"]), strict=True):
                np.testing.assert_allclose(here, there, atol=1e-12)
        torch.set_default_dtype(torch.float32)


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
        found["code"] = benchmark.main(["--rounds", "3", "--table", "mlp"])
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


def speed_page(**constants):
    """Return what the processes of page 22's section on speed run: the programs in its text."""
    page = {}
    run_cell("22_key_differences", "speed-sizes", page)
    known = {name: page[name] for name in ("SIZES", "ONLY_AT")} | {"DEVICE": "cpu"} | constants
    return timing.programs("22_key_differences", "speed-programs", **known)


def inside(call):
    """Return what a closure has kept, by name."""
    return inspect.getclosurevars(call).nonlocals


def hand_of(call, weights):
    """Return what one call of a program that has its batches in hand trains; it has to make one step."""
    step, calls = call.__closure__[call.__code__.co_freevars.index("step")], []
    train = step.cell_contents
    step.cell_contents = lambda X, Y: calls.append((X, Y)) or train(X, Y)
    before = [np.array(w) for w in weights()]
    loss = call()
    ((X, Y),) = calls
    step.cell_contents = train
    kinds = {type(X).__name__, type(Y).__name__}
    after = [np.array(w) for w in weights()]
    return dict(
        X=np.asarray(X), Y=np.asarray(Y), before=before, after=after, kinds=kinds, loss=float(np.sum(loss))
    )


def observe_page_22():
    """Look at the programs that page 22 times, at 16 hidden units and batches of 8."""
    import torch

    page, size, loaded = speed_page(), "16 x 8", []
    load, seen = page["sized"], {}
    page["sized"] = lambda *args, **edit: loaded.append(load(*args, **edit)) or loaded[-1]
    ways = page["of_numpy"](size)
    plain, in_place = loaded
    seen["products"] = [(product.shape, product.dtype.name) for product in ways["five products"]()]
    for name, lesson in {
        "NumPy script": plain,
        "NumPy, in place": in_place,
        "NumPy script, Adam": plain,
    }.items():
        seen[name] = steps_of(lesson, ways[name])
    for name in ("scikit-learn", "scikit-learn, Adam"):
        net, X, y = (inside(ways[name])[key] for key in ("net", "X", "y"))
        ways[name]()
        steps, before = net.t_ / 8, [w.copy() for w in net.coefs_]
        ways[name]()
        moved = [np.abs(new - old).max() for new, old in zip(net.coefs_, before, strict=True)]
        seen[name] = dict(X=X, y=y, steps=(steps, net.t_ / 8 - steps), moved=moved, settings=net.get_params())
    seen["EPOCH"] = page["EPOCH"]

    loaded.clear()
    compiled = []
    with mock.patch.object(torch, "compile", lambda function: compiled.append(function) or function):
        ways = page["of_pytorch"](size)
    eager, c = loaded
    seen["PyTorch, in hand"] = steps_of(eager, ways["PyTorch, in hand"])
    seen["PyTorch, compiled"] = steps_of(c, ways["PyTorch, compiled"])
    seen["handed to torch.compile"] = [function is c["with_loss"] for function in compiled]
    seen["layers"] = [type(layer).__name__ for layer in eager["MLP"]()]
    for name in ("PyTorch, Adam", "PyTorch, fused Adam"):
        seen[name] = steps_of(eager, ways[name])
        seen[name]["fused"] = inside(ways[name])["optimizer"].defaults["fused"]
    got, step = [], eager["train_step"]
    eager["train_step"] = lambda X, y, net, sgd: got.append((X.numpy(), y.numpy(), step(X, y, net, sgd)))
    for _ in range(501):  # an epoch, and one more
        ways["PyTorch, DataLoader"]()
    seen["PyTorch, DataLoader"] = got

    loaded.clear()
    ways = page["of_keras"](size)
    (p,) = loaded
    seen["fit's clock"] = p["time"].perf_counter is timing.clocks
    seen["Keras's first batch"] = p["batches"][0, 0]
    own, alone = inside(ways["Keras train_on_batch"])["step"].__self__, ways["TensorFlow alone"]
    seen["Keras train_on_batch"] = hand_of(ways["Keras train_on_batch"], own.get_weights)
    for name in ("Keras own loop", "Keras own loop, Adam"):
        kept = inside(inside(ways[name])["step"].python_function)
        seen[name] = hand_of(ways[name], kept["net"].get_weights)
        seen[name]["optimizer"] = type(kept["optimizer"]).__name__
    params = inside(inside(alone)["step"].python_function)["params"]
    seen["TensorFlow alone"] = hand_of(alone, lambda: [w.numpy() for w in params])
    for name in [name for name in ways if "fit" in name]:
        seen[name] = fits_of(p, ways[name])
    return seen


def observe(setups, file):
    """Write to `file` what there is to see; `setups` are lesson 3 of PyTorch and of Keras, once set up."""
    torch, tf = setups[0]["torch"], setups[1]["tf"]
    torch.ones(9, 9) @ torch.ones(9, 9), tf.ones((9, 9)) @ tf.ones((9, 9))
    tasks = [
        task.read_text(encoding="utf-8").strip() for task in Path("/proc/self/task").glob("*/comm")
    ]  # none but on Linux
    found = {"threads": threads() | {torch.get_num_threads()}, "TensorFlow's": tasks.count("tf_Compute")}
    found["benchmark"], loaded = observe_benchmark()
    found["page 22"] = observe_page_22()
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


# Page 22, "Speed": what its programs train, and what is said of their times


def test_page_22_times_numpys_step_at_the_size_it_names(observed, mlp):
    seen = observed["page 22"]
    shapes = [(8, 16), (8, 10), (16, 10), (8, 16), (784, 16)]
    assert seen["products"] == [(shape, "float32") for shape in shapes]
    for name in ("NumPy script", "NumPy, in place", "NumPy script, Adam"):
        assert_trains(mlp, seen[name], "float32", 8, adam="Adam" in name)
        assert [w.shape for w in seen[name]["start"]] == [(784, 16), (16,), (16, 10), (10,)]
    with pytest.raises(AssertionError):
        assert_trains(mlp, seen["NumPy script"], "float32", 16)
    with pytest.raises(AssertionError):
        assert_trains(mlp, seen["NumPy script"], "float64", 8)


def test_page_22_times_pytorchs_step_in_all_its_ways(observed, mlp):
    seen = observed["page 22"]
    for name in ("PyTorch, in hand", "PyTorch, compiled", "PyTorch, Adam", "PyTorch, fused Adam"):
        assert_trains(mlp, seen[name], "float32", 8, adam="Adam" in name)
        assert [w.shape for w in seen[name]["start"]] == [(784, 16), (16,), (16, 10), (10,)]
    assert seen["handed to torch.compile"] == [True] and seen["layers"] == ["Linear", "ReLU", "Linear"]
    assert not seen["PyTorch, Adam"]["fused"] and seen["PyTorch, fused Adam"]["fused"]


def test_page_22s_loader_shuffles_each_epoch_and_cuts_whole_batches(observed, mlp):
    batches = observed["page 22"]["PyTorch, DataLoader"]
    assert {(X.shape, X.dtype.name, y.shape) for X, y, _ in batches} == {((8, 784), "float32", (8,))}
    images = np.concatenate([X for X, _, _ in batches[:500]])
    labels = np.concatenate([y for _, y, _ in batches[:500]])
    key, mine = np.random.default_rng(0).random(784), mlp["X_train"].astype("float32")
    order, same = np.argsort(images @ key), np.argsort(mine @ key)
    assert not np.array_equal(images, mine)
    np.testing.assert_array_equal(images[order], mine[same])  # all the digits, each once
    np.testing.assert_array_equal(labels[order], mlp["y_train"][same])
    losses = [loss for _, _, loss in batches]
    assert np.mean(losses[-50:]) < np.mean(losses[:50]) / 2  # and it learns from them


def test_page_22s_scikit_learn_makes_the_steps_by_which_its_time_is_divided(observed, mlp):
    seen = observed["page 22"]
    for name in ("scikit-learn", "scikit-learn, Adam"):
        row = seen[name]
        assert row["steps"] == (seen["EPOCH"],) * 2 and min(row["moved"]) > 1e-5
        np.testing.assert_array_equal(
            row["X"], mlp["X_train"][: 8 * seen["EPOCH"]].astype("float32"), strict=True
        )
        np.testing.assert_array_equal(row["y"], mlp["y_train"][: 8 * seen["EPOCH"]])
        settings = {
            key: row["settings"][key]
            for key in ("hidden_layer_sizes", "batch_size", "momentum", "nesterovs_momentum", "alpha")
        }
        assert list(settings.values()) == [16, 8, 0, False, 0]
        assert row["settings"]["solver"] == ("adam" if "Adam" in name else "sgd")


@pytest.mark.parametrize(
    ("name", "rate"),
    [("Keras train_on_batch", 0.01), ("Keras own loop", 0.01), ("TensorFlow alone", 0.1)],
)
def test_page_22s_own_steps_are_lesson_3s(observed, mlp, name, rate):
    seen, rows = observed["page 22"][name], observed["page 22"]["Keras's first batch"]
    np.testing.assert_array_equal(seen["X"], mlp["X_train"][rows].astype("float32"), strict=True)
    np.testing.assert_array_equal(seen["Y"], mlp["Y_train"][rows].astype("float32"), strict=True)
    assert seen["kinds"] == ({"ndarray"} if "batch" in name else {"EagerTensor"})
    W1, b1, W2, b2 = seen["before"]
    Z1, A1, P = mlp["forward"](seen["X"], W1, b1, W2, b2)
    for old, new, dw in zip(
        seen["before"], seen["after"], mlp["backward"](seen["X"], seen["Y"], Z1, A1, P, W2), strict=True
    ):
        assert old.shape == dw.shape and new.dtype == "float32"
        np.testing.assert_allclose(new - old, -rate * dw, rtol=1e-3, atol=1e-6)
        assert np.abs(new - old).max() > 1e-5
    assert seen["loss"] == pytest.approx(mlp["cross_entropy"](P, seen["Y"]), rel=1e-4)


def test_page_22s_own_loop_has_the_optimizer_of_its_name(observed):
    assert observed["page 22"]["Keras own loop"]["optimizer"] == "SGD"
    seen = observed["page 22"]["Keras own loop, Adam"]
    assert seen["optimizer"] == "Adam"
    for old, new in zip(seen["before"], seen["after"], strict=True):
        assert 0.0009 < np.abs(new - old).max() < 0.0011


def test_page_22_times_fit_with_the_settings_of_its_label(observed):
    seen = observed["page 22"]
    assert seen["fit's clock"]
    fits = [name for name in seen if name.startswith("Keras fit")]
    assert len(fits) == 6
    for name in fits:
        dials = dict(jit="jit" in name, per_call=16 if "16" in name else 1)
        rows = 8 * (48 if "16" in name else 24)
        assert_fits(seen[name], 8, rows, width=16, optimizer="adam" if "Adam" in name else "sgd", **dials)
    with pytest.raises(AssertionError):
        assert_fits(seen["Keras fit"], 8, 8 * 24, width=128)


def toy_page(monkeypatch):
    """Return page 22's programs at two sizes of ours, with turns that tell what would have been timed."""
    monkeypatch.setattr(timing, "turn", lambda call, steps=1: (call(), steps))
    return speed_page(SIZES=("1 x 1", "2 x 2"), ONLY_AT={"rare": ("2 x 2",)})


def test_page_22_makes_each_program_at_its_sizes(monkeypatch):
    page = toy_page(monkeypatch)
    call, fits = (lambda: "called"), []
    ways = {"plain": call, "rare one": call, "scikit-learn": call, "a fit": lambda: fits.append(1)}
    page["TOOLS"] = {"toy": lambda size: ways}
    made, left_out = page["turns"]("toy")
    assert list(made) == ["1 x 1", "2 x 2"] and left_out == {}
    assert list(made["1 x 1"]) == ["plain", "scikit-learn", "a fit"]
    assert list(made["2 x 2"]) == ["plain", "rare one", "scikit-learn", "a fit"]
    assert made["2 x 2"]["plain"] == ("called", 1)
    assert made["2 x 2"]["scikit-learn"] == ("called", page["EPOCH"])
    assert made["2 x 2"]["a fit"] is ways["a fit"] and len(fits) == 2  # called once, to be recorded


def test_page_22_leaves_out_what_has_no_compiler_and_nothing_else(monkeypatch):
    page = toy_page(monkeypatch)

    def fails(error):
        def call():
            raise error

        return call

    page["TOOLS"] = {"toy": lambda size: {"compiled": fails(RuntimeError("no compiler\nat all"))}}
    assert page["turns"]("toy") == ({"1 x 1": {}, "2 x 2": {}}, {"compiled": "no compiler"})
    for name, error in ("compiled", NameError("name 'torch' is not defined")), ("plain", RuntimeError("no")):
        ways = {name: fails(error)}
        page["TOOLS"] = {"toy": lambda size, ways=ways: ways}
        with pytest.raises(type(error)):
            page["turns"]("toy")


def page_22_with_times(times):
    """Return the cells of page 22 that speak of times, run with such times, (rounds, 2) by size and name."""
    page = speed_page() | {"times": {"1 thread": times}}
    page["table"] = lambda head, rows: [head, *rows]
    for name in ("ratio", "groups", "faster", "claims", "compared", "answers"):
        run_cell("22_key_differences", f"speed-{name}", page)
    return page


SECONDS = {
    "five products": 2,
    "NumPy script": 4,
    "NumPy, in place": 4,
    "NumPy script, Adam": 8,
    "scikit-learn": 9,
    "PyTorch, in hand": 4,
    "TensorFlow alone": 20,
    "PyTorch, fused Adam": 5,
    "PyTorch, DataLoader": 9,
    "Keras fit": 20,
    "Keras fit, jit": 20,
    "Keras fit, 16 steps": 10,
}


def made_up(**others):
    """Times of one size: nonsense on the wall, and so many CPU seconds, with a spread but for the bound."""
    spread = np.linspace(0.97, 1.03, 7)[:, None]
    named = SECONDS | {name.replace("__", ", ").replace("_", " "): value for name, value in others.items()}
    return {
        name: np.array([99.0, value]) * spread ** (name != "five products") for name, value in named.items()
    }


def test_page_22_says_faster_only_where_it_is_by_more_than_a_quarter(capsys):
    sizes = speed_page()["SIZES"]
    times = {size: made_up() for size in sizes}
    times[sizes[1]] = made_up(PyTorch__in_hand=2.8)
    times[sizes[2]] = made_up(PyTorch__in_hand=3.1, PyTorch__fused_Adam=9, PyTorch__DataLoader=12)
    page = page_22_with_times(times)
    pair = "PyTorch, in hand", "NumPy script"
    assert [page["faster"](*pair, size) for size in sizes] == [False, True, False, False, False]
    assert [page["said"](*pair, size) for size in sizes] == ["1", "faster, 0.7", "0.78", "1", "1"]
    assert page["said"]("Keras fit", "not timed", sizes[0]) == "" == page["figure"]("not timed", sizes[0])
    low, middle, high = page["ratio"]("NumPy script", sizes[0])
    assert middle == pytest.approx(2) and low == pytest.approx(2 * 0.985) and high == pytest.approx(2 * 1.015)
    assert page["figure"]("NumPy script", sizes[0]) == "2 (1.97 to 2.03)"

    head, *rows = page["compared"](page["FASTER"], sizes)
    assert head[1:] == [*sizes] and rows[0] == [
        "PyTorch, in hand / NumPy script",
        "1",
        "faster, 0.7",
        "0.78",
        "1",
        "1",
    ]
    assert rows[1] == ["TensorFlow alone / NumPy script", "5", "5", "5", "5", "5"]
    assert rows[2] == ["PyTorch, DataLoader / scikit-learn", "1", "1", "1.3", "1", "1"]
    assert f"{sizes[1]:9} the first is faster in 1 of 6 pairs" in capsys.readouterr().out

    answers = page["speed_answers"]()
    assert answers["faster"]["PyTorch, in hand", "NumPy script", sizes[1]] is True
    assert answers["with Adam"] == {
        ("PyTorch, fused Adam", "NumPy script, Adam", sizes[1]): True,
        ("PyTorch, fused Adam", "NumPy script, Adam", sizes[2]): False,
    }
    assert answers["compiling"]["PyTorch, compiled", "PyTorch, in hand", sizes[0]] is None
    assert list(answers["asking less often"].values()) == [True] * 5
    assert {size for *_, size in answers["little to compute"]} == {sizes[0]}
    assert answers["little to compute"]["NumPy script", "TensorFlow alone", sizes[0]] is True
    assert answers["little to compute"]["NumPy script", "PyTorch, in hand", sizes[0]] is False


def test_page_22_says_nothing_where_quartiles_overlap():
    sizes = speed_page()["SIZES"]
    times = {size: made_up() for size in sizes}
    times[sizes[0]]["PyTorch, in hand"][:, 1] = [1, 1, 1, 1, 9, 9, 9]
    assert page_22_with_times(times)["said"]("PyTorch, in hand", "NumPy script", sizes[0]) == "0.25"


def test_page_22_puts_each_program_beside_its_like():
    page = page_22_with_times({size: made_up() for size in speed_page()["SIZES"]})
    assert page["hand"] == ["NumPy script", "NumPy, in place", "PyTorch, in hand", "TensorFlow alone"]
    assert page["own"] == ["scikit-learn", "PyTorch, DataLoader", *(n for n in SECONDS if "fit" in n)]
    assert page["adam"] == ["NumPy script, Adam", "PyTorch, fused Adam"]


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
