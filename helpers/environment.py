"""The environment that holds the packages: where it is, whether it is ready, and how it is made."""

# Only the standard library here, and syntax that an old Python can read, so that it can say it is too old.
import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from helpers import ROOT


def missing(version, has_module):
    """Return a sentence about what this Python lacks, or None; `has_module` maps a name to true or false."""
    if tuple(version[:2]) < (3, 11):
        return (
            "This is Python {}.{}, and the lessons need 3.11 or newer: install one, and call it by its name, "
            "such as `python3.13 -m helpers lab`.".format(*version[:2])
        )
    if sys.prefix != sys.base_prefix:
        if not has_module("pip"):
            return (
                "This virtual environment has no pip: call `python3 -m ensurepip`, then this command again."
            )
    elif not (has_module("venv") and has_module("ensurepip")):
        return (
            "This Python can't make virtual environments. On Debian and Ubuntu call "
            "`sudo apt install python3-venv`, then this command again."
        )
    return None


def stamp_text():
    """Return what the installed packages depend on: the two lists of packages, and where the checkout is."""
    lists = (ROOT / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(lists).hexdigest() + "\n" + str(ROOT) + "\n"


def is_ready(environment):
    """Return whether the packages were installed in this environment, for this checkout as it is now."""
    stamp = environment / "three-ways.txt"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == stamp_text()


def find_environment():
    """Return the folder of the active virtual environment, or of the suite's own."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    own = ROOT / ".venv"
    if os.access(str(ROOT), os.W_OK) or is_ready(own):
        return own
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "three-ways" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]


def python_of(environment):
    """Return the environment's Python."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(environment):
    """Make the environment if need be and install requirements.txt in it, or exit with a sentence."""
    problem = missing(sys.version_info, lambda name: find_spec(name) is not None)
    if problem:
        raise SystemExit(problem)
    print("Installing the packages in {}: once, a few minutes.".format(environment), flush=True)
    stamp, python = environment / "three-ways.txt", python_of(environment)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-r", "requirements.txt"]
    if not python.exists() and call([sys.executable, "-m", "venv", environment]):
        raise SystemExit("Could not make a virtual environment in {}.".format(environment))
    if stamp.exists():
        stamp.unlink()
    if call(pip, cwd=str(ROOT)):
        raise SystemExit(
            "pip could not install the packages; its message is above. The first start needs a network "
            "and about 3 GB of disk. Call the same command again; if it fails again, delete {} first.".format(
                environment
            )
        )
    stamp.write_text(stamp_text(), encoding="utf-8")


def call(command, **options):
    """Run a command and return its exit code; Ctrl-C is the command's to answer."""
    with subprocess.Popen([str(part) for part in command], **options) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                pass
