"""The runner: outputs that don't change when nothing changed, and a check that notices when one does."""

import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers import runner

PROGRAM = """\
import os, sys, time
from pathlib import Path
for word in ("one", "two"):
    print(word, flush=True)
    time.sleep(0.05)
print(Path.cwd().name, sys.prefix)"""
PICTURE = """\
%matplotlib inline
import matplotlib.pyplot as plt
plt.plot([0, float(os.environ.get("BEND", 1))])
plt.ylim(0, 2)
plt.show()"""


@pytest.fixture
def folder(tmp_path, monkeypatch, no_leftovers):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(runner, "SECONDS", tmp_path / "fake" / "seconds.json")
    # The kernel is another process: the save that it calls is the one found first on its path.
    fake = tmp_path / "fake" / "helpers"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    code = (
        "import json, pathlib\ndef save(*both): pathlib.Path('saved.json').write_text(json.dumps(both[:2]))\n"
    )
    (fake / "records.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(fake.parent))
    return tmp_path


def write(folder, *sources, timing=None):
    cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    if timing is not None:
        cells[timing].metadata["tags"] = [runner.TIMING]
    path = folder / "90_tiny.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_run_writes_what_stays_the_same(folder, capsys):
    path = write(folder, PROGRAM, "time.time()", "record = {'loss': 1.5}", timing=1)

    assert runner.run() == 0
    text = path.read_text(encoding="utf-8")
    book = json.loads(text)
    assert text.endswith("}\n") and text.startswith('{\n "cells"')
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"] == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert "version" not in book["metadata"]["language_info"]
    assert [cell["execution_count"] for cell in book["cells"]] == [1, 2, 3]
    assert all("execution" not in cell["metadata"] for cell in book["cells"])
    (stream,) = book["cells"][0]["outputs"]
    assert "".join(stream["text"]) == f"one\ntwo\n{folder.name} {sys.prefix}\n"
    assert json.loads((folder / "saved.json").read_text(encoding="utf-8")) == ["90_tiny", {"loss": 1.5}]
    assert sorted(file.suffix for file in folder.iterdir()) == ["", ".ipynb", ".json"]

    # Only the timing differs now: nothing is written, unless timings are asked for.
    assert runner.run(["90_tiny"]) == 0
    assert path.read_text(encoding="utf-8") == text
    assert runner.run(["notebooks/90_tiny.ipynb"], timings=True) == 0
    assert path.read_text(encoding="utf-8") != text
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "written",
        "unchanged",
        "written",
    ]


@pytest.mark.parametrize(
    "source, words",
    [
        ("1 / 0", ["cell-1", "ZeroDivisionError: division by zero"]),
        ("import sys; print('oh', file=sys.stderr); record = {'a': 1}", ["cell-1 wrote to stderr", "oh"]),
    ],
)
def test_run_writes_nothing_after_a_failure(folder, capsys, source, words):
    path = write(folder, "1 + 1", source)
    before = path.read_bytes()
    assert runner.run() == 1
    assert path.read_bytes() == before and not (folder / "saved.json").exists()
    out = capsys.readouterr().out
    assert all(word in out for word in ["90_tiny", *words])


def test_a_notebook_that_is_not_written_whole_stays_as_it_was(folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    path = write(folder, "1 + 1")
    before = path.read_bytes()
    monkeypatch.setattr(runner.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert path.read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == [path.name, "fake"]


def test_check_finds_what_depends_on_the_machine(folder, monkeypatch, capsys):
    monkeypatch.setattr(runner, "SETTINGS", {"plain": {}, "bent": {"BEND": "2"}})
    path = write(folder, "import os\nos.environ.get('BEND', '1')", PICTURE, "os.getpid()", timing=2)
    runner.run()
    before = path.read_bytes()
    capsys.readouterr()
    assert runner.check() == 1
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["90_tiny", "ok", "DIFF"]
    assert "-'1'" in out and "+'2'" in out and "pixels differ" in out
    assert "cell-0" in out and "cell-1" in out and "cell-2" not in out
    assert path.read_bytes() == before


def test_settings_pin_the_threads():
    assert {
        runner.SETTINGS[f"{n} thread{'s' * (n > 1)}"][name] for n in (1, 2) for name in runner.THREADS
    } == {"1", "2"}
    assert {"Haswell", "Nehalem"} == {
        setting.get("OPENBLAS_CORETYPE") for setting in runner.SETTINGS.values()
    } - {None}


def test_differences_see_every_part_but_timings():
    def book(text="1", html="<b>1</b>", source="f()", count=1, png="AAAA", timing="0.5"):
        def output(**data):
            return nbformat.v4.new_output("display_data", data=data)

        cells = [
            new_code_cell(source, id="result", execution_count=count),
            new_code_cell("g()", id="time", metadata={"tags": [runner.TIMING]}),
        ]
        cells[0].outputs = [output(**{"text/plain": text, "text/html": html}), output(**{"image/jpeg": png})]
        cells[1].outputs = [output(**{"text/plain": timing})]
        return new_notebook(cells=cells)

    assert runner.differences(book(), book(timing="0.7")) == []
    changes = {"text": "2", "html": "<b>2</b>", "source": "f( )", "count": 2, "png": "BBBB"}
    for name, value in changes.items():
        assert "  cell result" in runner.differences(book(), book(**{name: value})), name


def test_pictures_of_last_digits_may_differ_and_nothing_else():
    def book(png, text="1", alt="more"):
        cell = new_code_cell("f()", id="gaps", metadata={"tags": [runner.LAST_DIGITS]})
        data, said = {"image/png": png, "text/plain": text}, {"image/png": {"alt": alt}}
        cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata=said)]
        return new_notebook(cells=[cell])

    assert runner.differences(book("AAAA"), book("BBBB")) == []
    assert runner.differences(book("AAAA"), book("BBBB", alt="less")) == []
    assert not runner._same(book("AAAA"), book("AAAA", alt="less"), words=True)  # `run` writes new words
    assert runner.differences(book("AAAA"), book("AAAA", text="2"))


def test_figures_in_float32_may_differ_by_their_digits():
    def book(text="loss 0.5 - 9ms/step", png="AAAA", tag=runner.FLOAT32):
        cell = new_code_cell("f()", id="fit", metadata={"tags": [tag]})
        data = {"image/png": png, "text/plain": text}
        shown = nbformat.v4.new_output("display_data", data=data)
        cell.outputs = [nbformat.v4.new_output("stream", text=text), shown]
        return new_notebook(cells=[cell])

    other = "loss 12.25 - 800us/step"
    assert runner.differences(book(), book(other, "BBBB")) == []
    assert runner.differences(book(), book("lost 0.5 - 9ms/step"))
    assert runner.differences(book(tag="shared"), book(other, tag="shared"))
    # `run` writes other digits and another picture, and leaves the file alone when only a time differs.
    assert runner._same(book(), book("loss 0.5 - 8ms/step"), words=True)
    assert not runner._same(book(), book("loss 0.6 - 9ms/step"), words=True)
    assert not runner._same(book(), book(png="BBBB"), words=True)


def test_unknown_names_say_what_there_is(folder):
    write(folder, "1")
    with pytest.raises(SystemExit, match="there are: 90_tiny"):
        runner.run(["91_other"])
