"""What carries the tests: a suite of tiny pages, each with one fault, fails where it has to; and nothing in
the commands, the settings and the workflows lets a failure pass."""

import ast
import base64
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers import ROOT, one_run, plotting, runner
from helpers import __main__ as command_line

DRAW = """\
from matplotlib import pyplot as plt
from helpers import plotting
fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([0, 1, 2], [0, {}, 1])
plotting.show(fig, "A line that rises, and then falls back to 1.")"""
CHECK = """\
import numpy as np
from helpers import records
x = np.arange(3.0)
records.agree("sums", {})"""
SUMS = "sums: within 1e-14\n"
ONE = "test_each_check_compares_two_things_and_can_fail"
# Page: cells (id, source, what is said to have been printed), the tests that have to fail.
PAGES = {
    "90_good": (
        [("sum", "print(2 + 2)", "4\n"), ("check", CHECK.format("x + 1e-15, x"), SUMS)],
        set(),
    ),
    "91_outputs": (
        [
            ("sum", "print(2 + 3)", "4\n"),
            ("warning", "import sys; print('b', file=sys.stderr); print('a')", "a\n"),
            ("picture", DRAW.format(1.5), None),
        ],
        {"sum", "warning", "test_pictures_are_those_on_the_page"},
    ),
    "92_error": (
        [("apart", CHECK.format("x + 1e-9, x"), SUMS), ("after", "1", "")],
        {"apart"},
    ),
    "93_itself": (
        [("check", CHECK.format("x, x"), SUMS)],
        {ONE, "test_comparisons_go_through_the_one_helper"},
    ),
    "94_view": ([("check", CHECK.format("x[:2], x[0:2]"), SUMS)], {ONE}),
    "95_constants": ([("check", CHECK.format("0 * x, np.zeros(3)"), SUMS)], {ONE}),
    # What nbval masks, and where: the numbers and times of a cell with the tag, and nothing else.
    "97_float32": (
        [
            ("float32", "print('loss 10.51, 3ms/step - 1e-05')", "loss 9.52, 17us/step - 2.5\n"),
            ("float32-word", "print('loss 0.5')", "lost 0.5\n"),
            ("float64", "print('loss 0.51')", "loss 0.52\n"),
        ],
        {"float32-word", "float64"},
    ),
    "96_wide": (
        [("check", CHECK.format("x + 1e-9, x, limit=1e-6"), "sums: within 1e-06\n")],
        {"test_bounds_are_not_wide"},
    ),
}


