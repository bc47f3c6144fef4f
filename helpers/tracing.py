"""Watches a program run: who holds its loop, who asks for each stage of training, and whose code does it."""

import ast
import contextlib
import itertools
import json
import linecache
import os
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

# The stages of an ordinary training run. The first four make a step; the next one is due at each step, too.
CORE = ("forward", "loss", "gradient", "update")
STAGES = (
    *("loop", "batching", "shuffling", *CORE),
    *("metrics", "validation", "early stopping", "checkpoint"),
)
AUTOGRAPH = ("outer_factory", "inner_factory", "loop_body", "if_body", "else_body", "get_state", "set_state")


@dataclass
class Seen:
    """What was seen of a program's run.

    owners: {stage: "ours", "on request", "said once" or "the tool's"}, for the loop and the stages that have
    a mark. Ours and on request: a line of ours ran for it each time. Said once: it ran only while the tool
    recorded a step that it then repeats. own: the stages that our own code carries out, a set. holder: who
    holds the loop, "ours" or "package: function". called: how often a tool called each function of ours.
    steps: how many there were. accuracy: what the program has left under that name, or None.
    """

    owners: dict
    own: set
    holder: str
    called: dict
    steps: int
    accuracy: float | None

    @property
    def calls(self):
        return sum(self.called.values())

    def count(self, *words):
        """Return how many stages have one of these owners."""
        return sum(owner in words for owner in self.owners.values())


class Watch:
    """Trace functions, and what they note; `watch` is what others use."""

    def __init__(self, sources, marks):
        self.ours = set(sources)
        self.steps, self.called, self.holders = 0, Counter(), Counter()
        self.lines, self.running, self.spans = itertools.count(), {}, {}
        self.asked, self.before = defaultdict(list), None
        self.own, self.missing = set(), {(kind, stage) for kind in marks for stage in marks[kind]}
        self.functions, self.tools, self.statements = defaultdict(list), defaultdict(list), defaultdict(list)
        for kind, stages in marks.items():
            for stage, places in stages.items():
                for place in [places] if isinstance(places, str) else places:
                    self._place(kind, stage, place, sources)

    def _place(self, kind, stage, place, sources):
        if kind == "tool":
            self.tools[tuple(place.split(":"))].append((kind, stage))
        elif place.endswith("()"):
            self.functions[place[:-2]].append((kind, stage))
        else:
            found = [(file, line) for file, source in sources.items() for line in lines_with(source, place)]
            if len(found) != 1:
                raise ValueError(
                    f"{place!r}, the mark of {stage}, stands in {len(found)} statements, not one"
                )
            self.statements[found[0]].append((kind, stage))

    def is_ours(self, frame):
        file = frame.f_code.co_filename
        return file in self.ours or "__autograph_generated_file" in file  # TensorFlow's copy of ours

    def call(self, frame, event, arg):
        """The trace function that Python tells about each call of a function."""
        code, below = frame.f_code, frame.f_back
        if not self.is_ours(frame):
            for mark in self.tools.get((frame.f_globals.get("__name__"), code.co_qualname), ()):
                self.hit(mark, below)
            return None
        if code.co_name[0] != "<":
            if below is not None and not self.is_ours(below) and not code.co_name.startswith(AUTOGRAPH):
                self.called[code.co_qualname.rpartition("tf__")[2]] += 1
            for mark in self.functions.get(code.co_name.removeprefix("tf__"), ()):
                # Whoever calls it, a line of ours runs: below, or if that isn't ours, in the function itself.
                self.hit(mark, below, None if self.is_ours(below) else next(self.lines))
        return self.line

    def line(self, frame, event, arg):
        """The trace function that Python tells about each line of ours."""
        if frame in self.running:
            number, begun = self.running.pop(frame)
            self.spans[number] = self.steps - begun
        if event == "line":
            self.running[frame] = next(self.lines), self.steps
            for mark in self.statements.get((frame.f_code.co_filename, frame.f_lineno), ()):
                self.hit(mark, frame)
        return self.line

    def hit(self, mark, frame, line=None):
        """Note a stage, and which run of which line of ours: the nearest down the stack, unless given."""
        kind, stage = mark
        self.missing.discard(mark)
        stack = []
        while frame is not None:
            stack.append(frame)
            frame = frame.f_back
        if stage == "step":
            self.steps += 1
            self._held_since(stack[::-1])
            return
        self.own |= {stage} if kind == "ours" else set()
        if line is None:
            line = next((self.running[each][0] for each in stack if each in self.running), None)
        self.asked[stage].append((line, self.steps))

    def _held_since(self, stack):
        """Compare the stacks of two steps: the deepest frame that wasn't left in between holds the loop."""
        now, holder = [(frame, self.running.get(frame)) for frame in stack], None
        for (old, line), (frame, line_now) in zip(self.before or (), now, strict=False):
            if old is not frame:
                break
            holder = frame
            if line != line_now:  # a line of ours ran anew: what stands above was left, and entered again
                break
        if holder is not None:
            name = f"{holder.f_globals['__name__'].split('.')[0]}: {holder.f_code.co_qualname}"
            self.holders["ours" if self.is_ours(holder) else name] += 1
        self.before = now

    def judge(self, namespace):
        """Sum up what was noted, once the program has ended; return a `Seen`."""
        if self.missing:
            never = ", ".join(f"{stage} ({kind})" for kind, stage in sorted(self.missing))
            raise ValueError(f"never met: the marks of {never}; has a tool renamed something?")
        history = namespace["history"]
        epochs = len(getattr(history, "epoch", history))  # `fit` of Keras returns an object
        lines = {stage: [line for line, _ in asked] for stage, asked in self.asked.items()}
        core = [set(lines[stage]) for stage in CORE if stage in lines]
        whole = {line for line, steps in self.spans.items() if steps > 1} | {None}
        whole |= set.intersection(*core) if len(core) > 1 else set()  # a line that asks for a step or more
        (holder, _), *_ = self.holders.most_common(1)
        owners, own = {"loop": "ours" if holder == "ours" else "the tool's"}, self.own
        own |= {"loop"} if holder == "ours" else set()
        for stage in (stage for stage in STAGES if stage in lines):
            due = self.steps if stage in (*CORE, "batching") else 1 if stage == "checkpoint" else epochs
            *_, last = [line for line, step in self.asked[stage] if step <= 1] or [None]
            if len(set(lines[stage]) - whole) >= 0.9 * due:
                owners[stage] = "ours" if stage in own else "on request"
            else:
                owners[stage] = "the tool's" if last in whole else "said once"
        accuracy = float(namespace["accuracy"]) if "accuracy" in namespace else None
        return Seen(owners, own, holder, dict(self.called), self.steps, accuracy)


