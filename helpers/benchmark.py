"""Times a training step of the lessons' own code beside the bound that this machine sets: a table a network.

A table is a function in TABLES. It returns a title, the calls to time by name, each of which times itself,
and the pairs of names whose ratio is wanted; the pairs may name rows that this machine hasn't got.
"""

import argparse
import contextlib
import functools
import io
import os
import time

import numpy as np
from threadpoolctl import threadpool_limits

from helpers import THREADS, lessons, timing

# The products of a step, a multiplication and an addition each: five of the MLP, eight of the convolutions,
# five for each of 28 rows and three for the answer of the LSTM.
FLOP = 2 * 32 * (2 * 784 * 128 + 3 * 128 * 10)
FLOP_CONVOLUTION = 2 * 32 * (2 * 24**2 * 25 * 8 + 3 * 8**2 * 200 * 16 + 3 * 256 * 10)
FLOP_RECURRENCE = 2 * 32 * (28 * (2 * 28 * 256 + 3 * 64 * 256) + 3 * 64 * 10)


def scikit_learn_timer(lesson, solver):
    """Return a function that trains scikit-learn's MLPClassifier for one epoch and returns seconds a step.

    Its hyperparameters are the lesson's: no momentum, no weight decay, float32, batches of 32.
    Raises ImportError where scikit-learn isn't installed.
    """
    from sklearn.neural_network import MLPClassifier

    rate = lesson["LEARNING_RATE"] if solver == "sgd" else 0.001
    options = dict(alpha=0, momentum=0, nesterovs_momentum=False, batch_size=32, random_state=0)
    classifier = MLPClassifier((128,), solver=solver, learning_rate_init=rate, **options)
    X, y = lesson["X_train"].astype("float32"), lesson["y_train"]

    def seconds_per_step():
        begin = time.perf_counter()
        classifier.partial_fit(X, y, classes=np.arange(10))
        return (time.perf_counter() - begin) / (len(X) // 32)

    return seconds_per_step


def numpy_adam():
    """Return a function that makes lesson 4's Adam for some parameters: its `step`, as an update."""
    lesson = lessons.load("04_optimizers_numpy", until="adam-define")
    return lambda params: lesson["Adam"](params, 0.001).step


def bound_timer(flop=FLOP):
    """Return a function that multiplies two large matrices and returns the seconds `flop` would take so."""
    A, B = np.random.default_rng(0).random((2, 768, 768), dtype="float32")
    call = self_timed(lambda: A @ B, number=1)
    return lambda: call() * flop / (2 * 768**3)


def self_timed(call, number=50):
    """Return a function that calls `call` several times and returns the seconds of one."""
    return lambda: timing.interleaved({"": call}, rounds=1, number=number)[""][0]


def load(name, *also, until="train-define"):
    """Return a lesson's program with its measuring cells; what it prints on the way is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        lesson = lessons.load(name, until=until, also=also)
    if "torch" in lesson:
        lesson["torch"].set_num_threads(1)
    return lesson


def mlp():
    """The table of lesson 3's network."""
    torch_lesson = load("03_mlp_pytorch", "measure-define")
    numpy_lesson = load("03_mlp_numpy", "measure-define")
    keras_lesson = load("03_mlp_keras", "measure-define", "measure-timer", until="update-define")
    for name in ("X_train", "Y_train"):  # longer epochs, so that an epoch's fixed cost counts less
        keras_lesson[name] = np.tile(keras_lesson[name], (4, 1))
    rows = len(keras_lesson["X_train"])

    numpy_step, torch_step = numpy_lesson["step_timer"], torch_lesson["step_timer"]
    adam = torch_lesson["torch"].optim.Adam
    fit = functools.partial(keras_lesson["fit_timer"], rows=rows)
    tuned = {"steps_per_execution": 50, "jit_compile": True}
    calls = {
        "five products alone": self_timed(numpy_lesson["products_timer"]("float32")),
        "bound: 13.1 MFLOP at this machine's best": bound_timer(),
        "NumPy, SGD": self_timed(numpy_step("float32")),
        "NumPy, Adam": self_timed(numpy_step("float32", numpy_adam())),
        "PyTorch, SGD": self_timed(torch_step("float32")),
        "PyTorch, Adam": self_timed(torch_step("float32", adam)),
        "Keras fit as shipped, SGD": fit("float32"),
        "Keras fit, two dials, SGD": fit("float32", **tuned),
        "Keras fit as shipped, Adam": fit("float32", "adam"),
        "Keras fit, two dials, Adam": fit("float32", "adam", **tuned),
    }
    try:
        calls["scikit-learn, SGD"] = scikit_learn_timer(numpy_lesson, "sgd")
        calls["scikit-learn, Adam"] = scikit_learn_timer(numpy_lesson, "adam")
    except ImportError:
        print("scikit-learn is not installed; `pip install -e .[ways]` adds it to the comparison.\n")
    pairs = [
        ("NumPy, SGD", "five products alone"),
        ("NumPy, Adam", "five products alone"),
        ("NumPy, SGD", "scikit-learn, SGD"),
        ("NumPy, Adam", "scikit-learn, Adam"),
        ("PyTorch, SGD", "NumPy, SGD"),
        ("PyTorch, Adam", "NumPy, Adam"),
        ("Keras fit, two dials, SGD", "Keras fit as shipped, SGD"),
        ("Keras fit, two dials, Adam", "Keras fit as shipped, Adam"),
    ]
    return "784-128-10", calls, pairs


def network(numpy_lesson, torch_lesson, keras_lesson, products, flop, **compiled):
    """Return the calls and the pairs that the tables of lessons 6 and 7 have in common.

    `compiled` hands torch.compile to the lesson's step_timer. Where it fails, its row is left out.
    """
    torch_step, fit = torch_lesson["step_timer"], keras_lesson["fit_timer"]
    calls = {
        products: self_timed(numpy_lesson["products_timer"]("float32"), number=10),
        f"bound: {flop / 1e6:.1f} MFLOP at this machine's best": bound_timer(flop),
        "NumPy": self_timed(numpy_lesson["step_timer"]("float32"), number=10),
        "PyTorch": self_timed(torch_step("float32"), number=10),
        "Keras fit as shipped": fit("float32"),
        "Keras fit, a dial": fit("float32", steps_per_execution=16),
    }
    try:
        step = torch_step("float32", **compiled)
        step()  # compiles
        calls["PyTorch, compiled"] = self_timed(step, number=10)
    except Exception as error:  # the compiler has errors of many kinds, and its absence is one
        print(f"PyTorch can't compile here ({type(error).__name__}); its row is left out.\n")
    pairs = [
        ("NumPy", products),
        ("NumPy", "PyTorch"),
        ("PyTorch, compiled", "PyTorch"),
        ("Keras fit as shipped", products),
        ("Keras fit, a dial", "Keras fit as shipped"),
    ]
    return calls, pairs


def convolution():
    """The table of lesson 6's network."""
    torch_lesson = load("06_convolution_pytorch", "measure-define", "measure-last")
    numpy_lesson = load("06_convolution_numpy", "measure-products", "measure-define")
    keras_lesson = load("06_convolution_keras", "measure-products", "measure-define", "measure-timer")
    found = numpy_lesson, torch_lesson, keras_lesson

    compile_ = torch_lesson["torch"].compile
    calls, pairs = network(*found, "eight products alone", FLOP_CONVOLUTION, prepare=compile_)
    last = torch_lesson["step_timer"]("float32", prepare=torch_lesson["last"])
    calls["PyTorch, channels last"] = self_timed(last, number=10)
    pairs.append(("PyTorch, channels last", "PyTorch"))
    return "two convolutions of lesson 6", calls, pairs


def recurrence():
    """The table of lesson 7's LSTM."""
    torch_lesson = load("07_recurrence_pytorch", "measure-define")
    numpy_lesson = load("07_recurrence_numpy", "measure-define", "measure-products", until="gates-back")
    keras_lesson = load("07_recurrence_keras", "measure-define", "measure-timer")
    found = numpy_lesson, torch_lesson, keras_lesson

    compile_ = torch_lesson["torch"].compile
    calls, pairs = network(*found, "all products alone", FLOP_RECURRENCE, wrap=compile_)
    return "the LSTM of lesson 7", calls, pairs


TABLES = {"mlp": mlp, "convolution": convolution, "recurrence": recurrence}


def main(arguments=()):
    """Print the tables and their ratios.

    `--rounds N` sets how many turns each candidate takes (default 21), `--table NAME` asks for one table.
    """
    parser = argparse.ArgumentParser(prog="helpers benchmark", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--table", choices=TABLES, action="append")
    chosen = parser.parse_args(arguments)
    rounds = max(2, chosen.rounds)

    os.environ.update(dict.fromkeys(THREADS, "1"))  # before TensorFlow, which reads them once, is imported
    threadpool_limits(1)
    for place, name in enumerate(chosen.table or TABLES):
        if place:
            print()
        title, calls, pairs = TABLES[name]()
        print(f"One training step, {title}, batches of 32, float32, 1 thread, {rounds} interleaved rounds\n")
        seconds = timing.interleaved(calls, rounds=rounds, number=None)
        timing.table(seconds)
        print("\nRatios of medians")
        for one, other in pairs:
            if one in seconds and other in seconds:
                ratio = timing.median(seconds[one]) / timing.median(seconds[other])
                print(f"{one:26} / {other:26} {ratio:5.2f}")
    return 0
