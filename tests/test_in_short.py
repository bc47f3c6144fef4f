"""In short: each program stands in its section, runs alone, and says what it says on the page."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import dropwhile, takewhile

import nbformat
import pytest

from helpers import ROOT, THREADS, lessons, runner
from helpers.data import FILES
from helpers.records import TOOLS

LESSONS = ("01_matmul", "02_gradient", "03_mlp", "04_optimizers", "05_custom_training", "06_convolution")
LESSONS += ("07_recurrence", "08_probability")
LESSONS += ("10_deployment",)
NAMES = [f"{lesson}_{tool}" for lesson in LESSONS for tool in TOOLS]
MODULES = {"keras": "tensorflow", "pytorch": "torch"}
LOADER = r"^from helpers.data import load_mnist\n"
CALL = r"^.*load_mnist\(.*\)$"
SEED = r"^SEED = \d+$"


def tags(cell):
    return cell.metadata.get("tags", ())


def in_short(name):
    """The cells of the section In short, texts and code."""
    first, *rest = dropwhile(lambda cell: cell.id != "in-short", lessons.cells(name))
    return [first, *takewhile(lambda cell: not cell.source.startswith("## "), rest)]


def program(name):
    return "\n\n\n".join(cell.source for cell in lessons.cells(name) if "in-short" in tags(cell)) + "\n"


def by_hand(source):
    """The program without the suite: the lines that lesson 3 shows in the place of the loader's."""
    (text,) = (cell.source for cell in lessons.cells("03_mlp_numpy") if cell.id == "data")
    (lines,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    begin = f'with np.load("{FILES["5k"].name}")'
    assert len(lines[lines.index(begin) :].splitlines()) == 3 and lines.endswith("\n")
    source, imported = re.subn(LOADER, "", source, flags=re.MULTILINE)
    source, called = re.subn(CALL, lambda _: lines.rstrip(), source, flags=re.MULTILINE)
    assert imported == called and "helpers" not in source
    return 'import sys\n\nsys.modules["helpers"] = None  # as if there were none\n' + source


@cache
def alone(name, folder):
    """What the program prints, each time in a process of its own: as it stands, with the suite installed; and
    without the suite, in lesson 3 with two other seeds. A program that needs no digits runs once."""
    digits, lesson_3, started = "helpers" in program(name), name.startswith("03"), []
    for seed in [None] * digits + [1] + [2] * lesson_3:
        source = program(name) if seed is None else by_hand(program(name))
        if lesson_3:
            seeded, found = re.subn(SEED, f"SEED = {seed}", source, flags=re.MULTILINE)
            assert found == 1
            source = (source if seed is None else seeded) + '\nprint("ACCURACY", float(accuracy))\n'
        here = folder / f"{name}-{seed}"
        here.mkdir(exist_ok=True)
        (here / "in_short.py").write_text(source, encoding="utf-8")
        if digits and seed is not None:
            shutil.copy(ROOT / "data" / FILES["5k"].name, here)
        # (One thread: more would wait for each other on a busy machine.)
        env = os.environ | dict.fromkeys(THREADS, "1") | {"MPLBACKEND": "Agg"}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        started.append(subprocess.Popen([sys.executable, "in_short.py"], cwd=here, env=env, **pipes))
    ended = [process.communicate(timeout=300) for process in started]
    for process, (_, stderr) in zip(started, ended, strict=True):
        assert process.returncode == 0, stderr
    return [stdout for stdout, _ in ended]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return lambda name: alone(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_program_stands_in_its_section(name):
    code = [cell for cell in in_short(name) if cell.cell_type == "code"]
    marked = [cell.id for cell in lessons.cells(name) if "in-short" in tags(cell)]
    assert [cell.id for cell in code][: len(marked)] == marked and 1 <= len(marked) <= 3
    assert all(cell_id.startswith("in-short-") for cell_id in marked)
    assert not any("program" in tags(cell) for cell in code)
    if name >= "03":
        assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_its_comments_name_the_sections_that_explain_it(name):
    text = "\n".join(cell.source for cell in lessons.cells(name) if cell.cell_type == "markdown")
    named = re.findall(r"# ([A-Z][^:,;\n]*)", program(name))
    assert named and set(named) <= set(re.findall(r"^##+ (.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_alone(printed, name):
    pytest.importorskip(MODULES.get(name.rpartition("_")[2], "numpy"))
    assert all(printed(name))


@pytest.mark.parametrize("tool", TOOLS)
def test_it_reads_digits_whatever_the_seed(printed, tool):
    pytest.importorskip(MODULES.get(tool, "numpy"))
    found = re.findall(r"^ACCURACY (.+)$", "\n".join(printed(f"03_mlp_{tool}")), re.MULTILINE)
    assert len(found) == 3 and min(map(float, found)) >= 0.91, found


def test_numpys_program_can_be_pasted_anywhere():
    assert sum(bool(line.strip()) for line in program("03_mlp_numpy").splitlines()) <= 70


def figures(cell):
    """The numbers that a cell has printed or shown, but for times."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    (*_, pattern) = runner.MASKS
    found = re.findall(pattern, runner.masked("".join(parts), runner.TIMES))
    return [float(number.replace(",", "")) for number in found]


@pytest.mark.parametrize("name", NAMES)
def test_figures_in_float32_are_near_those_on_the_page(ran, name):
    # Their digits are masked where nbval compares.
    page = nbformat.read(lessons.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    now = {cell.id: cell for cell in ran(name).notebook.cells}
    for cell in page.cells:
        if runner.FLOAT32 in tags(cell):
            assert figures(now[cell.id]) == pytest.approx(figures(cell), rel=0, abs=0.03), cell.id
