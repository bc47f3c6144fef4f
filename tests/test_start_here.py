"""The page that a reader opens first: its map is complete, and it needs no framework."""

import os
import re

import pytest

from helpers import ROOT, installation, lessons, runner

LESSONS = ("00_start_here",)

# What Python looks like where neither framework is installed; a kernel reads it when it starts.
WITHOUT_FRAMEWORKS = """
import importlib.metadata, sys

ABSENT = {"keras", "tensorflow", "torch"}
version = importlib.metadata.version

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

def version_or_none(name):
    if name in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

sys.meta_path.insert(0, Absent())
importlib.metadata.version = version_or_none
"""


def text(name):
    return "\n".join(cell.source for cell in lessons.cells(name) if cell.cell_type == "markdown")


def headings(name):
    return {title.replace(" ", "-") for title in re.findall(r"^## (.+)$", text(name), re.MULTILINE)}


def rows():
    """Each row of the map: the minutes, and the notebooks it links."""
    (table,) = (cell.source for cell in lessons.cells("00_start_here") if cell.id == "map")
    for row in re.findall(r"^\| \d+ .*$", table, re.MULTILINE):
        yield int(re.search(r"\| (\d+) \| \[", row)[1]), re.findall(r"\]\((\w+)\.ipynb\)", row)


def test_the_map_links_every_notebook_once():
    linked = [name for _, names in rows() for name in names]
    assert sorted(linked) == sorted(path.stem for path in lessons.NOTEBOOKS.glob("*.ipynb"))


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text("00_start_here"))
    assert links
    for file, heading in links:
        assert not file or (lessons.NOTEBOOKS / file).is_file(), file
        name = file.removesuffix(".ipynb") or "00_start_here"
        assert not heading or heading in headings(name), f"{file}#{heading}"


def test_the_minutes_are_those_that_the_lessons_say():
    for minutes, names in rows():
        for name in names:
            assert f"about {minutes} minutes to read" in text(name), name


def test_an_hour_is_an_hour():
    (hour,) = re.findall(r"\*\*One hour\.\*\*.*\n?.*", text("00_start_here"))
    assert sum(int(minutes) for minutes in re.findall(r"\((\d+)(?: minutes)?\)", hour)) == 60


@pytest.fixture
def without_frameworks(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_FRAMEWORKS, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


def test_this_page_runs_without_frameworks(without_frameworks):
    notebook = runner.execute(lessons.NOTEBOOKS / "00_start_here.ipynb", without_frameworks)
    printed = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    pins = installation.pins()
    assert printed["setup-check"].startswith("3 things to mend:")
    assert all(f"%pip install {name}=={pins[name]}" in printed["setup-check"] for name in installation.TITLES)
    assert printed["callers-pytorch-run"].startswith("PyTorch is not installed")
    assert printed["callers-keras-run"].startswith("Keras and TensorFlow are not installed")
    assert printed["spectrum-check"].split() == ["NumPy", "[1.8", "2.6]", "within", "1e-14"]


@pytest.mark.parametrize("name", sorted(path.stem for path in lessons.NOTEBOOKS.glob("*_numpy.ipynb")))
def test_numpy_notebooks_load_no_framework(ran, name):
    assert ran(name).notebook.metadata["frameworks"] == []


def test_the_others_load_theirs(ran):
    # Or the test above would pass whatever is loaded.
    assert ran("00_start_here").notebook.metadata["frameworks"] == ["keras", "tensorflow", "torch"]
