"""The escape hatches of lesson 22: three tools agree, finite differences confirm it, a broken line shows."""

import json
import subprocess
import sys

import pytest

from helpers import ROOT

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
# The page itself holds that the tools agree (helpers.records); here its lines are broken, one at a time.
pytestmark = pytest.mark.makers

LESSONS = ("22_key_differences",)
TASKS = {
    "label smoothing": "smooth",
    "focal loss": "focal",
    "own gradient": "quantised",
    "gradient penalty": "penalty",
    "two optimizers": "two",
}
TOOLS = ("NumPy", "Keras", "PyTorch")
# One line of one cell each: task, tool, what stands there, what takes its place.
BROKEN = (
    ("label smoothing", "NumPy", "+ SMOOTH / 10  #", "+ SMOOTH / 9  #"),
    ("label smoothing", "Keras", "Crossentropy(label_smoothing=SMOOTH)", "Crossentropy()"),
    ("label smoothing", "PyTorch", "EntropyLoss(label_smoothing=SMOOTH)", "EntropyLoss()"),
    ("focal loss", "NumPy", "f = (1 - p) ** FOCUS - FOCUS", "f = (1 - p) ** FOCUS + FOCUS"),
    ("focal loss", "Keras", "-((1 - p) ** FOCUS) *", "-((1 - p) ** 3) *"),
    ("focal loss", "PyTorch", "-((1 - log_p.exp()) ** FOCUS *", "-((1 - log_p.detach().exp()) ** FOCUS *"),
    ("own gradient", "NumPy", "dA1 * ((Z1 > 0) & (Z1 < 1))", "dA1 * (Z1 > 0)"),
    ("own gradient", "Keras", "ramp = keras.ops.clip(Z, 0, 1)", "ramp = keras.ops.relu(Z)"),
    ("own gradient", "PyTorch", "/ 4 - ramp).detach()", "/ 4 - ramp)"),
    ("gradient penalty", "NumPy", " + dH.T @ (P - Y)", ""),
    ("gradient penalty", "NumPy", " + dS.T @ D", ""),
    ("gradient penalty", "NumPy", "dG - (P * dG).sum(axis=1, keepdims=True)", "dG"),
    (
        "gradient penalty",
        "Keras",
        "tf.reduce_sum(S**2, axis=1)",
        "tf.reduce_sum(tf.stop_gradient(S) ** 2, axis=1)",
    ),
    ("gradient penalty", "PyTorch", "(S**2).sum(dim=1)", "(S.detach() ** 2).sum(dim=1)"),
    ("two optimizers", "NumPy", "beta1=BETAS[0]", "beta1=0.9"),
    ("two optimizers", "Keras", "beta_1=BETAS[0], beta_2", "beta_2"),
    ("two optimizers", "PyTorch", "eps=EPSILON", "eps=1e-8"),
)

# In a process of its own: PyTorch has to come before TensorFlow, whatever other tests have imported, and the
# lesson sets thread counts and types for the whole process.
PROGRAM = """
import json, sys
from helpers import lessons  # not NumPy, for which the lesson first sets the number of threads

wanted = json.loads(sys.argv[1])
heading, other = "", []  # the program cells of other sections
for cell in lessons.cells("22_key_differences"):
    if cell.cell_type == "markdown" and cell.source.startswith("## "):
        heading = cell.source.splitlines()[0][3:]
    if cell.cell_type == "code" and heading not in ("", "Setup", "Flexibility"):
        other.append(cell.id)


def load(skip=(), **settings):
    return lessons.load("22_key_differences", until=LAST, skip=[*other, *skip], **settings)


def rows(lesson):
    keys = ("task", "tool", "lines", "loop", "overridden", "gap", "finite")
    return [{key: row[key] for key in keys} for row in lesson["flexibility"]]


whole = load()
plain = whole["begin_numpy"](whole["N"])[0](whole["few"])
found = {"rows": rows(whole), "broken": []}
found["moved"] = {
    f"{task}, {tool}": float(abs(run["losses"] / plain - 1).max())
    for (task, tool), run in whole["kept"].items()
}
own_fit = type("OwnFit", (whole["keras"].Sequential,), {"fit": lambda self: None, "__module__": "reader"})
found["own fit"] = whole["loop_of"]("Keras", {"model": own_fit()}, [0] * whole["STEPS"])
names = wanted["tasks"]
attempts = {f"flex-{name}-{tool.lower()}" for name in names.values() for tool in wanted["tools"]}
for task, tool, old, new in wanted["broken"]:
    # Of the program only this task, in this tool and one other.
    tools = {"NumPy", "PyTorch" if tool == "NumPy" else tool}
    skip = attempts - {f"flex-{names[task]}-{each.lower()}" for each in tools}
    skip |= {f"flex-{name}-held" for each, name in names.items() if each != task}
    skip |= set() if task == "gradient penalty" else {"flex-penalty-inner"}
    broken = load(skip=skip, replace={old: new}, ten=whole["ten"])
    found["broken"].append(rows(broken))
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(found, file, default=float)
""".replace("LAST", repr("flex-two-held"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("hatches") / "found.json"
    wanted = json.dumps({"tasks": TASKS, "tools": TOOLS, "broken": BROKEN})
    subprocess.run([sys.executable, "-c", PROGRAM, wanted, str(file)], cwd=ROOT, check=True)
    return json.loads(file.read_text(encoding="utf-8"))


def noticed(row):
    return row["gap"] > 1e-10 or row["finite"] > 1e-6


def test_every_task_is_done_in_every_tool(found):
    assert [(row["task"], row["tool"]) for row in found["rows"]] == [
        (t, tool) for t in TASKS for tool in TOOLS
    ]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("task", TASKS)
def test_tools_agree_and_finite_differences_do(found, task, tool):
    row = next(row for row in found["rows"] if (row["task"], row["tool"]) == (task, tool))
    assert row["gap"] <= 1e-10
    assert 0 < row["finite"] <= 1e-6
    assert row["lines"] > 0
    assert found["moved"][f"{task}, {tool}"] > 1e-3, "the change has changed nothing"


def test_what_became_of_the_loops(found):
    loops = {row["loop"] for row in found["rows"] if row["tool"] == "Keras"}
    assert loops == {"fit survives"} and found["own fit"] == "fit given up"
    overridden = {(row["task"], row["tool"]): row["overridden"] for row in found["rows"] if row["overridden"]}
    assert overridden == {
        ("gradient penalty", "Keras"): ["Penalised.train_step"],
        ("two optimizers", "Keras"): ["TwoOptimizers.train_step"],
    }


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[f"{b[0]}, {b[1]}: {b[2]}" for b in BROKEN])
def test_a_broken_line_is_noticed(found, number):
    task, tool, *_ = BROKEN[number]
    rows = found["broken"][number]
    assert {row["task"] for row in rows} == {task}
    assert any(noticed(row) for row in rows if tool in ("NumPy", row["tool"]))
