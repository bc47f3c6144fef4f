"""The plugin of the tests: each notebook is executed once, and every test that needs its run has that one.

The notebooks run in another process, on all cores, the longest first, while the tests that need none of
them go on. nbval judges the outputs, from what that run has left. Plain `pytest` works the same way.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from functools import cache
from pathlib import Path

import nbformat
import nbval.plugin
import pytest

from helpers import ROOT, records, runner

BEGUN = time.perf_counter()
# What a plain `pytest` runs. A setting that left tests out would leave out the one that looks at it, too.
WHOLE = {
    "testpaths": ["notebooks", "tests"],
    "addopts": ["-p", "helpers.one_run", "--nbval", "-m", "not makers", "-p", "no:cacheprovider"],
}


class Ran:
    """A notebook as this test run has executed it.

    notebook: as nbformat reads it, up to the cell that raised, if one did; `outputs` by cell id.
    record: the arrays of its `record`, or an empty dict; checks: what `records.agree` noted, a dict each.
    """

    def __init__(self, folder, name):
        self.notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        self.outputs = {cell.id: cell.get("outputs", []) for cell in self.notebook.cells}
        self.record = records.load(name, folder) if (folder / f"{name}.npz").is_file() else {}
        notes = folder / f"{name}.jsonl"
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
        self.checks = [json.loads(line) for line in lines]

    def text(self, cell_id):
        """Return what a cell has printed or shown, as text."""
        parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in self.outputs[cell_id]]
        return "".join(parts)


class OneRun:
    """The run of all notebooks that the chosen tests need."""

    def __init__(self):
        self.names, self.process, self.known, self.news = [], None, {}, deque()
        self.seconds, self.begun, self.folder = {}, {}, tempfile.TemporaryDirectory(prefix="three-ways-")

    def start(self, names, plugins):
        """Begin to execute these notebooks (a set of names) in a process of their own."""
        self.names, self.started = sorted(names), time.perf_counter()
        self.reporter = plugins.get_plugin("terminalreporter")
        self.capture = plugins.get_plugin("capturemanager")
        if not names:
            return
        code = "import sys; from pathlib import Path; from helpers import runner; "
        code += "runner.execute_all(runner.paths(sys.argv[2:]), Path(sys.argv[1]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, self.folder.name, *self.names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._listen, daemon=True).start()
        work = sum(map(runner.expected_seconds, self.names)) / os.cpu_count()
        longest = max(map(runner.expected_seconds, self.names))
        self.say(f"{len(self.names)} notebooks on {os.cpu_count()} cores, about {clock(max(work, longest))}")
        self.tell()

    def _listen(self):
        self.output = deque(maxlen=20)
        for line in self.process.stdout:
            word, name, *rest = [*line.split(), "", ""]
            if word == "begin":
                self.begun[name] = time.perf_counter()
            elif word == "end":
                self.seconds[name] = float(rest[0])
                self.say(f"{name}: {clock(self.seconds[name])}; {self.left()}")
            else:
                self.output.append(line)

    def say(self, text):
        self.news.append(f"{clock(time.perf_counter() - self.started):>6}  {text}")

    def tell(self):
        """Print the news: from pytest's own thread, and past what it captures in a test."""
        while self.news:
            with self.capture.global_and_fixture_disabled():
                self.reporter.ensure_newline()
                self.reporter.write_line(self.news.popleft())

    def wait(self, name):
        """Return what a notebook's run has left, once it has ended."""
        if name not in self.names:
            raise ValueError(f"{name} isn't run: let the test's LESSONS or its parameters name it")
        if name not in self.seconds:
            self.say(f"waiting for {name}; {self.left()}")
        while name not in self.seconds:
            if self.process.poll() is not None and name not in self.seconds:
                time.sleep(1)  # for the last lines
                if name not in self.seconds:
                    raise RuntimeError("the run of the notebooks broke off:\n" + "".join(self.output))
            self.tell()
            time.sleep(0.05)
        if name not in self.known:
            self.known[name] = Ran(Path(self.folder.name), name)
        return self.known[name]

    def left(self):
        """Return what runs, and about how long the rest will take, from what has run so far."""
        done = dict(self.seconds)
        running = [name for name in self.names if name in self.begun and name not in done]
        expected = {name: runner.expected_seconds(name) for name in self.names}
        pace = sum(done.values()) / max(1, sum(expected[name] for name in done)) if done else 1
        now = time.perf_counter()
        rest = {name: pace * expected[name] - (now - self.begun.get(name, now)) for name in self.names}
        rest = [max(1, rest[name]) for name in self.names if name not in done]
        if not rest:
            return "that was the last"
        left = clock(max(*rest, 0, sum(rest) / os.cpu_count()))
        return f"{len(done)} of {len(self.names)} done, now {' and '.join(running)}; about {left} left"

    def end(self):
        """Stop what still runs and remove what it left."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
        if self.process:
            self.process.wait()
        self.folder.cleanup()


class Replay:
    """What nbval takes for a kernel: it answers with the outputs of the one run."""

    def __init__(self, ran):
        self.cells = iter([cell for cell in ran.notebook.cells if cell.cell_type == "code"])
        self.messages, self.failed = deque(), None

    def execute_cell_input(self, source, allow_stdin=None):
        if self.failed:
            pytest.skip(f"not run: {self.failed} raised")
        cell = next(cell for cell in self.cells if cell.source == source)
        if any(output.output_type == "error" for output in cell.outputs):
            self.failed = cell.id
        for output in cell.outputs:
            self._answer(output.output_type, dict(output))
        self._answer("status", {"execution_state": "idle"})
        return "replayed"

    def _answer(self, kind, content):
        self.messages.append({"msg_type": kind, "content": content, "parent_header": {"msg_id": "replayed"}})

    def get_message(self, stream, timeout=None):
        return self.messages.popleft()

    def await_reply(self, msg_id, timeout=None):
        pass

    def await_idle(self, msg_id, timeout=None):
        self.messages.clear()

    def is_alive(self):
        return True

    def stop(self):
        pass


def clock(seconds):
    """Return seconds as minutes and seconds, "1:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@cache
