"""`lab`: which notebooks it opens, what it leaves behind, and three panels in a real browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest
from jupyterlab.commands import get_app_dir
from jupyterlab_server.config import get_federated_extensions

from helpers import ROOT, lab

THREE = ["03_mlp_numpy.ipynb", "03_mlp_keras.ipynb", "03_mlp_pytorch.ipynb"]
AUTOSAVE = 5  # seconds, in the place of JupyterLab's 120
PATIENCE = 300  # seconds, at most, until all cells are drawn: the machine may be busy


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return a function that calls `lab`, and what JupyterLab would have been started with."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "the reader's")
    monkeypatch.setattr("signal.signal", lambda *arguments: None)

    def start(*arguments, ending=0):
        seen = {}

        def jupyterlab(options):
            (folder,) = tmp_path.iterdir()
            seen.update(
                options=options,
                files=[json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()],
            )
            seen.update(config=os.environ["JUPYTER_CONFIG_PATH"])
            if ending:
                raise ending
            return 0

        monkeypatch.setattr(lab, "jupyterlab", jupyterlab)
        if ending:
            with pytest.raises(type(ending)):
                lab.main(arguments)
        else:
            assert lab.main(arguments) == 0
        assert not list(tmp_path.iterdir()), "the temporary folder is still there"
        return seen

    return start


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (None, "00_start_here.ipynb"),
        ("03_mlp_keras", "03_mlp_keras.ipynb"),
        ("notebooks/20_equality.ipynb", "20_equality.ipynb"),
    ],
)
def test_one_notebook_opens_alone(started, name, file):
    seen = started(*([name] if name else []), "--no-browser", "--port", "8889")
    assert seen["options"][-3:] == ["--no-browser", "--port", "8889"]
    assert f"--ServerApp.root_dir={ROOT / 'notebooks'}" in seen["options"]
    assert f"--LabApp.default_url=/lab/tree/{file}" in seen["options"]
    assert seen["files"] == []
    assert seen["config"].split(os.pathsep) == [str(lab.PANELS), "the reader's"]


def test_the_three_of_a_lesson_open_side_by_side(started):
    seen = started("03_mlp", "--no-browser")
    assert f"--ServerApp.root_dir={ROOT / 'notebooks'}" in seen["options"]
    assert "--LabApp.default_url=/lab/workspaces/side-by-side" in seen["options"]
    (workspace,) = seen["files"]
    assert workspace["metadata"]["id"] == "side-by-side"
    main = workspace["data"]["layout-restorer:data"]["main"]
    panels = [area["widgets"] for area in main["dock"]["children"]]
    assert panels == [[f"notebook:{file}"] for file in THREE] and main["current"] == panels[0][0]
    assert [workspace["data"][panel]["data"]["path"] for (panel,) in panels] == THREE


@pytest.mark.parametrize("ending", [SystemExit(1), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_jupyterlab_fails(started, ending):
    started("03_mlp", ending=ending)


def test_a_name_that_is_not_there_gets_the_list():
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "lab", "03_mpl"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("No notebook or lesson 03_mpl; there are: 00_start_here, 01_matmul_keras, ")


def test_jupyterlab_finds_the_extension_and_knows_the_settings():
    (extension,) = get_federated_extensions([str(lab.PANELS)]).values()
    script = lab.PANELS / extension["name"] / extension["jupyterlab"]["_build"]["load"]
    assert f"['{extension['name']}'] =" in script.read_text(encoding="utf-8")
    overrides = json.loads(
        (lab.PANELS / "labconfig" / "default_setting_overrides.json").read_text(encoding="utf-8")
    )
    for plugin, settings in overrides.items():
        package, name = plugin.split(":")
        schema = json.loads(
            Path(get_app_dir(), "schemas", package, f"{name}.json").read_text(encoding="utf-8")
        )
        for setting, value in settings.items():
            known = schema["properties"][setting]
            assert value in known.get("enum", [value]) and value != known["default"]
            assert isinstance(value, type(known["default"]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}


class Lab:
    """`lab NAME` on a copy of the checkout, with folders of its own for all that it may write."""

    def __init__(self, folder, opening="03_mlp"):
        self.folder, self.notebooks = folder, folder / "notebooks"
        for name in ("helpers", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        self.before = contents(self.notebooks)
        self.settings = folder / "settings/@jupyterlab/docmanager-extension/plugin.jupyterlab-settings"
        self.settings.parent.mkdir(parents=True)
        self.settings.write_text(json.dumps({"autosaveInterval": AUTOSAVE}), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
        environment |= {"JUPYTER_TOKEN": "three", "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
        for variable, name in {
            "HOME": "home",
            "TMPDIR": "temporary",
            "JUPYTER_RUNTIME_DIR": "runtime",
        }.items():
            (folder / name).mkdir()
            environment[variable] = str(folder / name)

        # As a terminal starts it, also under nohup, which lets all that the tests start ignore it.
        code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        code += "from helpers.__main__ import command_lab; sys.exit(command_lab(sys.argv[1:]))"
        options = (
            f"{opening} --no-browser --ip=127.0.0.1 --port=0 --LabApp.expose_app_in_browser=True".split()
        )
        options += ["--allow-root"] if os.geteuid() == 0 else []
        self.terminal, stdin = os.openpty()  # without one, Ctrl-C ends it and isn't asked about
        self.server = subprocess.Popen(
            [sys.executable, "-c", code, *options],
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        os.close(stdin)
        self.lines = Queue()
        Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.server.stdout:
            self.lines.put(line)
        self.lines.put("")

    def wait_for(self, pattern):
        while line := self.lines.get(timeout=PATIENCE):
            if found := re.search(pattern, line):
                return found[0]
        raise AssertionError(f"JupyterLab has ended, and {pattern} wasn't seen")

    def __enter__(self):
        self.address = self.wait_for(r"http://127\.0\.0\.1:\d+/\S*").replace("...", "three")
        self.port = int(re.search(r":(\d+)/", self.address)[1])
        for _ in range(5 * PATIENCE):  # it says where it listens a moment before it does
            if self.answers():
                return self
            time.sleep(0.2)
        raise TimeoutError(self.address)

    def answers(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *exception):
        os.close(self.terminal)
        if self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(PATIENCE)

    def end(self, *signals):
        """Send signals as a terminal does, to the whole group, and hold that nothing is left behind."""
        import psutil

        processes = psutil.Process(self.server.pid).children(recursive=True)
        (workspaces,) = (self.folder / "temporary").glob("three-ways-*")
        assert [path.suffix for path in workspaces.iterdir()] == [".jupyterlab-workspace"]
        for name, answer in signals:
            os.killpg(self.server.pid, name)
            self.wait_for(answer)
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert processes and not alive and not self.answers()
        left = [path.name for name in ("temporary", "runtime") for path in (self.folder / name).iterdir()]
        assert left in ([], ["jupyter_cookie_secret"])
        assert not (self.folder / "home" / ".jupyter").exists(), "the reader's workspaces and settings"
        assert [path for path in (self.folder / "settings").rglob("*") if path.is_file()] == [self.settings]
        assert contents(self.notebooks).keys() == self.before.keys()
        return len(processes)


@pytest.fixture(scope="module")
def page():
    """Return an empty page of a headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[dev]'")
    found = [
        path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))
    ]
    if not found:
        pytest.skip("no Chromium: on Debian and Ubuntu, apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.requests = []
        page.on("request", lambda request: lab.requests.append(request.url))
        page.goto(lab.address)
        page.wait_for_function(
            """() => window.jupyterapp && (window.panels = [...jupyterapp.shell.widgets('main')]).length == 3
                && panels.every(panel => panel.context?.isReady && panel.content.widgets.length > 50
                    && panel.content.widgets.every(cell => cell.node.isConnected)
                    && panel.sessionContext.session?.kernel?.status == 'idle')"""
        )
        page.evaluate(
            """() => {
                window.boxes = panels.map(panel => panel.node.querySelector('.jp-WindowedPanel-outer'));
                window.heights = id => panels.map((panel, i) => panel.content.widgets
                    .find(cell => cell.model.id == id).node.getBoundingClientRect().top
                    - boxes[i].getBoundingClientRect().top);
                window.same = (id, at = null) => heights(id).every(height =>
                    Math.abs(height - (at ?? heights(id)[0])) <= 3);
            }"""
        )
        page.set_default_timeout(60_000)
        yield lab


def scroll(page, panel, pixels):
    """Turn the wheel over a panel (0, 1, 2)."""
    box = page.evaluate("panel => boxes[panel].getBoundingClientRect().toJSON()", panel)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, pixels)


