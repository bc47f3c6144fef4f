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

from helpers import ROOT

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
    """Return the files of tests that are run for a fault, and the notebooks: their own line, and `also`."""
    named = fault.get("run", "").split()
    books = [name for name in named if "/" not in name]
    also = [ALSO.get(key, "") for key in dict.fromkeys([kind, *(name[:2] for name in books)])]
    tests = dict.fromkeys(name for name in " ".join([*named, *also]).split() if "/" in name)
    return [*tests, *(f"notebooks/{name}.ipynb" for name in books)]


@pytest.mark.parametrize(("kind", "name"), FAULTS)
def test_a_fault_stands_in_one_place(kind, name):
    fault = KINDS[kind][name]
    assert [count for _, count, _ in planted(ROOT, fault)] == [1] * (3 if "*" in fault["file"] else 1)
    assert what_is_run(kind, fault) and all((ROOT / file).is_file() for file in what_is_run(kind, fault))


@pytest.mark.makers
def test_nothing_is_caught_where_nothing_is_planted(copy):
    files = [file for kind, name in FAULTS for file in what_is_run(kind, KINDS[kind][name])]
    code, printed = call(copy, "-m", "pytest", *dict.fromkeys(files))
    assert code == 0, printed


@pytest.mark.makers
@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=map(", ".join, FAULTS))
def test_a_planted_fault_is_caught(copy, kind, name):
    fault = KINDS[kind][name]
    remade = []
    for path, _, text in planted(copy, fault):
        path.write_text(text, encoding="utf-8", newline="\n")
        remade += [path.stem] * fault.get("remake", False)
    assert call(copy, "-c", READY)[0] == 0
    for _ in remade[:2]:  # three siblings twice, because each shows the others' records
        if call(copy, "-m", "helpers", "run", *remade)[0]:
            return  # a cell has raised, and its author sees it
    code, printed = call(copy, "-m", "pytest", "-x", "-q", *what_is_run(kind, fault))
    assert code not in (0, 4), f"{fault['why']}\n{printed}"  # 4: pytest itself was called in a wrong way
