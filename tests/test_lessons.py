"""The programs that tests, benchmarks and comparisons take from the notebooks."""

import inspect
import traceback

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import lessons


@pytest.fixture(autouse=True)
def notebook(tmp_path, monkeypatch):
    def program(cell_id, source):
        return new_code_cell(source, id=cell_id, metadata={"tags": ["program"]})

    book = new_notebook(
        cells=[
            new_markdown_cell("# Goal", id="goal"),
            program("constants", 'DATA = "small"\nEPOCHS, RATE = 10, 0.1\nTWICE: int = 2 * EPOCHS'),
            new_code_cell("raise RuntimeError('not part of the program')", id="aside"),
            program("double", "def double(x):\n    return 2 * x\n\n\nDOUBLED = double(EPOCHS)"),
            program("fail", "def fail():\n    raise RuntimeError('on purpose')\n\n\nA, B = divmod(7, 2)"),
        ]
    )
    monkeypatch.setattr(lessons, "NOTEBOOKS", tmp_path)
    nbformat.write(book, tmp_path / "90_tiny.ipynb")


def test_load_runs_the_program_cells_and_no_others():
    found = lessons.load("90_tiny")
    assert (found["DATA"], found["EPOCHS"], found["TWICE"], found["DOUBLED"]) == ("small", 10, 20, 20)
    assert "double" not in lessons.load("90_tiny", until="constants")
    assert "DOUBLED" in lessons.load("90_tiny", until="double")
    assert "double" not in lessons.load("90_tiny", skip=["double"])
    with pytest.raises(RuntimeError, match="not part"):
        lessons.load("90_tiny", until="goal", also=["aside"])


def test_constants_hold_before_they_are_used():
    found = lessons.load("90_tiny", EPOCHS=3, DATA="full")
    assert (found["DATA"], found["EPOCHS"], found["TWICE"], found["DOUBLED"]) == ("full", 3, 6, 6)
    assert found["RATE"] == 0.1
    assert lessons.load("90_tiny", TWICE=5)["TWICE"] == 5


@pytest.mark.parametrize("name", ["EPOCH", "x", "A", "double"])
def test_only_assigned_constants_can_be_set(name):
    with pytest.raises(ValueError, match=f"doesn't assign a value to {name} "):
        lessons.load("90_tiny", **{name: 1})


def test_a_changed_program_calls_what_is_new_and_leaves_the_old():
    old = lessons.load("90_tiny")
    exec("def again(x):\n    return double(double(x))", old)

    def double(x):
        return FACTOR * x  # noqa: F821

    double = type(double)(double.__code__, {"FACTOR": 3}, "double")  # a page's function, and its constant
    new = lessons.changed(old, double)
    assert (new["again"](1), old["again"](1)) == (9, 4)
    assert new["double"].__globals__ is new and new["again"].__globals__ is new
    assert lessons.changed(old, double=lambda x, *, by=5: by * x)["again"](1) == 25
    assert lessons.changed(old)["again"](1) == 4


def test_replace_changes_one_place():
    assert lessons.load("90_tiny", replace={"2 * x": "3 * x"})["DOUBLED"] == 30
    for old, count in {"4 * x": 0, "2 *": 2, "not part": 0}.items():
        with pytest.raises(ValueError, match=f"occurs {count} times"):
            lessons.load("90_tiny", replace={old: "1"})


WORKSHOP = """RATE, SIZE = 0.1, 3
class Net:
    def forward(self, x):
        y = x + 1
        return y * SIZE

def step(net, w):
    check(w)
    w -= RATE * net.forward(w)
    return w

def rows():
    yield 1, 2

def check(w, least=0):
    if w < least:
        raise ValueError("too small")

start = float(4)
start += 1
result = check(start, least=0)
first, second = divmod(7, 2)
moved = step(Net(), start)"""
EDITS = [
    ({"SIZE": "5"}, 2.0, "RATE, SIZE = (0.1, 5)"),
    ({"Net.forward.y": "x"}, 3.5, "y = x"),
    ({"Net.forward.return": "y"}, 4.4, "return y"),
    ({"step.w -=": "w = w"}, 5.0, "w = w"),
    ({"step.check()": None}, 3.2, None),
    ({"check": "lambda w, least: None", "step.check()": None}, 3.2, "check = lambda w, least: None"),
    ({"start": "2.0"}, 1.8, "start = 2.0"),
    ({"start +=": "start += 2"}, 3.9, "start += 2"),
    ({"rows.yield": "3, 4"}, 3.2, "yield (3, 4)"),
    ({"first": "8, 9"}, 3.2, "first, second = (8, 9)"),
    ({"result": "result = 1\nextra = 2"}, 3.2, "extra = 2"),
]


@pytest.fixture
def workshop(notebook):
    book = nbformat.read(lessons.NOTEBOOKS / "90_tiny.ipynb", as_version=4)
    book.cells = [new_code_cell(WORKSHOP, id="all", metadata={"tags": ["program"]})]
    nbformat.write(book, lessons.NOTEBOOKS / "91_workshop.ipynb")


@pytest.mark.parametrize(("edit", "moved", "line"), EDITS, ids=[" ".join(edit) for edit, *_ in EDITS])
def test_an_edit_finds_its_place_by_names(workshop, edit, moved, line):
    assert lessons.load("91_workshop", edit=edit)["moved"] == pytest.approx(moved)
    taken_out, put_in = (
        [each[2:].strip() for each in lessons.difference("91_workshop", edit) if each[0] == sign]
        for sign in "-+"
    )
    assert taken_out and (line in put_in if line else put_in == [])


def test_an_edit_of_a_keyword(workshop):
    with pytest.raises(ValueError, match="too small"):
        lessons.load("91_workshop", edit={"check.least": "9"})


@pytest.mark.parametrize("path", ["forward.y", "Net.y", "check", "Net.forward.z", "w", "step.w", "check()"])
def test_an_edit_that_has_no_place_or_two_is_refused(workshop, path):
    if path == "check":  # the definition, not its calls
        assert lessons.load("91_workshop", edit={path: "lambda *_, **__: 0"})["result"] == 0
        return
    with pytest.raises(ValueError, match=r"is found \d times in the program, not once"):
        lessons.load("91_workshop", edit={path: "1"})


def test_cells_can_be_run_again():
    found = lessons.load("90_tiny", EPOCHS=3)
    assert lessons.again(found, "constants", "double", EPOCHS=4)["DOUBLED"] == 8
    found["DOUBLED"] = None
    assert lessons.again(found, "double")["DOUBLED"] == 8
    with pytest.raises(KeyError):
        lessons.again(found, "aside")


def test_errors_say_what_there_is():
    with pytest.raises(ValueError, match="there are: 90_tiny"):
        lessons.load("91_other")
    for wrong in ({"until": "doubel"}, {"skip": ["doubel"]}):
        with pytest.raises(ValueError, match="there are: goal, constants, aside, double, fail"):
            lessons.load("90_tiny", **wrong)


def test_source_can_be_shown():
    found = lessons.load("90_tiny")
    lessons.load("90_tiny", replace={"2 * x": "3 * x"})
    assert inspect.getsource(found["double"]) == "def double(x):\n    return 2 * x\n"
    with pytest.raises(RuntimeError) as caught:
        found["fail"]()
    text = "".join(traceback.format_exception(caught.value))
    assert '90_tiny.ipynb[fail]", line 2' in text and "raise RuntimeError('on purpose')" in text
