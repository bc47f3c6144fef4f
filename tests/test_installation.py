"""The installation check: what it says when something is missing, too old or misconfigured."""

import os
import subprocess
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from helpers import ROOT, data, installation, lessons, runner


@pytest.fixture(autouse=True)
def good(tmp_path, monkeypatch):
    """A good installation, seen from the notebooks' folder, whatever the environment of the tests is."""
    for name in installation.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT / "notebooks")
    assert installation.findings() == []
    return tmp_path


def report(capsys):
    installation.check()
    return capsys.readouterr().out


def set_version(monkeypatch, package, version):
    real = metadata.version

    def pretended(name):
        if name != package:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", pretended)


def test_a_good_installation_is_one_line_without_versions_or_paths(capsys):
    out = report(capsys)
    count = len(installation.pins())
    assert out == f"Python, {count} packages, data, settings: everything is there and new enough.\n"


def test_newer_packages_and_builds_are_good(monkeypatch, capsys):
    for version in ("99.0", installation.pins()["torch"] + "+cpu"):
        set_version(monkeypatch, "torch", version)
        assert installation.findings() == []


@pytest.mark.parametrize("name", installation.pins())
def test_a_missing_or_old_package_is_named_with_its_remedy(monkeypatch, capsys, name):
    remedy = f"\n   %pip install {name}=={installation.pins()[name]}\n"
    for version, words in {None: f"{name} is missing: ", "0.0.1rc1": f"{name} 0.0.1rc1 is too old: "}.items():
        set_version(monkeypatch, name, version)
        out = report(capsys)
        assert out.startswith("One thing to mend:") and f"\n1. {words}" in out and remedy in out
        assert "restart the kernel" in out


def test_each_framework_is_needed_by_its_own_notebooks(monkeypatch, capsys):
    for name, title in {"keras": "Keras", "tensorflow": "Keras", "torch": "PyTorch"}.items():
        set_version(monkeypatch, name, None)
        assert f"{name} is missing: the {title} notebooks need it." in report(capsys)


def test_several_things_are_numbered(monkeypatch, capsys):
    pretended = installation.pins() | {"torch": "1.13.1"}
    del pretended["keras"]
    installation.check(pretended)
    out = capsys.readouterr().out
    assert out.startswith("2 things to mend:") and out.index("1. keras is missing") < out.index(
        "2. torch 1.13"
    )


def test_a_package_without_its_files(monkeypatch, capsys):
    monkeypatch.setattr(installation, "_is_there", lambda name: name != "torch")
    out = report(capsys)
    assert "torch is damaged" in out and "--force-reinstall --no-deps torch==" in out


