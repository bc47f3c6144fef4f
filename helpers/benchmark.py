"""Times a training step of the three lessons' own code beside the bound that this machine sets."""

import argparse
import functools
import os
import time

import numpy as np
from threadpoolctl import threadpool_limits

from helpers import THREADS, lessons, timing

# The five products of a step, a multiplication and an addition each.
FLOP = 2 * 32 * (2 * 784 * 128 + 3 * 128 * 10)


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


def bound_timer():
    """Return a function that multiplies two large matrices and returns the seconds FLOP would take so."""
    A, B = np.random.default_rng(0).random((2, 768, 768), dtype="float32")
    call = self_timed(lambda: A @ B, number=1)
    return lambda: call() * FLOP / (2 * 768**3)


def self_timed(call, number=50):
    """Return a function that calls `call` several times and returns the seconds of one."""
    return lambda: timing.interleaved({"": call}, rounds=1, number=number)[""][0]


def main(arguments=()):
    """Print the table and the ratios; `--rounds N` sets how many turns each candidate takes (default 21)."""
    parser = argparse.ArgumentParser(prog="helpers benchmark", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = max(2, parser.parse_args(arguments).rounds)

    os.environ.update(dict.fromkeys(THREADS, "1"))  # before TensorFlow, which reads them once, is imported
    threadpool_limits(1)
    torch_lesson = lessons.load("03_mlp_pytorch", until="train-define", also=["measure-define"])
    torch_lesson["torch"].set_num_threads(1)
    numpy_lesson = lessons.load("03_mlp_numpy", until="train-define", also=["measure-define"])
    timer = ["measure-define", "measure-timer"]
    keras_lesson = lessons.load("03_mlp_keras", until="update-define", also=timer)
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

    print(f"One training step, 784-128-10, batches of 32, float32, 1 thread, {rounds} interleaved rounds\n")
    seconds = timing.interleaved(calls, rounds=rounds, number=None)
    timing.table(seconds)

    print("\nRatios of medians")
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
    for one, other in pairs:
        if other in seconds:
            ratio = timing.median(seconds[one]) / timing.median(seconds[other])
            print(f"{one:26} / {other:26} {ratio:5.2f}")
    return 0
