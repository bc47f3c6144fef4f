"""Runs the notebooks from a clean kernel, and shows that their outputs are the same everywhere."""

import asyncio
import difflib
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_sync

from helpers import ROOT, THREADS, records, timing

NOTEBOOKS = ROOT / "notebooks"
SECONDS = ROOT / "data" / "seconds.json"  # what each notebook took when its timings were last written
TIMING = "nbval-ignore-output"
LAST_DIGITS = "last-digits"  # a picture of rounding errors, which differ from processor to processor
FLOAT32 = "float32"  # figures, and a picture of them, that differ from processor to processor
# Their masks, as nbval has them: a pattern, and what stands in its place. (Keras reports times, too.)
TIMES = {r" *\b\d+(?:us|ms|s)\b": " TIME"}
MASKS = TIMES | {r" *-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?": " NUMBER"}
# Each of these changes the last digits of sums, products or exponentials: threads split a sum
# elsewhere, and every kind of processor has its own order of adding. A feature or a library that the
# machine hasn't got is passed over in silence.
SETTINGS = {
    "1 thread": dict.fromkeys(THREADS, "1"),
    "2 threads": dict.fromkeys(THREADS, "2"),
    "Haswell": {
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512_ICL X86_V4",
        "ATEN_CPU_CAPABILITY": "avx2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    },
    "Nehalem": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX512_ICL X86_V4 X86_V3",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}

# What a page leaves behind: which frameworks it has loaded, and its record.
LAST_CELL = """\
import sys

print(*sorted({{"keras", "tensorflow", "torch"}} & sys.modules.keys()))
if isinstance(globals().get("record"), dict):
    from pathlib import Path

    from helpers import records

    records.save({!r}, record, Path({!r}))"""


class NotebookError(Exception):
    """A cell raised, or wrote to stderr; the message names the cell."""


class _ThisPython(KernelSpecManager):
    # The kernelspec called "python3" may be another installation's.
    def get_kernel_spec(self, kernel_name):
        return KernelSpec(**get_kernel_dict())


_kernels = set()  # those that run


def execute(path, env=None, records_in=None, keep_errors=False, change=None):
    """Run one notebook in a new kernel and return it with outputs that don't change from run to run.

    `env` (a dict of strings) is added to the environment; the dict `record` that the notebook may leave
    behind goes to the folder `records_in`, if one is given; `change` (a function) may change the notebook
    before it runs. Nothing is written to the notebook's file.
    Raises NotebookError for an error (its __cause__ is nbclient's) or output on stderr, SystemExit when the
    kernel dies; with `keep_errors` the notebook ends in the cell that failed, with its error as the output.
    """
    notebook = nbformat.read(path, as_version=4)
    if change:
        change(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if records_in:
        source = LAST_CELL.format(path.stem, str(records_in))
        notebook.cells.append(nbformat.v4.new_code_cell(source, id="last-cell"))

    seconds = {}

    def leave_interrupts(notebook):
        seconds["begin"] = time.perf_counter()
        # nbclient answers Ctrl-C by stopping the kernel, and then trips over its absence.
        with suppress(NotImplementedError, RuntimeError):  # Windows; another thread than the main one
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def refuse_stderr(cell, cell_index, execute_reply):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            seconds.setdefault("picture", time.perf_counter() - seconds["begin"])
        for output in cell.outputs if execute_reply["content"]["status"] == "ok" else ():
            if output.get("name") == "stderr" and not keep_errors:
                text = "\n    ".join(output.text.splitlines()[-8:])
                raise NotebookError(f"{path.name}, cell {cell.id} wrote to stderr:\n    {text}")

    kernel = AsyncKernelManager(kernel_spec_manager=_ThisPython(), transport_encryption="auto")
    client = NotebookClient(
        notebook,
        km=kernel,
        resources={"metadata": {"path": str(path.parent)}},
        timeout=1200,  # a busy machine takes ten times as long as a quiet one
        record_timing=False,
        coalesce_streams=True,
        on_notebook_start=leave_interrupts,
        on_cell_executed=refuse_stderr,
    )
    _kernels.add(kernel)
    try:
        client.execute(env={**os.environ, **(env or {})}, cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError) as error:
        cell = next(
            cell for cell in reversed(notebook.cells) if cell.get("execution_count") or cell.get("outputs")
        )
        last = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()[-8:]
        if not keep_errors:
            raise NotebookError(f"{path.name}, cell {cell.id}:\n    " + "\n    ".join(last)) from error
        if not any(output.output_type == "error" for output in cell.outputs):
            _fail(cell, type(error).__name__, last)
    except (DeadKernelError, AssertionError):  # the latter when a kernel dies before its first answer
        if not keep_errors:
            raise SystemExit(f"\n{path.name}: the kernel died") from None
        waiting = [cell for cell in notebook.cells if cell.cell_type == "code" and not cell.execution_count]
        _fail(
            (waiting or notebook.cells[-1:])[0],
            "DeadKernelError",
            ["the kernel died in this cell, or before"],
        )
    finally:
        _kernels.discard(kernel)
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)
    if records_in:
        last = notebook.cells.pop()
        notebook.metadata["frameworks"] = "".join(output.get("text", "") for output in last.outputs).split()
        notebook.metadata["picture"] = seconds.get("picture")  # the first one
    return _normalised(notebook)


def _fail(cell, name, lines):
    cell.outputs = [nbformat.v4.new_output("error", ename=name, evalue=lines[-1], traceback=lines)]


def execute_all(paths, folder):
    """Run notebooks on all cores, the longest first, and put each into `folder` as it ran, with its record.

    Its metadata say how many `seconds` it took, which `frameworks` it has loaded, and what it has `left`
    in the folder for temporary files. Beside NAME.ipynb stand NAME.npz, its record, if it has one, and
    NAME.jsonl, the checks that it made (helpers/records.py). A line is printed when a notebook begins and
    when it ends: "begin NAME", "end NAME SECONDS". Errors are kept as outputs.
    """

    def say(line):
        # In one piece: the words of two threads would mix.
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def run_one(path):
        say(f"begin {path.stem}")
        start = time.perf_counter()
        env = {records.NOTES: str(folder / f"{path.stem}.jsonl"), timing.ROUNDS: "2"}
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
            env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)
            notebook = execute(path, env, records_in=folder, keep_errors=True)
            # (PyTorch's compiler keeps what it has compiled.)
            left = [entry.name for entry in Path(scratch).iterdir() if "torchinductor" not in entry.name]
        notebook.metadata["left"] = left
        seconds = notebook.metadata["seconds"] = time.perf_counter() - start
        _write(folder / path.name, nbformat.writes(notebook))
        say(f"end {path.stem} {seconds:.1f}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    longest_first = sorted(paths, key=lambda path: -expected_seconds(path.stem))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done in [pool.submit(run_one, path) for path in longest_first]:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for kernel in list(_kernels):
                run_sync(kernel.shutdown_kernel)(now=True)
            raise


def expected_seconds(name):
    """Return about how long a notebook takes, in seconds: what it took when its timings were last written."""
    known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.is_file() else {}
    return known.get(name, 60)


def _write(path, text):
    # Replaced in one move: a reader, or a run that is stopped, never leaves half a file.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        draft.write_text(text + "\n", encoding="utf-8", newline="\n")
        os.replace(draft, path)


def _normalised(notebook):
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.get("language_info", {}).pop("version", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def masked(text, masks=MASKS):
    """Return a text with the masks in the places of figures in float32, or of times."""
    for pattern, mask in masks.items():
        text = re.sub(pattern, mask, text)
    return text


def _without_timings(notebook, words=False):
    """The notebook as it is on every machine; with `words` it keeps what describes a picture of rounding,
    and figures in float32."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", ())
        if TIMING in tags:
            cell.outputs = []
        if LAST_DIGITS in tags or (FLOAT32 in tags and not words):
            for output in cell.outputs:
                output.get("data", {}).pop("image/png", None)
                picture = output.get("metadata", {}).get("image/png", {})
                if not words:
                    picture.pop("alt", None)
                if FLOAT32 in tags and "drawn" in picture:
                    picture["drawn"] = [masked(line) for line in picture["drawn"]]
        if FLOAT32 in tags:
            for output in cell.outputs:
                for part, key in ((output, "text"), (output.get("data", {}), "text/plain")):
                    if key in part:
                        part[key] = masked(part[key], TIMES if words else MASKS)
    return notebook


def _same(old, new, words=False):
    old, new = (nbformat.writes(_without_timings(notebook, words)) for notebook in (old, new))
    return old == new


def run(names=None, timings=False):
    """Run the notebooks (None: all) and write their outputs to their files; return 0, or 1 after a failure.

    A file whose outputs are what they were, timings aside, stays untouched unless `timings` is set.
    A notebook that fails is reported and not written.
    """
    failed, took = 0, {}
    for path in paths(names):
        start = time.perf_counter()
        try:
            new = execute(path, records_in=records.FOLDER)
            del new.metadata["frameworks"]
            picture = new.metadata.pop("picture")
        except NotebookError as error:
            failed = 1
            print(error, flush=True)
            continue
        changed = timings or not _same(nbformat.read(path, as_version=4), new, words=True)
        if changed:
            _write(path, nbformat.writes(new))
        took[path.stem] = round(time.perf_counter() - start)
        word = "written" if changed else "unchanged"
        first = f", first picture {picture:.1f} s" if picture else ""
        print(f"{path.stem:32} {took[path.stem]:6} s{first}  {word}", flush=True)
    if timings:
        known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.is_file() else {}
        _write(SECONDS, json.dumps(dict(sorted((known | took).items())), indent=1))
    return failed


def check(names=None):
    """Run the notebooks (None: all) in each of SETTINGS; return 0, or 1 if an output differs from the file.

    Compared are sources, text, HTML and the bytes of images, of every cell that isn't tagged as a timing.
    Nothing is written.
    """
    failed, details = 0, []
    chosen = paths(names)
    print(f"{'':32}" + "".join(f"{setting:>12}" for setting in SETTINGS), flush=True)
    for path in chosen:
        old = nbformat.read(path, as_version=4)
        print(f"{path.stem:32}", end="", flush=True)
        for setting, env in SETTINGS.items():
            try:
                lines = differences(old, execute(path, env))
            except NotebookError as error:
                lines = str(error).splitlines()
            print(f"{'DIFF' if lines else 'ok':>12}", end="", flush=True)
            if lines:
                failed = 1
                details += ["", f"{path.stem}, {setting}:", *lines]
        print(flush=True)
    if details:
        print(*details, sep="\n")
    return failed


def differences(old, new):
    """Return, as lines of text, where two notebooks differ, timings aside; an empty list if nowhere."""
    if _same(old, new):
        return []
    lines = []
    old, new = _without_timings(old), _without_timings(new)
    if old.metadata != new.metadata:
        lines.append("  the notebook's metadata differ")
    for before, after in zip(old.cells, new.cells, strict=True):
        if before != after:
            shown = list(difflib.unified_diff(_lines(before), _lines(after), lineterm="", n=0))[2:14]
            lines += [f"  cell {before.id}", *("    " + line for line in shown)]
            lines += [f"    image: {text}" for text in _image_differences(before, after)]
    return lines or ["  the notebook's format differs"]


def _lines(cell):
    """The cell as lines of text, its images as their beginnings."""
    lines = [*cell.source.splitlines(), f"tags {cell.metadata}", f"count {cell.get('execution_count')}"]
    for output in cell.get("outputs", ()):
        contents = output.get("data") or {output.get("name", "error"): output.get("text", "")}
        for kind, text in contents.items():
            lines.append(f"{output.output_type} {kind}")
            lines += [text[-40:]] if kind == "image/png" else str(text).splitlines()
    return lines


def _image_differences(before, after):
    from base64 import b64decode

    from matplotlib.image import imread

    pairs = zip(before.get("outputs", ()), after.get("outputs", ()), strict=False)
    for old, new in pairs:
        old, new = (output.get("data", {}).get("image/png") for output in (old, new))
        if old and new and old != new:
            old, new = (imread(io.BytesIO(b64decode(text))) for text in (old, new))
            if old.shape != new.shape:
                yield f"{old.shape} and {new.shape} pixels"
            else:
                gap = abs(old - new).max(axis=-1)
                yield f"{(gap > 0).sum()} of {gap.size} pixels differ, by up to {255 * gap.max():.0f} of 255"


def lesson(stem):
    """Return the name of a notebook's lesson, such as 03_mlp for 03_mlp_keras."""
    name, _, tool = stem.rpartition("_")
    return name if tool in records.TOOLS else stem


def paths(names=None):
    """Return the paths of the notebooks of these names (None: of all).

    A name is a notebook's, "03_mlp_keras", with or without its folder and ending, or a lesson's, "03_mlp",
    which stands for its three, in the order of `records.TOOLS`. Raises SystemExit with what there is.
    """
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    if not names:
        return list(known.values())
    chosen = {}
    for name in names:
        stem = name.removesuffix(".ipynb").replace("\\", "/").split("/")[-1]
        siblings = [f"{stem}_{tool}" for tool in records.TOOLS]
        found = [stem] if stem in known else [sibling for sibling in siblings if sibling in known]
        if not found:
            raise SystemExit(f"No notebook or lesson {name}; there are: {', '.join(known) or 'none'}.")
        chosen |= {sibling: known[sibling] for sibling in found}
    return list(chosen.values())
