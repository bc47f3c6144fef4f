"""Lesson 22 measures the lessons as they are: another line in a lesson is another figure in the verdict."""

import json
import re
import subprocess
import sys

import pytest

from helpers import ROOT, lessons

pytest.importorskip("torch")
pytest.importorskip("tensorflow")

# A copy of the lessons in which NumPy's model has one more line, which changes no number, measured in a
# process of its own (PyTorch has to come before TensorFlow). What takes long and isn't looked at is left out.
PROGRAM = """
import json, shutil, sys
from pathlib import Path
import nbformat
from helpers import lessons

copy = Path(sys.argv[1]) / "notebooks"
shutil.copytree(lessons.NOTEBOOKS, copy)
path = copy / "03_mlp_numpy.ipynb"
notebook = nbformat.read(path, as_version=4)
(cell,) = (cell for cell in notebook.cells if cell.id == "model-forward")
cell.source = cell.source.replace("    return Z1", "    Z2 = Z2 + 0.0\\n    return Z1")
nbformat.write(notebook, path)
lessons.NOTEBOOKS = copy

parts = ("flex-", "ease-", "speed-", "control-intervene-run")
skip = [cell.id for cell in lessons.cells("22_key_differences") if cell.id.startswith(parts)]
lesson = lessons.load("22_key_differences", until="verdict-development", skip=skip)
lesson["claim"]("all", "", "1", [True, True])
lesson["claim"]("some", "", "1", [True, False])
lesson["claim"]("none", "", "1", [False, False])
Path(sys.argv[1], "rows.json").write_text(json.dumps(lesson["verdicts"]), encoding="utf-8")
"""


LESSONS = ("22_key_differences",)


@pytest.fixture(scope="module")
def with_a_line_more(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lessons")
    subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, check=True)
    return json.loads((folder / "rows.json").read_text(encoding="utf-8"))


def rows_of(cell_id, name="22_key_differences"):
    """The rows of a table that a cell shows, or, in a lesson, says."""
    (cell,) = (cell for cell in lessons.cells(name) if cell.id == cell_id)
    text = cell.outputs[0].data["text/markdown"] if cell.cell_type == "code" else cell.source
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip("| ").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def committed():
    return rows_of("verdict-table")


def numbers(text):
    return {tool: float(figure) for tool, figure in re.findall(r"(\w[\w' ]*?) ([\d.]+)(?:,|$)", text)}


@pytest.mark.makers
def test_a_line_more_is_another_figure(with_a_line_more, committed):
    assert {row["claim"] for row in with_a_line_more[:-3]} <= {claim for claim, *_ in committed}
    shown = {claim: figure for claim, _, figure, _ in committed}
    for row in with_a_line_more[:-3]:
        before, after = numbers(shown[row["claim"]]), numbers(row["figure"])
        assert before.keys() == after.keys()
        # Frameworks' figures stay; so does what isn't about the model that was changed.
        changed = {tool: after[tool] - before[tool] for tool in before if after[tool] != before[tool]}
        about_lines = row["measured"].startswith(("lines of ours", "lines of lesson 3"))
        assert changed == ({"NumPy": pytest.approx(1, abs=0.11)} if about_lines else {}), row["claim"]


@pytest.mark.makers
def test_the_word_follows_from_the_figures(with_a_line_more):
    assert [row["word"] for row in with_a_line_more[-3:]] == ["holds", "holds partly", "false here"]


def test_every_claim_is_in_the_verdict_once(committed):
    claims = [claim for claim, *_ in committed]
    assert len(set(claims)) == len(claims) >= 12
    for claim, measured, figure, word in committed:
        assert measured and re.search(r"\d", figure), claim
        assert word in ("holds", "holds partly", "false here"), claim


# What lesson 3's ledgers may say of a stage, given who was found to own it.
WORDS = {
    "ours": ("ours",),
    "on request": ("on request",),
    "the tool's": ("the tool's",),
    "no choice": ("the tool's; no choice",),
}


@pytest.mark.parametrize(("tool", "column"), [("numpy", 1), ("keras", 2), ("pytorch", 3)])
def test_the_ledgers_of_lesson_3_say_what_is_measured(tool, column):
    ledger = {stage: owner for stage, owner, _ in rows_of("ledger-table", f"03_mlp_{tool}")}
    measured = {row[0]: row[column].partition(" (")[0] for row in rows_of("control-table")}
    measured["loop"] = measured["step"]
    if tool == "keras":
        measured["checkpoint"] = "on request"  # by `save`; page 22 lets `fit` save, through a callback
    assert len(ledger.keys() & measured.keys()) == 9
    for stage in ledger.keys() & measured.keys():
        assert ledger[stage].startswith(WORDS[measured[stage]]), stage