def test_python_too_old_or_too_new(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
        (finding,) = installation._python()
    assert finding[0] == "This is Python 3.10, and the lessons need 3.11 or newer."
    assert finding[1].startswith("Install one") and "-m helpers lab" in finding[1]

    pretended = installation.pins()
    for lacking in (False, True):
        if lacking:
            del pretended["tensorflow"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
            problems = list(installation._packages(pretended))
        assert len(problems) == 2 * lacking
    assert "newer than 3.13" in problems[1][0] and "python3.13" in problems[1][1]


def test_helpers_from_another_checkout(good, monkeypatch, capsys):
    other = good / "copy"
    (other / "helpers").mkdir(parents=True)
    (other / "helpers" / "installation.py").touch()
    (other / "notebooks").mkdir()
    monkeypatch.chdir(other / "notebooks")
    out = report(capsys)
    assert f"One thing to mend:\n\n1. The package `helpers` comes from another copy, {ROOT}.\n" in out
    assert installation.OTHER_PYTHON in out
    # A notebook that lies alone somewhere is no copy.
    monkeypatch.chdir(good)
    assert installation.findings() == []


@pytest.mark.parametrize("path", ["helpers.py", "helpers/__init__.py"])
def test_another_package_called_helpers(good, monkeypatch, capsys, path):
    (good / path).parent.mkdir(exist_ok=True)
    (good / path).touch()
    monkeypatch.syspath_prepend(good)
    found = good / path.partition("/")[0]
    sentence = f"{found} hides the suite's own package `helpers`."
    assert report(capsys) == f"One thing to mend:\n\n1. {sentence}\n   {installation.HIDDEN}\n"


def test_the_cell_of_lesson_0_can_say_so(good):
    # As in a kernel: the first place is the notebook's folder. The other package has none of our modules.
    (good / "helpers").mkdir()
    (good / "helpers" / "__init__.py").touch()
    (cell,) = (cell.source for cell in lessons.cells("00_start_here") if cell.id == "setup-check")
    for path, words in {
        good: f"{good / 'helpers'} hides the suite's own",
        ROOT: "everything is there",
    }.items():
        variables = os.environ | {"PYTHONPATH": str(path)}
        done = subprocess.run([sys.executable, "-c", cell], env=variables, capture_output=True, text=True)
        assert words in done.stdout, done.stderr


def test_another_python_is_named_and_nothing_else(monkeypatch, capsys):
    set_version(monkeypatch, "torch", None)
    # The two ways in which this very Python finds them: the line of a .pth file, and the tests' own folder.
    elsewhere = [folder for folder in sys.path if folder and not Path(folder, "helpers").is_dir()]
    monkeypatch.setattr(sys, "path", ["..", *elsewhere])
    sentence = f"This Python, {sys.executable}, is not the one that the suite was installed in."
    assert report(capsys) == f"One thing to mend:\n\n1. {sentence}\n   {installation.OTHER_PYTHON}\n"


@pytest.mark.parametrize("build", ["cuda: Optional[str] = '13.0'", "cuda = '12.1'"])
def test_a_build_for_graphics_cards_without_one_is_a_remark(good, monkeypatch, build):
    (good / "torch").mkdir()
    (good / "torch" / "__init__.py").touch()
    monkeypatch.setattr(installation, "find_spec", lambda name: PathFinder.find_spec(name, [str(good)]))

    def remarks(line, driver):
        (good / "torch" / "version.py").write_text(f"debug = False\n{line}\nhip = None\n", encoding="utf-8")
        monkeypatch.setattr(installation.shutil, "which", lambda name: driver)
        return installation.remarks()

    ((sentence, remedy),) = remarks(build, None)
    assert f"(CUDA {build[-5:-1]})" in sentence and remedy == installation.GRAPHICS_CARD
    assert remarks(build, "/usr/bin/nvidia-smi") == remarks("cuda: Optional[str] = None", None) == []


def test_the_readme_names_the_same_remedies():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = " ".join(readme.split("\n## When it goes wrong\n")[1].split("\n## ")[0].split())
    for remedy in (installation.OTHER_PYTHON, installation.HIDDEN, installation.GRAPHICS_CARD):
        assert remedy in section


@pytest.mark.parametrize("path", ["torch.py", "torch/__init__.py"])
def test_a_file_that_hides_a_package(good, monkeypatch, capsys, path):
    (good / path).parent.mkdir(exist_ok=True)
    (good / path).touch()
    monkeypatch.chdir(good)
    name = path.partition("/")[0]
    assert f"{name}, beside the notebook, hides the package torch.\n   Give {name} another" in report(capsys)


def test_missing_or_altered_data(good, monkeypatch, capsys):
    monkeypatch.setattr(data, "ROOT", good)
    assert "no such file.\n   Restore it, in the checkout: git checkout -- data/" in report(capsys)
    (good / "data").mkdir()
    raw = (ROOT / "data" / "mnist_5k.npz").read_bytes()
    (good / "data" / "mnist_5k.npz").write_bytes(raw[:-1000])
    out = report(capsys)
    assert "truncated" in out and "\n   Restore it, in the checkout: git checkout" in out


@pytest.mark.parametrize(
    "name, harmless, harmful",
    [
        ("KERAS_BACKEND", ["tensorflow", ""], "jax"),
        ("KERAS_MAX_EPOCHS", [""], "1"),
        ("MPLBACKEND", ["module://matplotlib_inline.backend_inline", "widget"], "Agg"),
        ("PYTHONOPTIMIZE", ["0"], "1"),
        ("OMP_NUM_THREADS", ["1", "2", "4,2"], "all"),
    ],
)
def test_variables_of_the_environment(monkeypatch, capsys, name, harmless, harmful):
    for value in harmless:
        monkeypatch.setenv(name, value)
        assert installation.findings() == []
    monkeypatch.setenv(name, harmful)
    for system, remedy in {"linux": f"unset {name} ", "win32": f"Remove-Item Env:{name} "}.items():
        monkeypatch.setattr(sys, "platform", system)
        out = report(capsys)
        assert f"The environment variable {name} is {harmful}: " in out and f"\n   {remedy}" in out


def test_the_thread_counts_are_those_of_the_runner():
    assert installation.THREADS == runner.THREADS


def test_keras_settings(good, capsys):
    file = good / "keras.json"
    file.write_text('{"floatx": "float32", "epsilon": 1e-07, "backend": "jax"}', encoding="utf-8")
    assert installation.findings() == []
    file.write_text("not JSON", encoding="utf-8")
    assert installation.findings() == []
    file.write_text('{"floatx": "float16", "image_data_format": "channels_first"}', encoding="utf-8")
    out = report(capsys)
    assert out.startswith("2 things") and str(file) in out
    assert 'sets "floatx" to "float16"' in out and '\n   In that file, write "floatx": "float32"' in out


def test_available(monkeypatch, capsys):
    assert installation.available("numpy", "torch") and capsys.readouterr().out == ""
    monkeypatch.setattr(installation, "_is_there", lambda name: name == "numpy")
    assert not installation.available("numpy", "torch")
    assert capsys.readouterr().out.startswith("PyTorch is not installed, so this cell has nothing to show.")
    assert not installation.available("keras", "tensorflow")
    pins = installation.pins()
    command = f"%pip install keras=={pins['keras']} tensorflow=={pins['tensorflow']}\n"
    out = capsys.readouterr().out
    assert out.startswith("Keras and TensorFlow are not installed") and out.endswith(command)


def test_no_framework_is_imported():
    seen = "import sys; from helpers.installation import *; check(); available('torch', 'keras')\n"
    seen += "print(sorted({'torch', 'keras', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", seen], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stderr


def test_versions_are_numbers_and_no_words(monkeypatch):
    monkeypatch.setattr(installation, "pins", lambda: {"numpy": "2.10.0"})
    assert "too old" in next(iter(installation.findings({"numpy": "2.9.1"})))[0]
    assert installation.findings({"numpy": "2.11.0"}) == []