@pytest.mark.makers
def test_three_panels_at_the_first_start(page, opened):
    assert page.evaluate("panels.map(panel => panel.context.path)") == THREE
    assert page.evaluate("panels.every(panel => panel.isVisible)")
    widths = page.evaluate("panels.map(panel => panel.node.offsetWidth)")
    assert max(widths) - min(widths) <= 3 and 0.9 * 1440 < sum(widths) < 1440
    address = opened.address.partition("/lab")[0]
    assert not [url for url in opened.requests if not url.startswith((address, "data:", "blob:"))]


@pytest.mark.makers
def test_a_notebook_that_is_only_looked_at_stays_as_it_was(page, opened):
    page.wait_for_timeout(3000 * AUTOSAVE)
    assert not page.evaluate("panels.some(panel => panel.context.model.dirty)")
    after = contents(opened.notebooks)
    assert [name for name, content in after.items() if content != opened.before.get(name)] == []
    assert after.keys() == opened.before.keys()


def stretches():
    """Return the pairs of neighbours among the common cells between which each notebook has its own."""
    three = [
        [cell["id"] for cell in json.loads((ROOT / "notebooks" / name).read_text("utf-8"))["cells"]]
        for name in THREE
    ]
    common = [id for id in three[0] if id in three[1] and id in three[2]]
    found = []
    for pair in pairwise(common):
        own = [id for ids in three for id in ids[ids.index(pair[0]) + 1 : ids.index(pair[1])]]
        if own and len(set(own)) == len(own):
            found.append(pair)
    return found


