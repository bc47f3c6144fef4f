"""The changes of lesson 5, whose bill page 22 shows: three tools agree, and a broken line stops the page."""

import json
import subprocess
import sys

import pytest

from helpers import ROOT, counting, records

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
# The pages themselves hold that the tools agree (helpers.records); here lines are broken, one at a time.
pytestmark = pytest.mark.makers

LESSONS = ("05_custom_training",)
TASKS = ("smoothing", "focal", "stairs", "penalty", "two", "accumulation")
TOOLS = ("NumPy", "Keras", "PyTorch")
LAST = {"Keras": "accumulation"} | dict.fromkeys(("NumPy", "PyTorch"), "accumulation-run")
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

name, last, broken = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found, slopes = [], {}
for old, new, until in [("", "", last), *broken]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            page = lessons.load(name, until=until, replace={old: new} if old else None)
        slopes = slopes or {change: abs(told / seen - 1) for change, (told, seen) in page["checked"].items()}
        found.append("")
    except (AssertionError, RuntimeError) as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps([slopes, *found]))
"""


def run(program, *words):
    command = [sys.executable, "-c", program, *words]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def stopped():
    return {
        tool: run(PROGRAM, f"05_custom_training_{tool.lower()}", LAST[tool], json.dumps(BROKEN[tool]))
        for tool in TOOLS
    }


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("task", TASKS)
def test_tools_agree_and_something_has_changed(task, tool):
    lesson, numpy = (
        records.load(f"05_custom_training_{each.lower()}")[f"{task}_losses"] for each in (tool, "NumPy")
    )
    assert records.difference(task, lesson, numpy) <= 1e-12
    plain = records.load("03_mlp_numpy")["losses"][: len(lesson)]
    assert abs(lesson / plain - 1).max() > 1e-3, "the change has changed nothing"


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("task", TASKS)
def test_the_step_goes_down_as_two_losses_say(stopped, task, tool):
    slopes, *_ = stopped[tool]
    assert 0 < slopes[task] <= 2e-8


def test_what_became_of_the_loops():
    wishes = dict(zip(TASKS, TASKS, strict=True))
    bill = counting.cost("05_custom_training", "03_mlp", wishes)
    assert [(task, tool) for task, tool, *_ in bill] == [(task, tool) for task in TASKS for tool in TOOLS]
    assert all(nodes > 0 for _, _, nodes, *_ in bill)
    assert not any(loop for _, tool, *_, loop, _ in bill if tool == "Keras"), "fit survives"
    doors = {(task, tool): [d for d in each if "." in d and d[0].isupper()] for task, tool, *_, each in bill}
    assert {key: found for key, found in doors.items() if found} == {
        ("stairs", "PyTorch"): ["Stairs.forward", "Stairs.backward"],
        ("penalty", "Keras"): ["Penalised.compute_loss"],
        ("two", "Keras"): ["TwoOptimizers.train_step"],
    }


@pytest.mark.parametrize(
    ("tool", "number"), [(tool, number) for tool in TOOLS for number in range(len(BROKEN[tool]))]
)
def test_a_broken_line_stops_the_page(stopped, tool, number):
    _, whole, *broken = stopped[tool]
    assert not whole, "the page stops as it stands"
    assert broken[number].startswith(("AssertionError", "RuntimeError")), BROKEN[tool][number]
