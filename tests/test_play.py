"""Playing with notebooks: what a turned constant or a second run breaks is found, and a rule is no fault."""

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from helpers import ROOT, play, runner
from helpers import __main__ as command_line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    return tmp_path


def write(folder, settings, wanted, cells=(), name="90_toy"):
    """Write a notebook with a settings cell and others, (id, source) pairs; `clock` is a timing."""
    parameters = {"tags": [play.TAG], "play": wanted}
    book = new_notebook(cells=[new_code_cell(settings, id="settings", metadata=parameters)])
    for cell_id, source in cells:
        tags = {"tags": [runner.TIMING]} if cell_id == "clock" else {}
        book.cells.append(new_code_cell(source, id=cell_id, metadata=tags))
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def test_values_come_from_the_rule_or_from_the_cell():
    def turns(settings, **wanted):
        cell = new_code_cell(settings, metadata={"tags": [play.TAG], "play": wanted})
        return play._turns(new_notebook(cells=[new_code_cell("not python"), cell]))

    found, left_out, problems = turns("N, RATE = 5, 0.5\nTWICE: int = 2 * N\nFAST, ONE = True, 1")
    assert (left_out, problems) == ({}, [])
    assert found == [
        *[("N", 2), ("N", 10), ("RATE", 0.25), ("RATE", 1.0), ("TWICE", 5), ("TWICE", 20)],
        *[("FAST", False), ("ONE", 2)],
    ]
    found, left_out, problems = turns(
        'N, DATA, SIZES = 5, "5k", (1, 2)', N=[7], DATA="too large", SIZES=[[2, 1]]
    )
    assert (found, left_out, problems) == ([("N", 7), ("SIZES", (2, 1))], {"DATA": "too large"}, [])
    for settings, wanted in [
        ('KIND = "a"', {}),
        ("SEED = 0", {}),
        ("SHIFT = -0.5", {}),
        ("N = 5", {"N": []}),
        ("N = 5", {"N": [4, 5]}),
        ("N = 5", {"M": [4]}),
    ]:
        found, left_out, problems = turns(settings, **wanted)
        assert len(problems) == 1 and not left_out, settings


def test_what_a_reader_would_break_is_found(folder, capsys):
    cells = [
        ("rule", "if RATE > 1: raise ValueError('RATE is at most 1')"),
        ("fours", "if N % 4: raise ValueError('cannot reshape 6 into N4')"),
        ("name", "if N == 12: raise NameError('N is gone')"),
        ("loud", "import sys\nif N == 16: sys.stderr.write('overflow')"),
        ("count", "seen = []"),
        ("append", "seen.append(1)\nprint(len(seen))"),
    ]
    path = write(folder, "N, RATE = 4, 0.5", {"N": [8, 6, 12, 16], "RATE": [2.0]}, cells)
    assert runner.run() == 0
    before = path.read_bytes()
    capsys.readouterr()
    assert play.play(["90_toy"]) == 1
    assert path.read_bytes() == before and [*folder.iterdir()] == [path]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    turned = [line.split() for line in lines if " = " in line]
    assert [line[3].strip(":") for line in turned] == ["ok", "FAILED", "FAILED", "FAILED", "refused"]
    assert "RATE = 2.0               refused: RATE is at most 1" in lines
    for place, reason in {
        "fours:": "ValueError: cannot reshape 6 into N4",
        "name:": "NameError: N is gone",
        "loud wrote to stderr:": "overflow",
    }.items():
        assert lines[lines.index(f"90_toy.ipynb, cell {place}") + 1] == reason
    twice = lines[lines.index("every cell twice         FAILED") :]
    assert twice[1] == "cell append" and twice[-2:] == ["-1", "+2"]


def test_a_page_that_can_be_played_with_passes(folder, capsys):
    cells = [("three", "print(N)\nN if N == 3 else None"), ("clock", "import time\ntime.time()")]
    write(folder, "N = 4", {"N": [3]}, [("six", "6"), *cells])
    assert runner.run() == 0
    capsys.readouterr()
    assert play.play() == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["90_toy", "ok", "ok"]


def test_siblings_have_to_behave_alike(folder, capsys, monkeypatch):
    def turned(path, name, value):
        return ("refused", "") if value == 8 and "keras" in path.stem else ("ok", "")

    monkeypatch.setattr(play, "_turned", turned)
    monkeypatch.setattr(play, "_twice", lambda path, old: [])
    for tool in ("numpy", "keras", "pytorch"):
        write(folder, "N = 4", {}, name=f"90_toy_{tool}")
    write(folder, "N = 4", {}, name="91_other")
    assert play.play(["90_toy"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "siblings differ, N = 8: 90_toy_numpy ok, 90_toy_keras refused, 90_toy_pytorch ok"
    assert sum("siblings" in line for line in told) == 1 and "91_other" not in told
    assert play.play(["90_toy_numpy", "90_toy_pytorch", "91_other"]) == 0
    write(folder, "N = 4", {"N": [2]}, name="90_toy_pytorch")
    capsys.readouterr()
    assert play.play(["90_toy_numpy", "90_toy_pytorch"]) == 1
    assert "N = 8: 90_toy_numpy ok, 90_toy_pytorch not tried" in capsys.readouterr().out


def test_a_broken_turn_and_a_wrong_entry_fail(folder, monkeypatch):
    monkeypatch.setattr(play, "_twice", lambda path, old: [])
    monkeypatch.setattr(
        play, "_turned", lambda path, name, value: ("FAILED", "") if value == 8 else ("ok", "")
    )
    write(folder, "N = 4", {})
    assert play.play() == 1
    write(folder, "N = 4", {"N": [5]})
    assert play.play() == 0
    write(folder, 'KIND = "a"', {})
    assert play.play() == 1
    write(folder, 'KIND = "a"', {"KIND": "there is no other"})
    assert play.play() == 0


def test_the_command_plays(monkeypatch):
    monkeypatch.setattr(play, "play", lambda names: ("played", names))
    monkeypatch.setattr(runner, "check", lambda names: ("checked", names))
    assert command_line.command_check(["--play", "03_mlp"]) == ("played", ["03_mlp"])
    assert command_line.command_check(["03_mlp"]) == ("checked", ["03_mlp"])


def test_a_weekly_job_plays_with_every_lesson_that_says_how():
    # A matrix can't be empty, so the job comes with the first lesson whose settings cells hold `play`.
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "newest.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"].get("play", {"strategy": {"matrix": {"lesson": []}}})
    weekly, says_how = job["strategy"]["matrix"]["lesson"], {}
    for path in runner.paths():
        cells = play._settings(nbformat.read(path, as_version=4))
        says_how.setdefault(runner.lesson(path.stem), []).append(["play" in cell.metadata for cell in cells])
    assert all(lesson in weekly for lesson, cells in says_how.items() if any(map(any, cells)))
    assert all(all(map(all, says_how[lesson])) for lesson in weekly)
    if weekly:
        assert job["steps"][-1]["run"] == "python -m helpers check --play ${{ matrix.lesson }}"