def marks(way):
    """Return by what the stages of a way are known, as `watch` takes it: {kind: {stage: place}}.

    Raises a KeyError for a way that helpers/marks.toml doesn't know.
    """
    told = tomllib.loads((Path(__file__).parent / "marks.toml").read_text(encoding="utf-8"))[way]
    kinds = marks(told["like"]) if "like" in told else {"ours": {}, "asks": {}, "tool": {}}
    mine = {stage for kind in told.values() if isinstance(kind, dict) for stage in kind}
    left = {
        kind: {each: stages[each] for each in stages if each not in mine} for kind, stages in kinds.items()
    }
    return {kind: stages | told.get(kind, {}) for kind, stages in left.items()}


def lines_with(source, piece):
    """Return where the statements of `source` begin that contain `piece`; a loop or an `if` is its head."""
    lines, found = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            inner = getattr(node, "body", None)
            end = inner[0].lineno - 1 if inner else node.end_lineno
            if piece in "\n".join(lines[node.lineno - 1 : max(end, node.lineno)]):
                found.append(node.lineno)
    return found


def watch(source, marks, library=None, library_is_ours=True, name="program"):
    """Run a program and return what is `Seen` of it.

    source: the program, a string. marks: {"ours": {stage: place}, "asks": ..., "tool": ...}: how a stage is
    known. "ours" and "asks" are places in our code, where our own code carries the stage out or has one call
    of the tool do it: "adam()", a function of ours that is entered, or a piece of exactly one statement.
    "tool" is a function of the tool, "torch.optim.adam:Adam.step". Several places may be given for a stage.
    The stage "step" has to be marked: once in each step, wherever. library: {module: source}, which the
    program imports; counted as ours or as a tool's.
    The program runs in a temporary folder: what it saves is gone when it has ended.
    It sees what Python does in the program's threads; not what a tool does in C++ or in other processes.
    Raises a ValueError for a piece that doesn't stand in one statement, and for a mark that is never met.
    """
    library = library or {}
    files = {f"<{module}>": text for module, text in {name: source, **library}.items()}
    for file, text in files.items():
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    program = {file: text for file, text in files.items() if library_is_ours or file == f"<{name}>"}
    seen, namespace = Watch(program, marks), {"__name__": name}
    before = {module: sys.modules.get(module) for module in library}
    try:
        for module in library:
            sys.modules[module] = ModuleType(module)
            exec(compile(files[f"<{module}>"], f"<{module}>", "exec"), vars(sys.modules[module]))
        code = compile(source, f"<{name}>", "exec", dont_inherit=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.chdir(folder):
            threading.settrace(seen.call)
            sys.settrace(seen.call)
            try:
                exec(code, namespace)
            finally:
                sys.settrace(None)
                threading.settrace(None)
    finally:
        for module, old in before.items():
            sys.modules.pop(module, None)
            sys.modules |= {module: old} if old else {}
    return seen.judge(namespace)


def elsewhere(source, way, **environment):
    """Watch a program in a process of its own, with these environment variables; return a `Seen`.

    Raises a RuntimeError with the end of what the process has said where it fails.
    """
    command = [sys.executable, "-c", "from helpers import tracing; tracing.child()"]
    run = subprocess.run(
        command,
        input=json.dumps([source, way]),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if run.returncode:
        raise RuntimeError(f"{way}, in a process of its own:\n{run.stderr[-2000:]}")
    told = json.loads(run.stdout.splitlines()[-1])
    return Seen(**told | {"own": set(told["own"])})


def child():
    """The other end of `elsewhere`."""
    source, way = json.loads(sys.stdin.read())
    seen = watch(source, marks(way))
    print("\n" + json.dumps(vars(seen) | {"own": sorted(seen.own)}))
