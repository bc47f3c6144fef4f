"""Opens notebooks in JupyterLab: one alone, several side by side, and a lesson's three scroll together.

What scrolls them, and the settings of this one server, are in `panels/`. JupyterLab reads them there:
nothing is installed, and the reader's own workspaces and settings stay as they are.
"""

import json
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from jupyterlab.labapp import main as jupyterlab
from jupyterlab_server.workspaces_handler import WorkspacesManager

from helpers import runner

PANELS = Path(__file__).parent / "panels"
WORKSPACE = "side-by-side"


def split(arguments):
    """Return the names of notebooks, which come first, and JupyterLab's arguments, from the first `-` on."""
    first = next((at for at, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def workspace(files):
    """Return JupyterLab's description, a dict, of a window with these notebooks side by side.

    `files` are names of files in the server's folder. The side bars are closed; one click opens them.
    """
    panels = {f"notebook:{file}": {"data": {"path": file, "factory": "Notebook"}} for file in files}
    dock = {
        "type": "split-area",
        "orientation": "horizontal",
        "sizes": [1 / len(panels)] * len(panels),
        "children": [{"type": "tab-area", "currentIndex": 0, "widgets": [panel]} for panel in panels],
    }
    layout = {
        "main": {"dock": dock, "current": next(iter(panels))},
        "left": {"collapsed": True, "visible": True, "widgets": []},
        "right": {"collapsed": True, "visible": True, "widgets": []},
        "down": {"size": 0, "widgets": []},
        "relativeSizes": [0, 1, 0],
        "top": {"simpleVisibility": True},
    }
    return {"data": {"layout-restorer:data": layout, **panels}, "metadata": {"id": WORKSPACE}}


def main(arguments):
    """Run JupyterLab until it is stopped, and return its exit code.

    `arguments` are names as `runner.paths` takes them (none: lesson 00), then JupyterLab's own.
    The workspace, which JupyterLab changes as the reader moves things, is in a folder of this server's.
    """
    names, options = split(arguments)
    paths = runner.paths(names or ["00_start_here"])
    inherited = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([str(PANELS), *([inherited] if inherited else [])])
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # Someone closes the terminal: JupyterLab knows how to end, and what to clear away, on SIGTERM only.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with TemporaryDirectory(prefix="three-ways-", ignore_cleanup_errors=True) as folder:
        # As addresses, which open the same with `--no-browser`; a file's name would only go to a browser.
        address = f"/lab/tree/{paths[0].name}"
        if len(paths) > 1:
            WorkspacesManager(folder).save(WORKSPACE, json.dumps(workspace([path.name for path in paths])))
            address = f"/lab/workspaces/{WORKSPACE}"
        ours = [
            f"--ServerApp.root_dir={paths[0].parent}",
            f"--LabApp.default_url={address}",
            f"--LabApp.workspaces_dir={folder}",
            f"--LabApp.extra_labextensions_path={PANELS}",
        ]
        return jupyterlab([*ours, *options])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
