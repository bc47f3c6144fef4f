"""Looks at the reader's installation, and says in plain words what is wrong with it and how to mend it.

No package that a lesson uses is imported to look at it: the check works where they are missing or broken.
"""

from __future__ import annotations  # for the Python, too old, of another installation

import json
import os
import re
import shutil
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from packaging.version import Version

from helpers import THREADS
from helpers.environment import NEWEST, requirements
from helpers.environment import missing as python_problem

TITLES = {"keras": "Keras", "tensorflow": "TensorFlow", "torch": "PyTorch"}
NEED = {
    "keras": "the Keras notebooks need it",
    "tensorflow": "the Keras notebooks need it",
    "torch": "the PyTorch notebooks need it",
    "scikit-learn": "page 22 needs it",
    "scipy": "lesson 6 in NumPy, lesson 8 and page 22 need it",
    "skorch": "page 22 needs it",
    "tensorflow-probability": "lesson 8 in Keras needs it",
    "tf-keras": "TensorFlow Probability needs it, in lesson 8",
    **dict.fromkeys(("onnx", "onnxruntime", "fastapi", "uvicorn"), "lesson 10 needs it"),
    "onnxscript": "lesson 10 in PyTorch needs it",
    "tf2onnx": "lesson 10 in Keras needs it",
    "nbval": "the tests need it",
    "pytest": "the tests need it",
}
MODULES = {
    "scikit-learn": "sklearn",
    "tensorflow-probability": "tensorflow_probability",
    "tf-keras": "tf_keras",
}  # packages whose module has another name
# In the words of the README, under "When it goes wrong".
OTHER_PYTHON = (
    "In a terminal, in the folder above the notebook's, call `python3 -m helpers lab`; in VS Code, select "
    "the kernel `.venv` of that folder."
)
HIDDEN = "Rename it, uninstall it or take its folder out of PYTHONPATH, and start JupyterLab again."
GRAPHICS_CARD = (
    "Everything works, but takes some gigabytes more of the disk. For the build without, choose CPU on "
    "https://pytorch.org/get-started/locally/"
)
# For each variable of the environment: the values that do no harm, and what any other does.
VARIABLES = {
    "KERAS_BACKEND": ("tensorflow", "the Keras notebooks need tensorflow"),
    "KERAS_MAX_EPOCHS": ("", "every `fit` would end early"),
    "KERAS_MAX_STEPS_PER_EPOCH": ("", "every `fit` would end early"),
    "MPLBACKEND": (".*(inline|ipympl|nbagg|widget).*", "no picture would appear in a notebook"),
    "PYTHONOPTIMIZE": ("0", "Python would leave out every `assert`"),
    **dict.fromkeys(THREADS, (r"\d+(,\d+)*", "that is no number of threads")),
}
KERAS_DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


def pins() -> dict[str, str]:
    """Return the packages of requirements.txt by name, each with the version the lessons were made with."""
    return dict(line.split("==") for line in requirements())


def available(*names: str) -> bool:
    """Return whether these packages are installed; if not, print which are missing and how to install them.

    Args:
        names: names of packages, as one imports them.
    """
    absent = [name for name in names if not _is_there(name)]
    if absent:
        subject = " and ".join(TITLES.get(name, name) for name in absent)
        verb = "is" if len(absent) == 1 else "are"
        command = " ".join(["%pip install", *(f"{name}=={pins()[name]}" for name in absent)])
        print(f"{subject} {verb} not installed, so this cell has nothing to show. To install:\n{command}")
    return not absent


def check(installed: dict[str, str] | None = None) -> None:
    """Print what is missing, too old or misconfigured, each with its remedy; or that nothing is.

    Args:
        installed: versions of packages by name, to see what the check would say about them; None: those
            that are installed.
    """
    problems = findings(installed)
    if not problems:
        print(f"Python, {len(pins())} packages, data, settings: everything is there and new enough.")
        return
    print("One thing to mend:" if len(problems) == 1 else f"{len(problems)} things to mend:")
    for number, (problem, remedy) in enumerate(problems, start=1):
        print(f"\n{number}. {problem}\n   {remedy}")
    if any(remedy.startswith("%") for _, remedy in problems):
        print("\nRun each line that begins with % in a cell of its own. Then")
        print("restart the kernel (menu Kernel, Restart Kernel), and check again.")


