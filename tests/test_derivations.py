"""A derivation goes step by step through its own cells: they compute what the function that follows does."""

import re
import sys

import numpy as np
import pytest

from helpers import lessons

LESSONS = ("02_gradient", "03_mlp")


def inside(function, *arguments):
    """The values of a function's own names when it returns."""
    found = {}

    def look(frame, event, _):
        if event == "return" and frame.f_code is function.__code__:
            found.update(frame.f_locals)

    sys.setprofile(look)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return found


def steps(lesson, pattern):
    return [cell.id for cell in lessons.cells(lesson) if re.fullmatch(pattern, cell.id)]


def assert_same(one, other, name):
    assert np.shape(one) == np.shape(other), name
    scale = np.abs(other).max()
    assert scale > 0 and np.abs(np.asarray(one) - np.asarray(other)).max() <= 1e-14 * scale, name


def test_the_model_step_by_step_is_forward():
    cells = steps("03_mlp_numpy", r"model-[az]\d")
    lesson = lessons.load("03_mlp_numpy", until="model-forward", also=cells)
    computed = inside(lesson["forward"], lesson["X"], *lesson["start"])
    own = computed.keys() - {"X", "W1", "b1", "W2", "b2"}
    assert len(own) == len(cells) == 3
    for name in own:
        assert_same(lesson[name], computed[name], name)


def test_the_gradients_step_by_step_are_backward():
    cells = steps("03_mlp_numpy", r"gradients-\d")
    before = [*steps("03_mlp_numpy", r"model-[az]\d"), "model-forward-check"]
    lesson = lessons.load("03_mlp_numpy", until="gradients-define", also=[*before, *cells])
    given = [lesson[name] for name in ("X", "Y", "Z1", "A1", "P", "W2")]
    computed = inside(lesson["backward"], *given)
    own = computed.keys() - {"X", "Y", "Z1", "A1", "P", "W2"}
    assert len(own) == 7 and len(cells) == 5
    for name in own:
        assert_same(lesson[name], computed[name], name)


@pytest.mark.parametrize("tool", ["keras", "pytorch"])
def test_the_hidden_units_inside_a_framework_are_those_of_forward(tool):
    pytest.importorskip({"keras": "tensorflow", "pytorch": "torch"}[tool])
    lesson = lessons.load(f"03_mlp_{tool}", until="model-start", also=["model-forward-check", "model-inside"])
    numpy = lessons.load("03_mlp_numpy", until="model-forward")
    X, A1, P = (np.asarray(getattr(lesson[name], "data", lesson[name])) for name in ("X", "A1", "P"))
    _, *expected = numpy["forward"](X, *numpy["start"])
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
