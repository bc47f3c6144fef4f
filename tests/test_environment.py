"""The environment of the packages: when it is made, made anew or mended; nothing is installed here."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from helpers import ROOT, environment
from helpers import __main__ as command_line


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    everything, nothing = (lambda name: True), (lambda name: False)
    assert "3.10" in environment.missing((3, 10, 4, "final", 0), everything)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert environment.missing((3, 11), everything) is None
    assert "python3-venv" in environment.missing((3, 13), lambda name: name != "ensurepip")
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    assert environment.missing((3, 13), lambda name: name == "pip") is None
    assert environment.missing((3, 13), lambda name: name != "pip") is None  # it gets one
    assert "python3-venv" in environment.missing((3, 13), nothing)


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
    """A copy of the suite as it comes, without an environment, in a folder that not every encoding knows."""
    root = tmp_path / "zip Á é"
    (root / "helpers").mkdir(parents=True)
    for name in ("requirements.txt", "pyproject.toml", "helpers/__init__.py"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(environment, "ROOT", root)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    return root


@pytest.fixture
def calls(monkeypatch):
    """What is started, as lists of words; environments are made, and what is installed is empty modules."""
    started = []

    def call(command, **options):
        started.append([str(part) for part in command[1:]])
        folder, module = Path(command[0]).parents[1], started[-1][1]
        if module == "venv":
            folder = Path(command[-1])
            venv.create(folder, clear="--clear" in command, symlinks=os.name != "nt")
        if module in ("venv", "ensurepip"):
            put(folder, "pip/__main__.py", "pip/_internal/cli/main.py")
        if module == "pip":
            put(folder, "ipykernel.py")
        return 0

    for module in (environment, command_line):
        monkeypatch.setattr(module, "call", call)
    return started


def put(folder, *names):
    for name in names:
        path = packages(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("main = None", encoding="utf-8")


def packages(folder):
    (found,) = [*folder.glob("lib/*/site-packages"), *folder.glob("Lib/site-packages")][:1]
    return found


def modules(calls):
    return [words[1] for words in calls if words[0] == "-m"]


FIRST = ["venv", "pip", "helpers.installation", "helpers"]


def test_packages_are_installed_once(checkout, calls, monkeypatch):
    assert command_line.main(["test", "-x"]) == 0
    assert modules(calls) == FIRST and calls[-1][1:] == ["helpers", "test", "-x"]
    pip = next(words for words in calls if words[1] == "pip")
    assert pip[2] == "install" and pip[-27:] == environment.requirements() and "numpy==" in " ".join(pip)

    calls.clear()
    command_line.main(["test"])
    assert modules(calls) == ["helpers"]
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    command_line.main(["test", "-x"])
    assert calls[-1][:2] == ["-m", "pytest"] and calls[-1][-1] == "-x"


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", ".venv/three-ways.txt"])
def test_packages_are_installed_again_when_something_changes(checkout, calls, name):
    command_line.main(["test"])
    assert environment.is_ready(checkout / ".venv")
    with (checkout / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert not environment.is_ready(checkout / ".venv")


def test_the_environment_of_another_copy_is_not_ready(checkout, calls, monkeypatch):
    command_line.main(["test"])
    monkeypatch.setattr(environment, "ROOT", shutil.copytree(checkout, checkout.with_name("copy")))
    assert not environment.is_ready(checkout / ".venv")


def link_to_nowhere(folder):
    python = environment.python_of(folder)
    python.unlink()
    if os.name != "nt":
        python.symlink_to("/nowhere/python3")


def leave_the_environment(folder):
    (folder / "pyvenv.cfg").unlink()  # its Python is then the system's, whose packages aren't ours to change


@pytest.mark.parametrize("fault", [link_to_nowhere, leave_the_environment])
def test_a_stamp_without_its_environment_is_not_believed(checkout, calls, capsys, fault):
    command_line.main(["test"])
    calls.clear()
    fault(checkout / ".venv")
    command_line.main(["test"])
    assert modules(calls) == FIRST and "is broken: making it anew" in capsys.readouterr().out
    calls.clear()
    command_line.main(["test"])
    assert modules(calls) == ["helpers"]


def test_an_environment_of_an_old_python_is_not_ready(checkout, calls, monkeypatch):
    command_line.main(["test"])
    monkeypatch.setattr(environment, "OLDEST", (99, 0))
    assert not environment.is_ready(checkout / ".venv")


def test_packages_that_have_gone_are_noticed(checkout, calls):
    command_line.main(["test"])
    for name in ("ipykernel.py", "helpers.pth"):
        text = (packages(checkout / ".venv") / name).read_text(encoding="utf-8")
        (packages(checkout / ".venv") / name).unlink()
        assert not environment.is_ready(checkout / ".venv")
        (packages(checkout / ".venv") / name).write_text(text, encoding="utf-8")
    assert environment.is_ready(checkout / ".venv")


@pytest.mark.parametrize("left", [[], ["pip/__init__.py"]])
def test_an_environment_without_a_whole_pip_gets_one_and_keeps_the_rest(checkout, calls, capsys, left):
    venv.create(checkout / ".venv", symlinks=os.name != "nt")
    put(checkout / ".venv", "precious.py", *left)
    command_line.main(["test"])
    assert modules(calls) == ["ensurepip", *FIRST[1:]] and "has no pip" in capsys.readouterr().out
    assert (packages(checkout / ".venv") / "precious.py").exists()


def test_pip_is_not_called_where_no_environment_can_be_made(checkout, monkeypatch):
    started = []
    monkeypatch.setattr(environment, "call", lambda command, **options: started.append(command[2]) or 1)
    with pytest.raises(SystemExit, match=r"Could not make .*\.venv \([\d.]+ GB free\)\. Make one where"):
        command_line.main(["lab"])
    assert started == ["venv"]


def test_a_failed_installation_names_what_it_needs(checkout, calls, monkeypatch):
    command_line.main(["test"])
    (checkout / "requirements.txt").write_text("other==1\n", encoding="utf-8")
    monkeypatch.setattr(environment, "call", lambda command, **options: int("pip" in command))
    with pytest.raises(SystemExit, match=r"needs a network and about 4 GB.*\.venv \([\d.]+ GB free\)"):
        command_line.main(["lab"])
    assert not (checkout / ".venv" / "three-ways.txt").exists()
    monkeypatch.setattr(environment, "NEWEST", (3, 10))
    with pytest.raises(SystemExit, match=r"newer than 3\.10"):
        command_line.main(["lab"])


def test_packages_that_pip_puts_elsewhere_are_missed(checkout, calls, monkeypatch):
    monkeypatch.setattr(environment, "is_ready", lambda folder: False)
    with pytest.raises(SystemExit, match=r"its packages are not in .*pip config debug"):
        command_line.main(["lab"])
    assert not (checkout / ".venv" / "three-ways.txt").exists()


def test_a_full_disk_is_a_sentence(checkout, calls, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(environment, "lead_to_checkout", full)
    with pytest.raises(SystemExit, match=r"Could not write to .*: No space left on device"):
        command_line.main(["lab"])


def test_the_path_to_the_checkout_is_read_in_any_encoding(checkout, calls, tmp_path):
    command_line.main(["test"])
    python = environment.python_of(checkout / ".venv")
    (packages(checkout / ".venv") / "helpers.pth").read_bytes().decode("ascii")
    code = "import os, sys, helpers; print(os.path.samefile(helpers.ROOT, os.fsdecode(sys.argv[1])))"
    for settings in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [python, "-c", code, checkout], cwd=tmp_path, env=os.environ | settings, capture_output=True
        )
        assert done.stdout.split() == [b"True"], done.stderr


def test_settings_of_pip_say_where_from_and_never_where_to(tmp_path, monkeypatch):
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://mirror/simple\ntimeout = 7\nretries = 1\n"
        "[install]\nuser = yes\ntarget = /t\nprefix = /p\nroot = /r\nretries = 2\n"
        "find-links =\n  https://one\n  https://two\n",
        encoding="utf-8",
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    mine = {"PIP_CONFIG_FILE": str(file), "PIP_TIMEOUT": "9", "PIP_PROXY": "http://proxy", "HOME": "/h"}
    leaks = dict.fromkeys(["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH"], "1")
    for name, value in (mine | leaks).items():
        monkeypatch.setenv(name, value)
    settings = environment.settings_of_pip(sys.executable)
    assert not set(leaks) & set(settings)
    assert settings["PIP_INDEX_URL"] == "https://mirror/simple" and settings["PIP_PROXY"] == "http://proxy"
    assert settings["PIP_TIMEOUT"] == "9" and settings["PIP_RETRIES"] == "2" and settings["HOME"] == "/h"
    assert settings["PIP_FIND_LINKS"].split() == ["https://one", "https://two"]
    assert settings["PIP_CONFIG_FILE"] == os.devnull  # its lines are in the variables


def test_pip_gets_these_settings(checkout, monkeypatch):
    seen = {}
    monkeypatch.setattr(environment, "provide_pip", lambda folder: None)
    monkeypatch.setattr(environment, "settings_of_pip", lambda python: {"PIP_INDEX_URL": "mirror"})
    monkeypatch.setattr(environment, "call", lambda command, **options: seen.update(options) or 1)
    with pytest.raises((SystemExit, OSError)):
        environment.install(checkout)
    assert seen["env"] == {"PIP_INDEX_URL": "mirror"}


IMPORTS = """
import contextlib, os, subprocess, sys
from helpers import environment

