"""The suite's command line; sets up an environment of its own first, so that one command is enough."""

# Only the standard library here, and syntax that an old Python can read, so that it can say it is too old.
import argparse
import sys
from pathlib import Path

from helpers import ROOT
from helpers.environment import call, find_environment, install, is_ready, python_of, surroundings

COMMANDS = {
    "lab": "[NAMES]: open the lessons in JupyterLab, 03_mlp in three panels (then arguments of JupyterLab's)",
    "test": "[NAMES] run every test, or those that concern these notebooks (further arguments: pytest's)",
    "run": "[--timings] [NOTEBOOKS]: run notebooks and write their outputs",
    "check": "[--play] [NOTEBOOKS]: rerun them as other processors or readers would, and compare",
    "benchmark": "time the same training in several libraries",
    "download": "[--from FILE or ADDRESS]: fetch the full MNIST",
    "serve": "serve lesson 10's three models, with a page to draw digits on, until Ctrl-C",
    "readme": "put the verdict and the picture of lesson 22 into the README",
}
HELP = "usage: python3 -m helpers COMMAND\n\n" + "".join(
    "  {:10} {}\n".format(name, text) for name, text in COMMANDS.items()
)


def command_lab(arguments):
    # In one process with its temporary folder, which goes when the server goes.
    return call([sys.executable, "-m", "helpers.lab", *arguments], cwd=str(ROOT))


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


def command_serve(arguments):
    from helpers import server

    print("Open this address in a browser, and draw a digit. Ctrl-C ends it.")
    return server.recorded()


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
        with surroundings():
            return globals()["command_" + arguments[0]](arguments[1:])
    return call([python_of(environment), "-m", "helpers", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
