"""Plants each fault of `faults.toml` in a copy of the suite, and asks whether what its makers run notices."""

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

import pytest

from helpers import ROOT, runner

KINDS = tomllib.loads((ROOT / "tests" / "faults.toml").read_text(encoding="utf-8"))
ALSO = KINDS.pop("also")
FAULTS = [(kind, name) for kind, faults in KINDS.items() for name in faults]
READY = """
import sys, pathlib, helpers.environment
pathlib.Path(sys.prefix, "three-ways.txt").write_text(helpers.environment.stamp_text(), encoding="utf-8")"""


@pytest.fixture
def copy():
    """A copy of the tracked files; its own environment, with this one's packages, can't harm this one."""
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True, encoding="utf-8")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder).resolve()
        for name in tracked.split("\0")[:-1]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        venv.create(root / ".venv", symlinks=os.name != "nt")
        base = dict.fromkeys(("base", "platbase"), str(root / ".venv"))
        link = Path(sysconfig.get_path("purelib", "venv", base), "copy.pth")
        link.write_text(f"{root}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        yield root


def call(root, *arguments):
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = dict(cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, text=True, encoding="utf-8")
    done = subprocess.run([python, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **where)
    return done.returncode, done.stdout


def planted(root, fault):
    """Yield each file of the fault with its text, how often `old` is found there, and the text with `new`."""
    for path in sorted(root.glob(fault["file"])):
        text = path.read_text(encoding="utf-8")
        book = json.loads(text) if "cell" in fault else {"cells": [{"id": None, "source": [text]}]}
        (cell,) = (cell for cell in book["cells"] if cell["id"] == fault.get("cell"))
        source = "".join(cell["source"])
        changed = source.replace(fault["old"], fault["new"])
        cell["source"] = changed.splitlines(keepends=True)
        new = json.dumps(book, indent=1, ensure_ascii=False) + "\n" if "cell" in fault else changed
        yield path, source.count(fault["old"]), new


def what_is_run(kind, fault):
    """Return what its makers hand to pytest for a fault: the names of pages, and files of tests."""
    named = fault.get("run", "").split()
    books = [name for name in named if "/" not in name]
    files = [*(name for name in named if "/" in name), *ALSO.get(kind, "").split()]
    return [["--only", ",".join(books)]] * bool(books) + [list(dict.fromkeys(files))] * bool(files)


@pytest.mark.parametrize(("kind", "name"), FAULTS)
def test_a_fault_stands_in_one_place(kind, name):
    fault = KINDS[kind][name]
    assert [count for _, count, _ in planted(ROOT, fault)] == [1] * (3 if "*" in fault["file"] else 1)
    assert what_is_run(kind, fault)
    for words in what_is_run(kind, fault):
        if words[0] == "--only":
            assert set(words[1].split(",")) <= {path.stem for path in runner.paths()}
        else:
            assert all((ROOT / file).is_file() for file in words)


@pytest.mark.makers
@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=map(", ".join, FAULTS))
def test_a_planted_fault_is_caught(copy, kind, name):
    fault, remade, printed = KINDS[kind][name], [], []
    for path, _, text in planted(copy, fault):
        path.write_text(text, encoding="utf-8", newline="\n")
        remade += [path.stem] * fault.get("remake", False)
    assert call(copy, "-c", READY)[0] == 0
    for _ in remade[:2]:  # three siblings twice, because each shows the others' records
        if call(copy, "-m", "helpers", "run", *remade)[0]:
            return  # a cell has raised, and its author sees it
    for words in what_is_run(kind, fault):
        code, text = call(copy, "-m", "pytest", "-x", "-q", *words)
        assert code not in (4, 5), text  # called in a wrong way, or on nothing
        if code:
            return
        printed.append(text)
    pytest.fail(f"{fault['why']}\n{''.join(printed)}")