def findings(installed: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Return what `check` prints: for each problem a sentence and its remedy, the most basic first.

    Args:
        installed: versions of packages by name; None: those that are installed.
    """
    if elsewhere := list(_helpers()):
        return [*_python(), *elsewhere]  # in another Python, what else is missing tells nothing
    return [
        *_python(),
        *_hidden_packages(),
        *_packages(installed),
        *_data(),
        *_environment(),
        *_keras_settings(),
    ]


def remarks() -> list[tuple[str, str]]:
    """Return what is no fault and depends on the machine: PyTorch's build for graphics cards without one."""
    origin = _is_there("torch") and find_spec("torch").origin
    if not origin or shutil.which("nvidia-smi"):
        return []
    text = Path(origin).with_name("version.py").read_text(encoding="utf-8")
    build = re.search(r"^cuda\b.*= '([\d.]+)'", text, re.MULTILINE)
    if not build:
        return []
    sentence = f"PyTorch is the build for graphics cards (CUDA {build[1]}), and none is found here."
    return [(sentence, GRAPHICS_CARD)]


def _is_there(name):
    try:
        return find_spec(MODULES.get(name, name)) is not None
    except (ImportError, ValueError):
        return False


def _python():
    problem = python_problem(sys.version_info, lambda module: True)
    if problem:
        sentence, remedy = problem.split(": ", 1)
        yield sentence + ".", remedy[0].upper() + remedy[1:]


def _helpers():
    """Any `import helpers` but that of lesson 0 may find no `helpers` here, or not that of this copy."""
    here = Path.cwd()
    copy = next(
        (path for path in (here, *here.parents) if (path / "helpers/installation.py").is_file()), None
    )
    if copy is None:
        return  # the notebook lies alone somewhere
    # Lesson 0 puts the folder above it first, or this check couldn't run where it is needed.
    spec = PathFinder.find_spec("helpers", [folder for folder in sys.path if folder != ".."])
    if spec is None:
        yield f"This Python, {sys.executable}, is not the one that the suite was installed in.", OTHER_PYTHON
        return
    found = Path(spec.origin or next(iter(spec.submodule_search_locations)))
    found = found.parent if found.name == "__init__.py" else found
    if (found / "installation.py").is_file():
        if found.resolve().parent != copy.resolve():
            yield f"The package `helpers` comes from another copy, {found.parent}.", OTHER_PYTHON
    else:
        yield f"{found} hides the suite's own package `helpers`.", HIDDEN


def _hidden_packages():
    """Python looks in the notebook's own folder first: a `torch.py` there is what `import torch` finds."""
    for package in pins():
        name = MODULES.get(package, package)
        for path in (Path(f"{name}.py"), Path(name, "__init__.py")):
            if path.is_file():
                found = path if path.parent == Path() else path.parent
                sentence = f"{found}, beside the notebook, hides the package {name}."
                yield sentence, f"Give {found} another name, such as my_{found}."


def _packages(installed):
    lacking = False
    for name, pin in pins().items():
        version = _version(name) if installed is None else installed.get(name)
        need = NEED.get(name, "the suite needs it")
        if version is None:
            lacking = True
            yield f"{name} is missing: {need}.", f"%pip install {name}=={pin}"
        elif Version(version) < Version(pin):
            sentence = f"{name} {version} is too old: {need.removesuffix(' it')} {pin} or newer."
            yield sentence, f"%pip install {name}=={pin}"
        elif installed is None and not _is_there(name):
            sentence = f"{name} is damaged: it is listed as installed, but can't be found."
            yield sentence, f"%pip install --force-reinstall --no-deps {name}=={pin}"
    if lacking and sys.version_info[:2] > NEWEST:
        newest = ".".join(map(str, NEWEST))
        sentence = f"This Python is newer than {newest}: not every package above may exist for it yet."
        yield sentence, f"Install Python {newest}, and call `python{newest} -m helpers lab`."


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _data():
    try:
        from helpers import data  # here, because it needs NumPy, which may be missing

        data.load_mnist()
    except ImportError:
        return
    except (OSError, ValueError) as error:
        sentence, _, remedy = str(error).rpartition(". ")
        yield sentence + ".", remedy


def _environment():
    for name, (harmless, effect) in VARIABLES.items():
        value = os.environ.get(name, "").strip()
        if value and not re.fullmatch(harmless, value):
            remedy = f"Remove-Item Env:{name}" if sys.platform == "win32" else f"unset {name}"
            remedy += "   (in the terminal, then start JupyterLab again from there)"
            yield f"The environment variable {name} is {value}: {effect}.", remedy


def _keras_settings():
    path = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Keras, too, passes over a file that isn't JSON
        return
    for name, default in KERAS_DEFAULTS.items():
        value = settings.get(name, default)
        if value != default:
            value, default = json.dumps(value), json.dumps(default)
            sentence = f'{path} sets "{name}" to {value}, which changes what Keras computes.'
            yield sentence, f'In that file, write "{name}": {default}'


if __name__ == "__main__":
    check()
    for remark in remarks():
        print("", *remark, sep="\n")
