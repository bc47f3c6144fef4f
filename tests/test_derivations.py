"""What a page takes apart is what it then uses: a network's inside, and a table worked out by hand."""

import numpy as np
import pytest

from helpers import lessons

LESSONS = ("02_gradient", "03_mlp")


def assert_same(one, other, name):
    assert np.shape(one) == np.shape(other), name
    scale = np.abs(other).max()
    assert scale > 0 and np.abs(np.asarray(one) - np.asarray(other)).max() <= 1e-14 * scale, name


def inside_keras(model, X):
    return model.layers[0](X).numpy(), model(X).numpy()


def inside_pytorch(model, X):
    import torch

    with torch.no_grad():
        A1 = torch.relu(model.hidden(torch.from_numpy(X)))
        return A1.numpy(), torch.softmax(model(torch.from_numpy(X)), dim=1).numpy()


INSIDE = {"keras": inside_keras, "pytorch": inside_pytorch}


@pytest.mark.parametrize("tool", INSIDE)
def test_the_hidden_units_inside_a_framework_are_those_of_forward(tool):
    pytest.importorskip({"keras": "tensorflow", "pytorch": "torch"}[tool])
    lesson = lessons.load(f"03_mlp_{tool}", until="model-start")
    numpy = lessons.load("03_mlp_numpy", until="model-forward")
    X = numpy["X_train"][:32]
    _, *expected = numpy["forward"](X, *numpy["start"])
    A1, P = INSIDE[tool](lesson["model"], X)
    np.testing.assert_allclose(A1, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(P, expected[1], rtol=0, atol=1e-12)


def test_the_table_by_hand_is_what_the_record_holds():
    by_hand = lessons.load("02_gradient_numpy", until="constants", also=["hand-run"])
    lesson = lessons.load("02_gradient_numpy", until="walk-define")
    found = lesson["gradients"](lesson["y"])
    record = lesson["record_of"](lesson["y"])
    # What was computed, in the order of the table; x, which was given, comes first.
    values = [value for value in record if value.parents or value.name == "x"]
    assert len(values) == 5
    for letter, value in zip("xabcy", values, strict=True):
        assert_same(by_hand[letter], value.data, letter)
        assert_same(by_hand[f"d{letter}"], found[value.number].data, f"d{letter}")
