"""The two commands of the README, as far as that can be seen without installing everything."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from helpers import ROOT, runner
from helpers import __main__ as command_line


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(arguments):
    done = call(*arguments)
    assert done.returncode == 0 and not done.stderr
    for name in ("lab", "test", "run", "check", "benchmark", "download", "serve", "readme"):
        assert f"\n  {name} " in done.stdout
        assert callable(getattr(command_line, f"command_{name}"))


def test_unknown_command():
    done = call("tset")
    assert done.returncode == 2
    assert "no command 'tset'" in done.stderr and "\n  test " in done.stderr


def test_requirements_and_pyproject_name_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    unpinned = [
        *project["dependencies"],
        *(each for name in groups if name != "dev" for each in groups[name]),
    ]
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


def test_run_writes_timings_when_asked(monkeypatch):
    monkeypatch.setattr(runner, "run", lambda names, timings: (names, timings))
    assert command_line.command_run(["--timings", "03_mlp"]) == (["03_mlp"], True)
    assert command_line.command_run([]) == ([], False)


def test_lab_starts_jupyterlab(capfd):
    assert command_line.command_lab(["--version"]) == 0
    assert capfd.readouterr().out.startswith("4.")