line = "import matplotlib, IPython.paths; IPython.paths.get_ipython_dir()"
with environment.surroundings() if sys.argv[1:] else contextlib.nullcontext():
    subprocess.run([sys.executable, "-c", line])
    print(os.environ.get("MPLCONFIGDIR"))
"""


def test_a_home_that_cannot_be_written_is_not_missed(tmp_path):
    home = tmp_path / "file"
    home.touch()
    variables = {name: value for name, value in os.environ.items() if name not in environment.WRITTEN}
    variables |= {"HOME": str(home), "USERPROFILE": str(home)}

    def run(*arguments):
        command = [sys.executable, "-c", IMPORTS, *arguments]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)

    assert run().stderr
    done = run("within")
    assert not done.stderr and "three-ways-" in done.stdout
    assert not Path(done.stdout.strip()).parent.exists()


def test_where_one_can_write(tmp_path):
    (tmp_path / "file").touch()
    assert environment.can_write(tmp_path / "new" / "folder")
    assert not environment.can_write(tmp_path / "file" / "folder")
    assert not environment.can_write(Path("~"))  # there is no home


def test_folders_that_are_set_or_can_be_written_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in environment.WRITTEN:
        monkeypatch.delenv(name, raising=False)
    with environment.surroundings():
        assert not set(environment.WRITTEN) & set(os.environ)
    monkeypatch.setattr(environment, "can_write", lambda folder: "jupyter" in str(folder))
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    before = dict(os.environ)
    with environment.surroundings():
        assert os.environ["MPLCONFIGDIR"] == "mine" and "three-ways-" in os.environ["IPYTHONDIR"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("prefer", ["0", "1"])
def test_the_kernel_is_this_environments(monkeypatch, tmp_path, prefer):
    kernel = tmp_path / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/other/python"], "display_name": "other", "language": "python"}', "utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", prefer)

    def argv():
        return KernelSpecManager().get_kernel_spec("python3").argv

    assert argv() == ["/other/python"]
    with environment.surroundings():
        assert argv()[0] != "/other/python" and str(tmp_path) in os.environ["JUPYTER_PATH"]


def test_commands_run_in_these_surroundings(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "is_ready", lambda folder: True)
    monkeypatch.setattr(command_line, "find_environment", lambda: Path(sys.prefix))
    monkeypatch.setattr(command_line, "command_lab", lambda arguments: os.environ["JUPYTER_PATH"])
    assert command_line.main(["lab"]).startswith(sys.prefix)


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
