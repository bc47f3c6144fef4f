"""The solutions of the exercises, as this run has printed them: the same in all three, and right."""

import re

import numpy as np
import pytest

from helpers import lessons
from helpers.records import TOOLS

LESSONS = ("01_matmul", "02_gradient", "03_mlp")
# What a solution says: numbers, names in quotes, yes or no.
SAID = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|'[^']*'|\bTrue\b|\bFalse\b|does not fit")


def solutions(notebook):
    """What each solution of a notebook says, in a list by its cell's id."""
    found = {}
    for cell in notebook.cells:
        if re.fullmatch(r"exercise-[\w-]+-solution", cell.id):
            text = "".join(output.get("text", "") for output in cell.outputs)
            found[cell.id] = [float(said) if said[-1].isdigit() else said for said in SAID.findall(text)]
    return found


@pytest.mark.parametrize("lesson", LESSONS)
def test_siblings_solutions_say_the_same(ran, lesson):
    first, *others = [solutions(ran(f"{lesson}_{tool}")) for tool in TOOLS]
    assert all(first.values()) and len(first) >= 3
    for other in others:
        assert other == first


# The right answers, by other means than the solutions'.


def shapes():
    stacks = np.broadcast_shapes((4, 1), (5,))
    with pytest.raises(ValueError):
        np.broadcast_shapes((2, 3), (2,))
    operands = [(4, 1, 2, 3), (5, 3, 2), *2 * [(2, 3), (2, 1)][:2], (2, 3), (2,), (3, 1), (3,)]
    return stacks, operands