def picture(monkeypatch):
    """The output of DRAW with a line that rises to 2."""
    shown = []
    monkeypatch.setattr(plotting, "display", lambda image, metadata: shown.append((image.data, metadata)))
    exec(DRAW.format(2), {})
    data, metadata = shown[0]
    metadata["image/png"]["alt"] = "A line that rises, and then falls back to 1."
    png = base64.b64encode(data).decode() + "\n"
    text = "<IPython.core.display.Image object>"
    return new_output("display_data", data={"image/png": png, "text/plain": text}, metadata=metadata)


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Return {page: names of the tests that failed} for a suite of the tiny pages, and what was printed."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tests").mkdir()
    (folder / "notebooks").mkdir()
    shutil.copytree(ROOT / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/test_pictures.py", "tests/test_checks.py"):
        shutil.copy(ROOT / name, folder / name)
    for name, (cells, _) in PAGES.items():
        book = new_notebook(cells=[new_code_cell(source, id=cell_id) for cell_id, source, _ in cells])
        for count, (cell, (_, _, text)) in enumerate(zip(book.cells, cells, strict=True), start=1):
            cell.execution_count = count
            cell.metadata["tags"] = ["float32"] * cell.id.startswith("float32")
            with pytest.MonkeyPatch.context() as monkeypatch:
                cell.outputs = [new_output("stream", text=text) if text is not None else picture(monkeypatch)]
        nbformat.write(book, folder / "notebooks" / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-k", "not noticed and not rounding", "--junitxml=report.xml"]
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {name: set() for name in PAGES}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            where = f"{case.get('classname')} {case.get('name')}"
            (page,) = {name for name in PAGES if name in where}
            found[page].add(case.get("name").partition("[")[0])
    return found, done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_page_with_a_fault_fails_where_it_has_to(failures, page):
    assert failures[0][page] == PAGES[page][1]


def test_a_failure_shows_the_page_the_cell_and_both_outputs(failures):
    assert "91_outputs, cell sum: Cell outputs differ" in failures[1]
    assert re.search(r"mismatch 'stdout'.*'4\\n' == '5\\n'", failures[1], re.DOTALL)
    assert "92_error, cell apart: Cell execution caused an exception" in failures[1]
    assert "sums: 5.0e-10 apart, and not within 1e-14" in failures[1]
    assert "1 skipped" in failures[1]  # the cell after the one that raised


def test_one_sees_what_runs_and_what_is_done(failures):
    assert re.search(
        rf"^ +0:00  {len(PAGES)} notebooks on \d+ cores, about \d:\d\d$", failures[1], re.MULTILINE
    )
    assert all(f"  {name}: " in failures[1] for name in PAGES) and "that was the last" in failures[1]
    assert re.search(r"\d:\d\d, \d+\.\d\d times the floor of \d:\d\d", failures[1])


@pytest.mark.parametrize(("body", "code"), [("assert True", 0), ("assert False", 1), ("(", 2)])
def test_the_command_fails_when_a_test_does(tmp_path, body, code):
    file = tmp_path / "test_one.py"
    file.write_text(f"def test_one():\n    {body}\n", encoding="utf-8")
    command = [sys.executable, "-m", "helpers", "test", str(file), "-q"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120).returncode == code


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_command_returns_what_it_found(monkeypatch, command):
    monkeypatch.setattr(command_line, f"command_{command}", lambda arguments: 3)
    for ready in (True, False):
        monkeypatch.setattr(command_line, "is_ready", lambda environment, ready=ready: ready)
        monkeypatch.setattr(command_line, "install", lambda environment: None)
        monkeypatch.setattr(command_line, "call", lambda command, **options: 3)
        assert command_line.main([command]) == 3


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions if node.name.startswith("test")]
    assert len(set(names)) == len(names), f"{path.name}: two of one name"
    marked = {node.name for node in functions if "mark." in "".join(map(ast.unparse, node.decorator_list))}
    assert marked <= set(names), f"{path.name}: not called test_"
    return set(names)


def test_nothing_is_left_out_in_silence(pytestconfig, request):
    assert pytestconfig.option.nbval and not pytestconfig.option.nbval_lax
    assert not pytestconfig.option.nbval_sanitize_with
    if pytestconfig.args != ["notebooks", "tests"] or pytestconfig.option.only or pytestconfig.option.keyword:
        return  # a part was asked for
    items = [*request.session.items, *pytestconfig.left_out]
    assert all(item.get_closest_marker("makers") for item in pytestconfig.left_out)
    for path in (ROOT / "tests").glob("test_*.py"):
        assert names_in(path) == {item.originalname for item in items if item.path == path}, path.name
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell.id for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert cells == [item.name for item in items if item.path == path], path.name


@pytest.mark.parametrize(
    "setting",
    ["testpaths=notebooks", "addopts=-p helpers.one_run --nbval --co", "addopts=-p helpers.one_run"],
)
def test_a_setting_that_leaves_tests_out_is_refused(setting):
    command = [sys.executable, "-m", "pytest", "-p", "helpers.one_run", "-o", setting]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "in pyproject.toml leaves tests out" in done.stderr


@pytest.mark.parametrize("folder", ["helpers", "tests", "data"])
def test_every_file_of_text_is_read_in_a_named_encoding(folder):
    for path in (ROOT / folder).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            call = ast.unparse(node)
            text = re.search(r"(\.(read|write)_text|\bopen)$", ast.unparse(node.func))
            bytes_or_named = re.search(r"encoding=|'(utf-8|[rw]b)'", call)
            assert not text or bytes_or_named, f"{path.name}, line {node.lineno}: {call}"


def test_every_test_file_would_be_found():
    for path in (ROOT / "tests").rglob("*.py"):
        assert path.name == "conftest.py" or re.fullmatch(r"test_\w+", path.stem), path.name
        assert path.parent == ROOT / "tests"
        assert path.name == "conftest.py" or names_in(path), path.name


WAYS = {"sklearn", "skorch", "scipy"}  # what page 22 needs besides


def test_tests_are_skipped_for_want_of_known_packages_only():
    for path in (ROOT / "tests").glob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r'importorskip\("(\w+)"', text)) <= {"torch", "tensorflow", *WAYS}, path.name
        if path.name != "test_wiring.py":
            assert not re.search(r"mark\.(skip|xfail)\b|allow_module_level|collect_ignore", text), path.name


