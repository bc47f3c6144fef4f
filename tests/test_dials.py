"""Every dial of lesson 20: NumPy, changed to match the tool, follows it to 1e-12, or it is shown why not."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

# In a process of its own: PyTorch has to come before TensorFlow, whatever other tests have imported, and the
# lesson sets thread counts and types for the whole process.
PROGRAM = """
import pickle, sys
from helpers import lessons
lesson = lessons.load("20_equality", DIAL=60)
keys = ("clipped_gradient", "slopes", "message", "mended", "on_backend", "agreed")
with open(sys.argv[1], "wb") as file:
    pickle.dump({"verdicts": lesson["verdicts"]} | {key: lesson[key] for key in keys}, file)
"""
DIALS = (
    "Initial weights: Glorot, zero bias",
    "Initial weights: uniform, with bias",
    "Shuffling",
    "Adam: value of epsilon",
    "Adam: place of epsilon",
    "Adam: betas through float32",
    "Momentum: rate inside the velocity",
    "RMSprop: rho and epsilon",
    "Loss reduction: sum",
    "Last partial batch: mean of means",
    "fit's running mean, not evaluate",
    "Loss on probabilities: clipping",
    "Double softmax",
    "ReLU at exactly 0, as maximum",
    "float32",
    "Batch norm: momentum",
    "Batch norm: epsilon",
    "Batch norm: running variance",
    "Inputs of another type",
    "Keras on PyTorch: float32 products",
)
# These can't be closed: a unit in the last place of a float32 is larger than the promise.
IN_32_BITS = ("float32", "Keras on PyTorch: float32 products")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    file = tmp_path_factory.mktemp("dials") / "lesson.pickle"
    subprocess.run([sys.executable, "-c", PROGRAM, str(file)], cwd=ROOT, check=True)
    return pickle.loads(file.read_bytes())


def test_every_dial_is_turned(lesson):
    assert tuple(row["difference"] for row in lesson["verdicts"]) == DIALS


@pytest.mark.parametrize("dial", DIALS)
def test_dial_makes_a_gap_and_numpy_closes_it(lesson, dial):
    row = next(row for row in lesson["verdicts"] if row["difference"] == dial)
    assert row["whose"] and row["align"]
    assert np.max(row["gap"]) > 1e-9
    if dial in IN_32_BITS:
        assert row["why_not"]
        assert 1e-12 < row["left"] < 1e-3
    else:
        assert "why_not" not in row
        assert row["left"] <= 1e-12


def test_keras_on_pytorch_agrees_once_its_products_have_64_bits(lesson):
    assert lesson["on_backend"]["torch"]["type"] == "float32"
    assert lesson["mended"] <= 1e-12


def test_keras_on_jax_agrees_where_jax_is_installed(lesson):
    if "jax" not in lesson["on_backend"]:
        pytest.skip("JAX is not installed")
    steps = len(lesson["agreed"])
    losses = lesson["on_backend"]["jax"]["losses"][:steps]
    np.testing.assert_allclose(losses, lesson["agreed"], rtol=1e-12)


def test_gradient_of_a_clipped_loss_is_exactly_zero(lesson):
    assert not lesson["clipped_gradient"].any()


def test_slopes_at_zero(lesson):
    assert list(lesson["slopes"].values()) == [0, 0, 0.5, 1]


def test_pytorch_refuses_another_type(lesson):
    assert lesson["message"] == "raises RuntimeError"
