"""What lesson 22 counts with."""

import functools

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import counting, lessons

OLD = "def f(x):\n    y = 2 * x\n    return y"


@pytest.mark.parametrize(
    ("new", "count"),
    [
        (OLD, 0),
        (OLD.replace("x\n", "x  # twice\n\n"), 0),
        (OLD.replace("2 * x", "[\n        2,\n        x,\n    ]"), 4),
        (OLD.replace("2", "3"), 1),
        (OLD.replace("return", "y += 1\n    return"), 1),
        (OLD.replace("    y = 2 * x\n", ""), 1),
        (OLD.replace("f(", "g("), 3),
        (OLD + "\nz = f(1)", 1),
        ("z = 1", 1),
    ],
)
def test_lines_changed(new, count):
    assert counting.lines_changed(OLD, new) == count
    assert counting.lines_changed(OLD, new + "\nnote(1)", without=["note"]) == count


def test_lines_of():
    assert counting.lines_of("# why\nx = 1  # one\n\n    y = '#'\n") == ["x = 1", "y = '#'"]


def test_names_and_constructs():
    sources = [
        "import numpy as np\nfrom torch import nn\nimport helpers",
        "class A(nn.Module):\n    def f(self):\n        self.size = np.random.rand(3).sum()\n"
        "        return super().f(self.size, np.exp, local.mean, local.copy)",
    ]
    assert counting.imported(sources, {"numpy"}) == {"np"}
    assert counting.imported(sources, {"torch"}) == {"nn"}
    # `size` is assigned here, so it is no name of NumPy's.
    assert counting.names_used(sources, {"np"}, [np.ndarray]) == {
        "np.random.rand", "np.exp", ".sum", ".mean", ".copy",
    }  # fmt: skip
    assert counting.names_used(sources, {"nn"}, []) == {"nn.Module"}
    assert counting.constructs(sources) == {"inheritance", "super"}
    assert counting.constructs(["with a: f = lambda: 0", "def g():\n    yield 1"]) == {
        "with",
        "lambda",
        "yield",
    }


def test_program_cells():
    every = counting.program_cells("03_mlp_numpy")
    assert list(every["Model"]) == ["data-start", "model-forward"]
    assert "data-arrays" in every["Same start"]
    assert "data-arrays" not in counting.program_cells("03_mlp_numpy", shared=False).get("Same start", {})


def test_code_of_a_class_and_a_function():
    text = counting.code_of(functools.partialmethod, functools.wraps)
    assert text.startswith("class partialmethod(object):\n    def __init__") and "\ndef wraps(" in text


def test_depths():
    code = compile("np.mean(np.ones(3))", "lesson.ipynb[cell]", "exec")
    deepest = counting.depths(lambda: exec(code, {"np": np}), {"numpy"})
    assert deepest["cell"] >= 2  # `mean` calls another function of NumPy's
    assert counting.depths(lambda: exec(code, {"np": np}), {"torch"})["cell"] == 0


def test_callers_are_named_from_the_outside_inwards():
    def ask(_):
        answers.append(counting.callers())

    answers = []
    ask(0)
    np.apply_along_axis(ask, 1, np.zeros((1, 2)))
    assert answers[0].endswith("ours") and answers[1].endswith("ours > numpy > ours")


def test_minutes_of_the_first_reading_and_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "NOTEBOOKS", tmp_path)

    def write(name, text, code, deeper=None):
        cells = [new_markdown_cell("word " * text), new_code_cell("x = 1\n\n" * code)]
        if deeper is not None:
            cells += [new_markdown_cell("word " * deeper, id="going-deeper"), new_code_cell("# y")]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")

    write("90_toy_numpy", 1000, 0, 400)
    write("90_toy_keras", 1000, 12, 800)
    write("90_toy_pytorch", 1000, 24, 400)
    write("91_start", 200, 6, 200)
    write("92_all", 400, 24)
    said = "NumPy 6 and 8, Keras 7 and 11, PyTorch 8 and 10."
    assert counting.minutes_line("90_toy") == f"**Minutes** for a first reading and for the whole: {said}"
    assert counting.minutes_range("90_toy") == "6–8, 8–11"
    write("90_toy_numpy", 1200, 12, 600)
    write("90_toy_keras", 1200, 12, 600)
    assert counting.minutes_range("90_toy") == "8, 10–11"
    assert counting.minutes_line("91_start").endswith(" for the whole: 2 and 4.")
    assert counting.words([new_markdown_cell("| two | $=$ words |")]) == 2
    assert (counting.minutes_range("91_start"), counting.minutes_range("92_all")) == ("2, 4", "5")
