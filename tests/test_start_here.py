"""The page that a reader opens first: its map is complete, what it says is so, and it needs no framework."""

import os
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import test_formulas

from helpers import ROOT, counting, installation, lessons, plotting, records, runner

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


def source(name, cell_id):
    (found,) = (cell.source for cell in lessons.cells(name) if cell.id == cell_id)
    return found


def rows():
    """Each row of the map: the minutes, and the notebooks it links."""
    for row in re.findall(r"^\| \d+\. .*$", source("00_start_here", "map"), re.MULTILINE):
        _, said, _ = row.strip("| ").split(" | ")
        yield said, re.findall(r"\]\((\w+)\.ipynb\)", row)


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


def section(name, heading):
    """The cells of a notebook under a heading."""
    found = []
    for cell in lessons.cells(name):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            current = cell.source.splitlines()[0][3:]
        found += [cell] if cell.id != "title" and current == heading else []
    return found


def test_an_hour_is_an_hour():
    (hour,) = re.findall(r"\*\*One hour\.\*\*.*", text("00_start_here"))
    here, *there = map(int, re.findall(r"\((\d+) minutes\)", hour))
    (first,) = (said.split(", ")[0] for said, names in rows() if names == ["00_start_here"])
    assert here == int(first) and 40 <= here + sum(there) <= 55
    for heading, said in zip(("In short", "What the tool did for us"), there, strict=True):
        cells = [cell for tool in records.TOOLS for cell in section(f"03_mlp_{tool}", heading)]
        assert cells and abs(counting.minutes(cells) - 1 - said) <= 1, heading  # one of them is for the run


# What the page says of itself.

UNTIL_FRAMEWORKS = ("setup-imports", "library-data", "constants", "library-functions")
DISPLAY = re.compile(r"\$\$(.+?)\$\$")
BROKEN = {"w - y": "y - w", r"\frac{2}{n}": r"\frac{1}{n}", "X w": "X y", r"X^\top (X w - y)": "(X w - y)"}


def equation_and_line(latex):
    """What the equation of the gradient says, and what its line computes, from the same random arrays."""
    page = lessons.load("00_start_here", also=UNTIL_FRAMEWORKS)
    rng = np.random.default_rng(0)
    X, y, w = (rng.uniform(0.3, 1.7, shape) for shape in ((5, 2), (5, 1), (2, 1)))
    page.update(X=X, y=y)
    equation = test_formulas.Reader(latex)
    assert equation.left == "dw"
    said = test_formulas.value(equation, equation.sides[0], {"n": 5, "X": X, "y": y, "w": w})
    return said, page["gradient"](w)


def test_the_equation_says_what_its_line_computes():
    (latex,) = DISPLAY.findall(text("00_start_here"))
    np.testing.assert_allclose(*equation_and_line(latex), rtol=1e-12)


@pytest.mark.parametrize("old", BROKEN)
def test_a_broken_equation_is_noticed(old):
    (latex,) = DISPLAY.findall(text("00_start_here"))
    assert latex.count(old) == 1
    try:
        said, computed = equation_and_line(latex.replace(old, BROKEN[old]))
    except ValueError:
        return  # the shapes don't fit
    assert said.shape != computed.shape or not np.allclose(said, computed)


STOPS = {
    "NumPy": "spectrum-numpy",
    "PyTorch tensors": "spectrum-tensors",
    "autograd": "spectrum-autograd",
    "`nn.Module`": "spectrum-module",
    "optimizer, our loop": "spectrum-loop",
    "`fit`": "spectrum-fit",
}


def spectrum():
    """What the table says: {stop: {stage: owner}}."""
    lines = re.findall(r"^\| [\w`].*$", source("00_start_here", "spectrum"), re.MULTILINE)
    (_, _, *stages), *table = [line.strip("| ").split(" | ") for line in lines]
    return {stop: dict(zip(stages, owners, strict=True)) for stop, _, *owners in table}


