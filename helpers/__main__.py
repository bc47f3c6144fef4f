"""The suite's command line; sets up an environment of its own first, so that one command is enough."""

# Only the standard library here, and syntax that an old Python can read, so that it can say it is too old.
import argparse
import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from helpers import ROOT

COMMANDS = {
    "lab": "open the lessons in JupyterLab (further arguments go to JupyterLab)",
    "test": "[NAMES] run every test, or those that concern these notebooks (further arguments: pytest's)",
    "run": "[--timings] [NOTEBOOKS]: run notebooks and write their outputs",
    "check": "[--play] [NOTEBOOKS]: rerun them as other processors or readers would, and compare",
    "benchmark": "time the same training in several libraries",
    "download": "[--from FILE or ADDRESS]: fetch the full MNIST",
    "readme": "put the verdict and the picture of lesson 22 into the README",
}
HELP = "usage: python3 -m helpers COMMAND\n\n" + "".join(
    "  {:10} {}\n".format(name, text) for name, text in COMMANDS.items()
)


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


def command_lab(arguments):
    notebooks = ROOT / "notebooks"
    names = ("00_start_here.ipynb", "03_mlp_numpy.ipynb")
    first = [name for name in names if (notebooks / name).is_file()][:1]
    return call([sys.executable, "-m", "jupyterlab", *first, *arguments], cwd=str(notebooks))


def command_test(arguments):
    from helpers import runner

    # Names come first; from the first option or file of tests on, all is pytest's.
    others = [i for i, word in enumerate(arguments) if word.startswith("-") or ".py" in word]
    first = min(others, default=len(arguments))
    only = [path.stem for path in runner.paths(arguments[:first])] if first else []
    chosen = ["--only", ",".join(only)] if only else []
    return call([sys.executable, "-m", "pytest", *chosen, *arguments[first:]], cwd=str(ROOT))


def command_run(arguments):
    from helpers import runner

    parser = argparse.ArgumentParser(prog="helpers run")
    parser.add_argument("--timings", action="store_true", help="write new timings, too")
    parser.add_argument("names", nargs="*")
    chosen = parser.parse_args(arguments)
    return runner.run(chosen.names, chosen.timings)


def command_check(arguments):
    from helpers import play, runner

    parser = argparse.ArgumentParser(prog="helpers check")
    parser.add_argument(
        "--play",
        action="store_true",
        help="turn each constant of the settings cell, run every cell twice; timings are run, not compared",
    )
    parser.add_argument("names", nargs="*")
    chosen = parser.parse_args(arguments)
    return (play.play if chosen.play else runner.check)(chosen.names)


def command_benchmark(arguments):
    from helpers import benchmark

    return benchmark.main(arguments)


def command_download(arguments):
    from helpers import data

    parser = argparse.ArgumentParser(prog="helpers download")
    parser.add_argument("--from", dest="source", help="an address of mnist.npz, or a copy on disk")
    source = parser.parse_args(arguments).source
    try:
        print("The full MNIST is in {}.".format(data.download(source)))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


def command_readme(arguments):
    from helpers import readme

    try:
        return readme.main()
    except ValueError as error:
        raise SystemExit(str(error)) from None


def main(arguments):
    """Run the command in the environment that holds the packages, and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] not in COMMANDS:
        print("There is no command {!r}.\n\n{}".format(arguments[0], HELP), end="", file=sys.stderr)
        return 2
    environment = find_environment()
    ready = is_ready(environment)
    if not ready:
        install(environment)
    if ready and environment == Path(sys.prefix):
        return globals()["command_" + arguments[0]](arguments[1:])
    return call([python_of(environment), "-m", "helpers", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