@pytest.mark.makers
@pytest.mark.parametrize("panel", range(3))
def test_scrolling_one_panel_moves_the_others_to_the_same_cell(page, opened, panel):
    pairs = stretches()
    cell, following = pairs[panel * len(pairs) // 3]
    top, end = (page.evaluate("([id, panel]) => heights(id)[panel]", [id, panel]) for id in (cell, following))
    scroll(page, panel, top)
    page.wait_for_function("id => same(id, 0)", arg=cell)
    # Between two common cells the panels go on in proportion, however long each one's stretch is.
    scroll(page, panel, (end - top) / 2)
    halfway = """ids => heights(ids[0]).every((top, i) =>
        Math.abs(-top / (heights(ids[1])[i] - top) - 0.5) < 0.02)"""
    page.wait_for_function(halfway, arg=[cell, following])


@pytest.mark.makers
def test_a_click_in_the_table_of_contents_moves_all_three(page, opened):
    scroll(page, 2, 100)  # the panel that was touched last isn't the current one
    page.get_by_role("tab", name="Table of Contents").click()
    page.locator(".jp-tocItem-content", has_text=re.compile("^Update$")).click()
    page.wait_for_function("same('update', 0)")
    page.get_by_role("tab", name="Table of Contents").click()


@pytest.mark.makers
def test_a_shortcut_and_the_palette_switch_it_off_and_on(page, opened):
    page.keyboard.press("Alt+Shift+S")
    before = page.evaluate("boxes.map(box => box.scrollTop)")
    scroll(page, 1, 500)
    page.wait_for_function("before => boxes[1].scrollTop == before[1] + 500", arg=before)
    page.wait_for_timeout(500)
    assert page.evaluate("boxes.map(box => box.scrollTop)") == [before[0], before[1] + 500, before[2]]

    page.keyboard.press("Control+Shift+C")
    page.locator(".lm-CommandPalette-input").fill("Scroll a Lesson")
    page.locator(".lm-CommandPalette-item", has_text="Scroll a Lesson").click()
    # The current notebook, the first, leads again.
    page.wait_for_function("before => Math.abs(boxes[1].scrollTop - before[1]) <= 3", arg=before)


@pytest.mark.makers
def test_what_a_reader_writes_is_saved(page, opened):
    page.evaluate("panels[0].content.widgets[1].model.sharedModel.setSource('A note of mine.')")
    path = opened.notebooks / THREE[0]
    for _ in range(4):
        page.wait_for_timeout(1000 * AUTOSAVE)
        if b"A note of mine." in path.read_bytes():
            break
    after = contents(opened.notebooks)
    assert json.loads(after[THREE[0]])["cells"][1]["source"] == ["A note of mine."]
    assert [name for name, content in after.items() if content != opened.before.get(name)] == [THREE[0]]


@pytest.mark.makers
def test_interrupting_it_leaves_no_process_port_or_file(page, opened):
    page.goto("about:blank")
    processes = opened.end((signal.SIGINT, "interrupted"), (signal.SIGINT, "received signal"))
    assert opened.server.wait(60) == 0
    assert processes >= 4, "JupyterLab and three kernels"


@pytest.mark.makers
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_nothing_is_left_when_the_terminal_is_closed_or_the_machine_goes_down(tmp_path, name):
    with Lab(tmp_path) as lab:
        lab.end((getattr(signal, name), "received signal"))


@pytest.mark.makers
def test_one_notebook_is_shown_alone(page, tmp_path):
    with Lab(tmp_path, "03_mlp_keras") as lab:
        page.goto(lab.address)
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
        panels = "[...jupyterapp.shell.widgets('main')].map(panel => panel.context.path)"
        assert page.evaluate(panels) == ["03_mlp_keras.ipynb"]
        page.goto("about:blank")


def without_outputs(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return book


@pytest.mark.makers
def test_solutions_stay_shut_when_all_is_run(page, tmp_path):
    name = "01_matmul_numpy.ipynb"
    with Lab(tmp_path, name) as lab:
        path = lab.notebooks / name
        before = without_outputs(path)
        path.write_text(json.dumps(before), encoding="utf-8")
        page.goto(lab.address)
        page.wait_for_function(
            """() => (window.panel = window.jupyterapp?.shell.currentWidget)?.context?.isReady
                && panel.sessionContext.session?.kernel?.status == 'idle'"""
        )
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            """panel.content.widgets.every(cell => cell.model.type != 'code' || cell.model.executionCount)
                && panel.sessionContext.session.kernel.status == 'idle'"""
        )
        page.evaluate("panel.context.save()")
        page.wait_for_function("!panel.context.model.dirty")
        assert without_outputs(path)["cells"] == before["cells"]
        assert b'execution_count": 1' in path.read_bytes(), "not saved"

        shown = """end => panel.content.widgets.filter(cell => cell.model.id.endsWith(end)).map(cell =>
            ['.jp-InputArea', '.jp-OutputArea-output'].map(part =>
                cell.node.querySelector(part)?.checkVisibility() ?? false))"""
        assert page.evaluate(shown, "-solution") == [[False, False]] * 3
        page.get_by_text("1 cell hidden").last.click()  # what one sees; and the arrow, when one points there
        assert page.evaluate(shown, "-solution") == [[False, False]] * 2 + [[True, True]]
        for heading in page.locator(".jp-MarkdownCell:has(.jp-mod-collapsed)").all()[::-1]:
            heading.hover()
            heading.locator(".jp-collapseHeadingButton").click()
        assert page.evaluate(shown, "-solution") == [[True, True]] * 3
        page.goto("about:blank")