@pytest.fixture
def page(monkeypatch):
    """The page up to the spectrum, and a list of (stage, who asks) to which each call of a tool is noted."""
    keras, tf, torch = map(pytest.importorskip, ("keras", "tensorflow", "torch"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    width, asked = keras.config.floatx(), []

    def note(stage, owner, name):
        real = getattr(owner, name)

        def noted(*arguments, **named):
            caller = sys._getframe(1).f_globals["__name__"]
            asked.append((stage, "on request" if caller == "00_start_here" else "the tool's"))
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    defines = ("callers-define", "callers-imports", "callers-pytorch-define", "callers-keras-define")
    page = lessons.load("00_start_here", also=("setup-check", *UNTIL_FRAMEWORKS, *defines))
    note("gradient", torch.autograd, "grad")
    note("gradient", tf.GradientTape, "gradient")
    note("update", keras.optimizers.SGD, "apply")
    note("loop", keras.Model, "fit")
    begin = page["start"]
    page["start"] = lambda: asked.append(("weights", "ours")) or begin()
    page |= {"answers": [], "after": {}}
    yield page, asked
    keras.config.set_floatx(width)


@pytest.mark.parametrize("stop", STOPS)
def test_the_spectrum_says_who_does_what(page, stop):
    page, asked = page
    exec(source("00_start_here", STOPS[stop]), page)  # alone: it needs nothing of another witness
    assert [*page["after"]] == [stop.strip("`")]
    owners = dict(asked)
    # Nobody else makes weights, and no line of ours turns the loop, where these calls are missing or made.
    owners = {"weights": "the tool's", "gradient": "ours", "update": "ours", "loop": "ours"} | owners
    if ("loop", "on request") in asked:
        owners["loop"] = "the tool's"
    assert spectrum()[stop] == owners


def test_every_stop_has_a_witness():
    assert [*spectrum()] == [*STOPS]


def test_green_and_pale_are_as_the_page_says():
    fig, ax = plt.subplots()
    plotting.call_stacks(ax, {"a": [("ours", "main"), ("torch", "call")]})
    ours, theirs = (patch.get_facecolor() for patch in ax.patches)
    plt.close(fig)
    looks = {"Green": max(ours) == ours[3] == 1 and max(ours[:3]) == ours[1], "pale": theirs[3] < 0.5}
    said = re.search(r"(\w+) storeys are ours, (\w+) ones are somebody else's", text("00_start_here"))
    assert said and [looks.get(word) for word in said.groups()] == [True, True]


def test_the_solutions_are_right(ran):
    printed = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in ran("00_start_here").notebook.cells
        if cell.id.endswith("-solution")
    }
    # The error is multiplied by the same matrix at every step.
    X, y = np.array([[1, 0], [1, 1], [1, 2]]), np.array([1, 3, 5])
    hessian = 2 / 3 * X.T @ X
    turn, off = np.eye(2) - 0.3 * hessian, -np.linalg.solve(hessian, 2 / 3 * X.T @ y)
    sizes = [np.abs(hessian @ np.linalg.matrix_power(turn, k) @ off).max() for k in range(100)]
    steps = next(k for k, size in enumerate(sizes) if size <= 0.001)
    assert printed["exercise-modify-solution"] == f"the script stops after {steps} steps\n"
    assert printed["exercise-build-solution"] == f"it stops after {steps} steps\n"
    stacks = printed["exercise-predict-solution"].split("sorted:")
    assert ["numpy" in stack for stack in stacks] == [True, False]


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
    assert "PyTorch is not installed" in printed["callers-imports"]
    assert "Keras and TensorFlow are not installed" in printed["callers-imports"]
    assert printed["callers-pytorch-run"] == printed["callers-keras-run"] == ""
    assert printed["spectrum-check"].split() == ["NumPy", "[1.8", "2.6]", "within", "1e-14"]


@pytest.mark.parametrize("name", sorted(path.stem for path in lessons.NOTEBOOKS.glob("*_numpy.ipynb")))
def test_numpy_notebooks_load_no_framework(ran, name):
    assert ran(name).notebook.metadata["frameworks"] == []


def test_the_others_load_theirs(ran):
    # Or the test above would pass whatever is loaded.
    assert ran("00_start_here").notebook.metadata["frameworks"] == ["keras", "tensorflow", "torch"]