def all_names():
    return {path.stem for path in runner.paths()}


def concerned(item):
    """Return the names of the notebooks that a test is about, a set."""
    if isinstance(item, nbval.plugin.IPyNbCell):
        return {item.path.stem}
    known, found = all_names(), set()
    for lesson in getattr(getattr(item, "module", None), "LESSONS", ()):
        found |= {name for name in known if name == lesson or name.rpartition("_")[0] == lesson}
    given = getattr(item, "callspec", None)
    words = [word for word in given.params.values() if isinstance(word, str)] if given else []
    named = {name for name in known for word in words if word == name or word == name.rpartition("_")[0]}
    tools = {name for name in found for word in words if name.rpartition("_")[2] == word}
    return named or tools or found


def needed(item):
    """Return the names of the notebooks whose run a test needs, a set."""
    if isinstance(item, nbval.plugin.IPyNbCell) or "ran" in getattr(item, "fixturenames", ()):
        return concerned(item)
    return set()


def pytest_addoption(parser):
    parser.addoption("--only", help="the tests that concern these notebooks, names with commas between")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.option.only:
        only = set(config.option.only.split(","))
        left = [item for item in items if not concerned(item) & only]
        items[:] = [item for item in items if concerned(item) & only]
        config.hook.pytest_deselected(items=left)
    # First what needs no notebook, then the notebooks as they are likely to end.
    order = {name: number for number, name in enumerate(likely_order({n for i in items for n in needed(i)}))}
    items.sort(key=lambda item: max((order[name] for name in needed(item)), default=-1))


def likely_order(names):
    """Return names in the order in which their notebooks will end."""
    ends, cores = {}, [0.0] * os.cpu_count()
    for name in sorted(names, key=runner.expected_seconds, reverse=True):
        core = cores.index(min(cores))
        cores[core] = ends[name] = cores[core] + runner.expected_seconds(name)
    return sorted(ends, key=ends.get)


def pytest_collection_finish(session):
    config = session.config
    if not config.option.collectonly:
        config.one_run.start({name for item in session.items for name in needed(item)}, config.pluginmanager)


def pytest_runtest_setup(item):
    if isinstance(item, nbval.plugin.IPyNbCell):
        masks = runner.FLOAT32 in item.cell.metadata.get("tags", ())
        item.parent.sanitize_patterns = runner.MASKS if masks else {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    item.config.one_run.tell()


def pytest_configure(config):
    config.one_run, config.left_out = OneRun(), []
    for setting, value in WHOLE.items():
        if config.getini(setting) != value:
            raise pytest.UsageError(f"{setting} in pyproject.toml leaves tests out: it has to be {value}")

    def setup(file):
        file.kernel = Replay(config.one_run.wait(file.path.stem))
        file.setup_sanitize_files()

    def failure(item, excinfo):
        if not isinstance(excinfo.value, nbval.plugin.NbCellError):
            return str(excinfo.value)
        parts = [f"{item.path.stem}, cell {item.cell.id}: {excinfo.value}", item.cell.source]
        return "\n\n".join([*parts, excinfo.value.inner_traceback or ""])

    @classmethod
    def from_parent(cls, parent, *, name, cell, **rest):
        return super(cls, cls).from_parent(parent, name=cell.id, cell=cell, **rest)

    nbval.plugin.IPyNbFile.setup = setup
    nbval.plugin.IPyNbCell.from_parent = from_parent
    nbval.plugin.IPyNbCell.repr_failure = failure
    nbval.plugin.IPyNbCell.reportinfo = lambda item: (item.path, None, item.name)


def pytest_deselected(items):
    if items:
        items[0].config.left_out += items


def pytest_unconfigure(config):
    config.one_run.end()


def pytest_terminal_summary(terminalreporter, config):
    """Say how long it took, against the least that the notebooks alone would take, and what was left out."""
    run = config.one_run
    if run.seconds:
        work, longest = sum(run.seconds.values()), max(run.seconds.values())
        floor = max(work / os.cpu_count(), longest)
        took = time.perf_counter() - BEGUN
        ran = f"{len(run.seconds)} notebooks, {clock(work)} of work on {os.cpu_count()} cores"
        ratio = f"{took / floor:.2f} times the floor of {clock(floor)}"
        terminalreporter.write_line(f"{clock(took)}, {ratio} ({ran}, the longest {clock(longest)})")
    makers = Counter(item.path.name for item in config.left_out if item.get_closest_marker("makers"))
    if makers:
        files = ", ".join(f"{name} ({count})" for name, count in sorted(makers.items()))
        terminalreporter.write_line(f"left out, for .ci/run and the weekly jobs: {files}")


@pytest.fixture(scope="session")
def ran(pytestconfig):
    """Call it with a notebook's name: what this test run's one execution of it has left, a `Ran`."""
    return pytestconfig.one_run.wait
