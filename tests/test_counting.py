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
        (OLD.replace("2 * x", "(\n        2\n        * x\n    )"), 0),  # a line break counts nothing
        (OLD.replace("    y", "    'twice'\n    y", 1), 0),  # nor does a docstring
        (OLD.replace("2", "3"), 1),
        (OLD.replace("*", "+"), 1),
        (OLD.replace("2 * x", "g(2 * x)"), 2),  # a call, and a name
        (OLD + "\nz = h(1, k=x)", 7),  # whole: assignment, z, call, h, 1, k, x
        ("", 0),  # what is left out counts nothing
    ],
)
def test_nodes_changed(new, count):
    assert counting.nodes_changed(OLD, new) == count


def test_what_is_replaced():
    old = "import a\nmodel = A()\nmodel.compile('sgd')\n\n\ndef train():\n    pass"
    assert counting.replaced(old, old) == []
    assert counting.replaced(old, old.replace("'sgd'", "adam").replace("pass", "model.fit()")) == [
        "model.compile", "train",
    ]  # fmt: skip
    new = "class B(A):\n    def __init__(self):\n        pass\n\n    def train_step(self):\n        pass"
    assert counting.replaced(old, new + "\nb = B()") == ["B.train_step"]
    assert counting.replaced(old, new.partition("    def train_step")[0] + "\nc = 1") == ["B"]


def test_equations_are_counted():
    text = "So $x = 1$.\n\n$$a = b \\qquad c \\leftarrow d$$\n\n| $e = f$, $\\quad g = h$ | $i$ |\n"
    assert counting.equations(text) == 4


def test_the_cost_of_a_change(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "NOTEBOOKS", tmp_path)

    def program(cell_id, source, *tags):
        return new_code_cell(source, id=cell_id, metadata={"tags": ["program", *tags]})

    step = "def train_step(x):\n    return 2 * x"
    for tool in ("numpy", "keras", "pytorch"):
        nbformat.write(new_notebook(cells=[program("a", step)]), tmp_path / f"90_old_{tool}.ipynb")
        cells = [
            program("double", step.replace("2", "3 + 2") + "\n\n\ntell(train_step)"),
            program("double-run", "print(1)"),
            program("double-shared", "x = 1", "shared"),
            new_markdown_cell("$$a = b$$", id="double-why"),
        ]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"91_new_{tool}.ipynb")
    rows = counting.cost("91_new", "90_old", {"twice": "double"}, without="tell")
    assert rows == [
        ("twice", tool, 3, derived, True, False, ["train_step"])
        for tool, derived in (("NumPy", 1), ("Keras", None), ("PyTorch", None))
    ]
    with pytest.raises(ValueError, match="no program cell 'half' in 91_new_numpy"):
        counting.cost("91_new", "90_old", {"": "half"})


def test_lines_of():
    assert counting.lines_of("# why\nx = 1  # one\n\n    y = '#'\n") == ["x = 1", "y = '#'"]


def test_names():
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


def test_lines_of_a_program_are_those_that_python_writes():
    source = "x = [\n    1,\n]  # one\n\n\ndef f(\n    a,\n):\n    return a\n"
    assert counting.unparsed_lines(source) == 3


def test_program_cells():
    every = counting.program_cells("03_mlp_numpy")
    assert list(every["Model"]) == ["data-start", "model-forward"]
    assert "data-arrays" in every["Same start"]
    assert "data-arrays" not in counting.program_cells("03_mlp_numpy", shared=False).get("Same start", {})


def test_code_of_a_class_and_a_function():
    text = counting.code_of(functools.partialmethod, functools.wraps)
    assert text.startswith("class partialmethod(object):\n    def __init__") and "\ndef wraps(" in text


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