def test_names_stand_for_a_page_or_a_lesson(monkeypatch, capfd):
    given = []
    monkeypatch.setattr(command_line, "call", lambda command, **options: given.append(command[3:]) or 0)
    for names in (
        ["03_mlp_keras"],
        ["03_mlp"],
        ["notebooks/22_key_differences.ipynb", "-x"],
        [],
        ["-k", "a"],
    ):
        command_line.command_test(names)
    assert given == [
        ["--only", "03_mlp_keras"],
        ["--only", "03_mlp_numpy,03_mlp_keras,03_mlp_pytorch"],
        ["--only", "22_key_differences", "-x"],
        [],
        ["-k", "a"],
    ]
    with pytest.raises(SystemExit, match="there are: 00_start_here, 01_matmul_keras"):
        command_line.command_test(["04_mlp"])


# All that a workflow runs: another line is a decision, to be taken here, too.
COMMANDS = {
    ".ci/run",
    "python -m helpers check",
    "python -m helpers check --play ${{ matrix.lesson }}",
    "python -m helpers test",
    "python -m pip install -e '.[keras,pytorch,test,ways]'",
    "python -m pip install -r requirements.txt",
    "python -m pytest",
    "python -m pytest -m makers tests/test_faults.py",
    "python -m pytest -m makers tests/test_twelve_checks.py",
}
WORKFLOWS = {path.name: path for path in (ROOT / ".github" / "workflows").glob("*.yml")}
CI = ROOT / ".ci" / "run"


def shell_lines(text):
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_let_no_failure_pass(name):
    jobs = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))["jobs"]
    assert jobs
    for job in jobs.values():
        assert job.keys() <= {"strategy", "runs-on", "timeout-minutes", "steps"}
        assert job["timeout-minutes"] > 0
        assert any("run" in step for step in job["steps"])
        for step in job["steps"]:
            assert step.keys() <= {"uses", "with", "run"}
            assert set(shell_lines(step.get("run", ""))) <= COMMANDS


def test_the_suite_is_tested_on_all_systems_and_pythons():
    jobs = yaml.safe_load(WORKFLOWS["test.yml"].read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest", "windows-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }
    assert jobs["test"]["steps"][-1] == {"run": "python -m helpers test"}
    assert jobs["makers"]["steps"][-1] == {"run": ".ci/run"}


def test_ci_lets_no_failure_pass():
    first, *lines = shell_lines(CI.read_text(encoding="utf-8"))
    assert first == "set -euo pipefail"
    for line in lines:
        if not line.startswith("trap "):
            assert not re.search(r"\|\||;(?! then$)|&\s*$|\bset \+e|\bexit\b|\btrue\b", line), line
    commands = [line.partition('"$python" -m ')[2] for line in lines if line.startswith('"$python"')]
    assert [line for line in commands if not line.startswith("pip ")] == [
        "helpers test",
        "ruff check",
        "ruff format --check",
        "pytest tests/test_data.py",
        "pytest -m makers --ignore=tests/test_faults.py --ignore=tests/test_twelve_checks.py"
        " -n 2 --dist loadfile",
    ]


def test_what_is_left_out_is_run_elsewhere():
    # Every file with tests for makers is run by .ci/run or by a workflow, as a whole or by its name.
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    marked = {
        name
        for name, text in texts.items()
        if re.search(r"^(@|pytestmark.*)pytest\.mark\.makers", text, re.M)
    }
    ci = " ".join(shell_lines(CI.read_text(encoding="utf-8")))
    (command,) = re.findall(r'"\$python" -m pytest -m makers((?: --ignore=\S+)*)', ci)
    ignored = {path.rpartition("/")[2] for path in re.findall(r"--ignore=(\S+)", command)}
    weekly = " ".join(path.read_text(encoding="utf-8") for path in WORKFLOWS.values())
    named = set(re.findall(r"pytest -m makers tests/(\w+\.py)", weekly))
    assert ignored == named <= marked


def test_tests_follow_the_pages_they_need(monkeypatch):
    expected = {"a": 100, "b": 60, "c": 50, "d": 5}
    monkeypatch.setattr(runner, "expected_seconds", expected.get)
    monkeypatch.setattr(one_run.os, "cpu_count", lambda: 2)
    assert one_run.likely_order(set("abcd")) == ["b", "a", "d", "c"]
