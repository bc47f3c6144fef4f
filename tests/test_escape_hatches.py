"""The changes of lesson 5, which page 22 measures: three tools agree, and a broken line stops the page."""

import json
import subprocess
import sys

import pytest

from helpers import ROOT

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
# The pages themselves hold that the tools agree (helpers.records); here lines are broken, one at a time.
pytestmark = pytest.mark.makers

LESSONS = ("05_custom_training", "22_key_differences")
TASKS = ("label smoothing", "focal loss", "own gradient", "gradient penalty", "two optimizers")
TOOLS = ("NumPy", "Keras", "PyTorch")
# One line of one tool each: what stands there, what takes its place, and the cell that stops at the latest.
BROKEN = {
    "NumPy": (
        ("+ SMOOTH / 10  #", "+ SMOOTH / 9  #", "smoothing"),
        ("(1 - p) ** FOCUS - pull", "(1 - p) ** FOCUS + pull", "focal-loss"),
        ("((0 < Z1) & (Z1 < 1))", "(0 < Z1)", "stairs"),
        (" + dH.T @ G", "", "penalty-step"),
        (" + dS.T @ D", "", "penalty-step"),
        ("(dG - (P * dG).sum(axis=1, keepdims=True))", "dG", "penalty-step"),
        ("dS = 2 * PENALTY", "dS = PENALTY", "penalty-step"),
        ("m[:] = MOMENTUM * m -", "m[:] = -", "record"),
        ("sum(g) / PARTS", "sum(g)", "accumulation-run"),
    ),
    "Keras": (
        ("Crossentropy(label_smoothing=SMOOTH)", "Crossentropy()", "record"),
        ("gamma=FOCUS", "gamma=3", "record"),
        ("slope = (Z > 0) & (Z < 1)", "slope = Z > 0", "stairs"),
        ("return loss + PENALTY *", "return loss +", "record"),
        ('if metric.name == "loss":', "if False:", "two-model"),
        ("momentum=MOMENTUM)\nmodel", "momentum=0.0)\nmodel", "record"),
    ),
    "PyTorch": (
        ("EntropyLoss(label_smoothing=SMOOTH)", "EntropyLoss()", "record"),
        ("-((1 - log_p.exp()) ** FOCUS *", "-((1 - log_p.detach().exp()) ** FOCUS *", "focal-loss"),
        ("return dA * ((Z > 0) & (Z < 1))", "return dA", "stairs-model"),
        ("create_graph=True", "retain_graph=True", "penalty-step"),
        ('"momentum": MOMENTUM', '"momentum": 0.0', "record"),
        ("(loss / PARTS).backward()", "loss.backward()", "accumulation-run"),
        ("for dw in grads.values()", "for dw in [*grads.values()][:2]", "examples-run"),
    ),
}

# In a process of its own for each tool: a page sets thread counts and types for the whole process.
PROGRAM = """
import contextlib, io, json, sys
from helpers import lessons  # not NumPy, for which the lesson first sets the number of threads

name, broken = sys.argv[1], json.loads(sys.argv[2])
found = []
for old, new, until in [("", "", "two-model" if "keras" in name else "two-step"), *broken]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            lessons.load(name, until=until, replace={old: new} if old else None)
        found.append("")
    except (AssertionError, RuntimeError) as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps(found))
"""

# Page 22 without its other sections; PyTorch comes before TensorFlow, whatever other tests have imported.
ROWS = """
import json
from helpers import lessons

heading, other = "", []
for cell in lessons.cells("22_key_differences"):
    if cell.cell_type == "markdown" and cell.source.startswith("## "):
        heading = cell.source.splitlines()[0][3:]
    if cell.cell_type == "code" and heading not in ("", "Setup", "Flexibility"):
        other.append(cell.id)
page = lessons.load("22_key_differences", until="flex-rows", skip=other)
for row in page["flexibility"]:
    losses, _ = row.pop("run")
    row["moved"] = float(abs(losses / page["five"][row["tool"]]["kept"]["lesson 3"][0] - 1).max())
    promised, found = page["five"][row["tool"]]["checked"][page["TASKS"][row["task"]]]
    row["slopes"] = float(abs(promised / found - 1))
print(json.dumps([page["flexibility"], page["loop_of"]("Keras", False, True)]))
"""


def run(program, *words):
    command = [sys.executable, "-c", program, *words]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def rows():
    return run(ROWS)


@pytest.fixture(scope="module")
def stopped():
    return {
        tool: run(PROGRAM, f"05_custom_training_{tool.lower()}", json.dumps(BROKEN[tool])) for tool in TOOLS
    }


def test_every_task_is_done_in_every_tool(rows):
    assert [(row["task"], row["tool"]) for row in rows[0]] == [(t, tool) for t in TASKS for tool in TOOLS]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("task", TASKS)
def test_tools_agree_and_two_losses_do(rows, task, tool):
    row = next(row for row in rows[0] if (row["task"], row["tool"]) == (task, tool))
    assert row["gap"] <= 1e-12 and 0 < row["slopes"] <= 2e-8
    assert row["nodes"] > 0
    assert row["moved"] > 1e-3, "the change has changed nothing"


def test_what_became_of_the_loops(rows):
    found, own_fit = rows
    loops = {row["loop"] for row in found if row["tool"] == "Keras"}
    assert loops == {"fit survives"} and own_fit == "fit given up"
    overridden = {(row["task"], row["tool"]): row["overridden"] for row in found if row["overridden"]}
    assert overridden == {
        ("own gradient", "PyTorch"): ["Stairs.forward", "Stairs.backward"],
        ("gradient penalty", "Keras"): ["Penalised.compute_loss"],
        ("two optimizers", "Keras"): ["TwoOptimizers.train_step"],
    }


@pytest.mark.parametrize(
    ("tool", "number"), [(tool, number) for tool in TOOLS for number in range(len(BROKEN[tool]))]
)
def test_a_broken_line_stops_the_page(stopped, tool, number):
    whole, *broken = stopped[tool]
    assert not whole, "the page stops as it stands"
    assert broken[number].startswith(("AssertionError", "RuntimeError")), BROKEN[tool][number]
