"""The two commands of the README, as far as that can be seen without installing everything."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from helpers import ROOT
from helpers import __main__ as command_line


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(arguments):
    done = call(*arguments)
    assert done.returncode == 0 and not done.stderr
    for name in ("lab", "test", "run", "check", "benchmark", "download", "readme"):
        assert f"\n  {name} " in done.stdout
        assert callable(getattr(command_line, f"command_{name}"))


def test_unknown_command():
    done = call("tset")
    assert done.returncode == 2
    assert "no command 'tset'" in done.stderr and "\n  test " in done.stderr


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    everything, nothing = (lambda name: True), (lambda name: False)
    assert "3.10" in command_line.missing((3, 10, 4, "final", 0), everything)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert command_line.missing((3, 11), everything) is None
    assert "python3-venv" in command_line.missing((3, 13), lambda name: name != "ensurepip")
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    assert "ensurepip" in command_line.missing((3, 13), nothing)


def test_old_python_can_read_the_command_line():
    import ast

    for name in ("__init__.py", "__main__.py"):
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
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    return tmp_path


def test_packages_are_installed_once(checkout, monkeypatch):
    calls = []
    monkeypatch.setattr(command_line, "call", lambda command, **options: calls.append(command) or 0)
    assert command_line.main(["test", "-x"]) == 0
    environment = checkout / ".venv"
    venv, pip, again = ([str(part) for part in command[1:3]] for command in calls)
    assert (venv, pip, again) == (["-m", "venv"], ["-m", "pip"], ["-m", "helpers"])
    assert calls[-1] == [command_line.python_of(environment), "-m", "helpers", "test", "-x"]

    calls.clear()
    command_line.main(["test"])
    assert [command[2] for command in calls] == ["helpers"]
    monkeypatch.setattr(sys, "prefix", str(environment))
    command_line.main(["test", "-x"])
    assert calls[-1] == [sys.executable, "-m", "pytest", "-x"]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "three-ways.txt"])
def test_packages_are_installed_again_when_something_changes(checkout, name):
    environment = checkout
    (environment / "three-ways.txt").write_text(command_line.stamp_text(), encoding="utf-8")
    assert command_line.is_ready(environment)
    with (checkout / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert not command_line.is_ready(environment)


def test_a_failed_installation_is_tried_again(checkout, monkeypatch):
    environment = checkout / ".venv"

    (environment / "three-ways.txt").write_text("old", encoding="utf-8")
    monkeypatch.setattr(command_line, "call", lambda command, **options: int("pip" in command))
    with pytest.raises(SystemExit, match="needs a network"):
        command_line.main(["lab"])
    assert not (environment / "three-ways.txt").exists()


def test_a_checkout_that_cannot_be_written_uses_the_cache(checkout, monkeypatch):
    monkeypatch.setattr(command_line.os, "access", lambda *arguments: False)
    first = command_line.find_environment()
    assert checkout not in first.parents and first.parent.name == "three-ways"
    monkeypatch.setattr(command_line, "ROOT", checkout / "another")
    (checkout / "another").mkdir()
    assert command_line.find_environment() != first


def test_requirements_and_pyproject_name_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    unpinned = [*project["dependencies"], *groups["keras"], *groups["pytorch"], *groups["test"]]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins.pop() == "-e ."
    pins = {Requirement(line).name: str(Requirement(line).specifier) for line in pins}
    assert all(pin.startswith("==") and "*" not in pin and "," not in pin for pin in pins.values())
    assert sorted(pins) == sorted(Requirement(line).name for line in unpinned)
    assert not any(Requirement(line).specifier for line in unpinned)
    assert all(str(Requirement(line).specifier).startswith("==") for line in groups["dev"])
    frameworks = {"keras", "tensorflow", "torch"}
    assert not frameworks & {Requirement(line).name for line in project["dependencies"]}


def test_commands_in_the_texts_exist():
    texts = [ROOT / "README.md", ROOT / "data" / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]
    named = {
        name
        for path in texts
        for name in re.findall(r"python3 -m helpers (\w+)", path.read_text(encoding="utf-8"))
    }
    assert named == set(command_line.COMMANDS)
    readme = texts[0].read_text(encoding="utf-8")
    assert re.findall(r"^    python3 -m helpers (\w+)$", readme, re.MULTILINE) == ["lab", "test"]


def test_lab_starts_jupyterlab(capfd):
    assert command_line.command_lab(["--version"]) == 0
    assert capfd.readouterr().out.startswith("4.")


def test_helpers_can_be_imported_from_anywhere(tmp_path):
    code = "import helpers; print(helpers.ROOT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT), done.stderr
