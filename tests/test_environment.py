"""The environment of the packages: when it is made, made anew or mended; nothing is installed here."""

import subprocess
import sys

import pytest

from helpers import ROOT, environment
from helpers import __main__ as command_line


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    everything, nothing = (lambda name: True), (lambda name: False)
    assert "3.10" in environment.missing((3, 10, 4, "final", 0), everything)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert environment.missing((3, 11), everything) is None
    assert "python3-venv" in environment.missing((3, 13), lambda name: name != "ensurepip")
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    assert "ensurepip" in environment.missing((3, 13), nothing)


def test_old_python_can_read_the_command_line():
    import ast

    for name in ("__init__.py", "__main__.py", "environment.py"):
        ast.parse((ROOT / "helpers" / name).read_text(encoding="utf-8"), feature_version=(3, 5))
    seen = (
        "import sys; before = set(sys.modules); import helpers.__main__; print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", seen], cwd=ROOT, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()} - {"helpers"}
    assert roots and roots <= sys.stdlib_module_names


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    return tmp_path


def pretend(monkeypatch, call):
    """Let `call` stand for the starting of programs."""
    for module in (environment, command_line):
        monkeypatch.setattr(module, "call", call)


def test_packages_are_installed_once(checkout, monkeypatch):
    calls = []
    pretend(monkeypatch, lambda command, **options: calls.append(command) or 0)
    assert command_line.main(["test", "-x"]) == 0
    venv, pip, again = ([str(part) for part in command[1:3]] for command in calls)
    assert (venv, pip, again) == (["-m", "venv"], ["-m", "pip"], ["-m", "helpers"])
    assert calls[-1] == [environment.python_of(checkout / ".venv"), "-m", "helpers", "test", "-x"]

    calls.clear()
    command_line.main(["test"])
    assert [command[2] for command in calls] == ["helpers"]
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    command_line.main(["test", "-x"])
    assert calls[-1] == [sys.executable, "-m", "pytest", "-x"]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "three-ways.txt"])
def test_packages_are_installed_again_when_something_changes(checkout, name):
    (checkout / "three-ways.txt").write_text(environment.stamp_text(), encoding="utf-8")
    assert environment.is_ready(checkout)
    with (checkout / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert not environment.is_ready(checkout)


def test_a_failed_installation_is_tried_again(checkout, monkeypatch):
    stamp = checkout / ".venv" / "three-ways.txt"
    stamp.write_text("old", encoding="utf-8")
    pretend(monkeypatch, lambda command, **options: int("pip" in command))
    with pytest.raises(SystemExit, match="needs a network"):
        command_line.main(["lab"])
    assert not stamp.exists()


def test_a_checkout_that_cannot_be_written_uses_the_cache(checkout, monkeypatch):
    monkeypatch.setattr(environment.os, "access", lambda *arguments: False)
    first = environment.find_environment()
    assert checkout not in first.parents and first.parent.name == "three-ways"
    monkeypatch.setattr(environment, "ROOT", checkout / "another")
    (checkout / "another").mkdir()
    assert environment.find_environment() != first


def test_helpers_can_be_imported_from_anywhere(tmp_path):
    code = "import helpers; print(helpers.ROOT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT), done.stderr
