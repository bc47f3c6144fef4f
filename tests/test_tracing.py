"""The tracer of page 22, on toys whose answers are known."""

import sys

import pytest

from helpers import tracing

# What the toys call, and what doesn't count as theirs: a gradient, loops of several kinds, a record.
LIBRARY = """
import functools
import threading

def gradient(x):
    return 2 * x

def fit(update, x, steps):
    for _ in range(steps):
        x = update(x, gradient(x))
    return x

def forever(x):
    while True:
        x = x - 0.1 * gradient(x)
        step(x)
        yield x

def step(x):
    pass

def logged(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)
    return inner

def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

class Symbol:
    pass

def recorded(function):
    def run(x):
        if not run.graph:
            run.graph = [function(Symbol())]
        return 0.8 * x
    run.graph = []
    return run

def symbolic(x):
    return x
"""
BEGIN = "from library import *\nhistory = []\n"
UPDATE = "def update(x, dx):\n    return x - 0.1 * dx\n"
# Each toy makes nine steps, in nine epochs: marks, who holds the loop, whose gradient and update, calls.
OURS = {"ours": {"update": "update()", "step": "update()"}, "tool": {"gradient": "library:gradient"}}
TOYS = {
    "script": (
        f"{BEGIN}{UPDATE}x = 1.0\nfor _ in range(9):\n    dx = gradient(x)\n    x = update(x, dx)\n"
        "    history.append(x)\n",
        OURS,
        ("ours", "on request", "ours", 0),
    ),
    "callback": (
        f"{BEGIN}{UPDATE}x = fit(update, 1.0, 9)\nhistory = range(9)\n",
        OURS,
        ("library: fit", "the tool's", "ours", 9),
    ),
    "generator": (  # of the library: our loop asks it for a step in each turn
        f"{BEGIN}each = forever(1.0)\nfor _ in range(9):\n    history.append(next(each))\n",
        {"tool": {"gradient": "library:gradient", "update": "library:step", "step": "library:step"}},
        ("ours", "the tool's", "the tool's", 0),
    ),
    "decorator": (
        f"{BEGIN}@logged\n{UPDATE}x = 1.0\nfor _ in range(9):\n    dx = gradient(x)\n    x = update(x, dx)\n"
        "    history.append(x)\n",
        OURS,
        ("ours", "on request", "ours", 9),
    ),
    "thread": (
        f"{BEGIN}{UPDATE}def work():\n    x = 1.0\n    for _ in range(9):\n        dx = gradient(x)\n"
        "        x = update(x, dx)\n        history.append(x)\nin_thread(work)\n",
        OURS,
        ("ours", "on request", "ours", 1),
    ),
    "recorded step": (
        f"{BEGIN}@recorded\ndef train_step(x):\n    dx = symbolic(x)\n    return apply(dx)\n"
        "def apply(dx):\n    return dx\nx = 1.0\nfor _ in range(9):\n    x = train_step(x)\n"
        "    history.append(x)\n",
        {
            "ours": {"update": "apply()"},
            "tool": {"gradient": "library:symbolic", "step": "library:recorded.<locals>.run"},
        },
        ("ours", "said once", "said once", 1),
    ),
}


@pytest.fixture(params=TOYS)
def toy(request):
    source, marks, answer = TOYS[request.param]
    return tracing.watch(source, marks, {"library": LIBRARY}, library_is_ours=False), answer


def test_toys_have_their_known_answers(toy):
    seen, (holder, gradient, update, calls) = toy
    assert seen.holder == holder and seen.steps == 9
    assert (seen.owners["gradient"], seen.owners["update"]) == (gradient, update)
    assert seen.calls == calls, seen.called
    assert seen.owners["loop"] == ("ours" if holder == "ours" else "the tool's")


def test_a_library_that_counts_as_ours_holds_our_loop():
    marks = {"ours": {"gradient": "gradient()", "update": "update()", "step": "update()"}}
    seen = tracing.watch(TOYS["callback"][0], marks, {"library": LIBRARY}, library_is_ours=True)
    assert seen.holder == "ours" and seen.calls == 0


def test_the_holder_is_found_whatever_its_name():
    for name in ("fit", "_private", "whatever"):
        library = LIBRARY.replace("def fit(", f"def {name}(")
        source = TOYS["callback"][0].replace("fit(", f"{name}(").replace("import *", f"import {name}")
        assert tracing.watch(source, OURS, {"library": library}, False).holder == f"library: {name}"


def test_a_mark_that_is_never_met_raises():
    source, marks, _ = TOYS["script"]
    marks = {"ours": marks["ours"], "tool": {"gradient": "library:renamed"}}
    with pytest.raises(ValueError, match=r"never met: the marks of gradient \(tool\)"):
        tracing.watch(source, marks, {"library": LIBRARY}, False)


@pytest.mark.parametrize(("piece", "found"), [("nowhere", 0), ("x", 6)])
def test_a_piece_has_to_stand_in_one_statement(piece, found):
    marks = {"ours": {"update": piece, "step": "update()"}}
    with pytest.raises(ValueError, match=f"{piece!r}, the mark of update, stands in {found} statements"):
        tracing.watch(TOYS["script"][0], marks, {"library": LIBRARY}, False)


def test_a_program_that_fails_leaves_no_tracer_behind():
    with pytest.raises(ZeroDivisionError):
        tracing.watch("1 / 0", {}, {"library": LIBRARY})
    assert sys.gettrace() is None and "library" not in sys.modules


def test_an_unknown_way_has_no_marks():
    with pytest.raises(KeyError, match="no such way"):
        tracing.marks("no such way")


def test_marks_take_over_what_is_not_said():
    sequential, module = tracing.marks("PyTorch Sequential"), tracing.marks("PyTorch Module")
    assert sequential["tool"]["forward"].endswith("Sequential.forward")
    assert module["ours"]["forward"] == "forward()" and "forward" not in module["tool"]
    assert module["tool"]["gradient"] == sequential["tool"]["gradient"]


def test_a_process_of_its_own_says_why_it_failed():
    with pytest.raises(RuntimeError, match=r"(?s)skorch, in a process of its own.*ZeroDivisionError"):
        tracing.elsewhere("1 / 0", "PyTorch with skorch")
