"""Plays with notebooks as readers do: turns each constant of the settings cell, and runs every cell twice.

The settings cell carries papermill's tag `parameters`. Its metadata may hold `play`: for the name of a
constant the list of values to try, or, as a string, why it is left out. Without an entry there, a positive
number is halved and doubled and a truth value turned round; anything else needs an entry.
"""

import ast
import re
from copy import deepcopy

import nbformat

from helpers import lessons, runner

TAG = "parameters"
AGAIN = "-again"  # ends the id of a cell's second copy


def play(names=None):
    """Play with the notebooks (None: all), say how each turn went, and return 0, or 1 when something broke.

    A turn passes when nothing raises and nothing is written to stderr, or when it is refused: by a ValueError
    whose message names the constant, as a rule should. With every cell run twice in a row, the second outputs
    have to be those in the file, timings aside. The notebooks of a lesson have to pass and refuse the same
    turns. Timings are run, too: a reader doesn't pass over them. Nothing is written.
    """
    failed, played = False, {}
    for path in runner.paths(names):
        print(path.stem, flush=True)
        old = nbformat.read(path, as_version=4)
        mine = played.setdefault(runner.lesson(path.stem), {})[path.stem] = {}
        turns, left_out, problems = _turns(old)
        if not _settings(old):
            print("  no settings: no cell is tagged", TAG)
        for name, reason in left_out.items():
            print(f"  {name:24} left out: {reason}")
        for problem in problems:
            print(f"  {problem}")
        for name, value in turns:
            turn = f"{name} = {value!r}"
            print(f"  {turn:24} ", end="", flush=True)
            mine[turn], told = _turned(path, name, value)
            print(mine[turn] + told, flush=True)
        print(f"  {'every cell twice':24} ", end="", flush=True)
        lines = _twice(path, old)
        print("FAILED" if lines else "ok", *lines, sep="\n    ", flush=True)
        failed = failed or bool(lines or problems or "FAILED" in mine.values())
    for notebooks in played.values():
        for turn in dict.fromkeys(turn for outcomes in notebooks.values() for turn in outcomes):
            each = {stem: outcomes.get(turn, "not tried") for stem, outcomes in notebooks.items()}
            if len(set(each.values())) > 1:
                failed = True
                print(f"siblings differ, {turn}:", ", ".join(f"{stem} {how}" for stem, how in each.items()))
    return int(failed)


def _settings(notebook):
    return [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", ())]


def _turns(notebook):
    """Return the (name, value) pairs to try, a dict of the constants left out and why, and what is wrong."""
    turns, left_out, problems = [], {}, []
    for cell in _settings(notebook):
        wanted, constants = cell.metadata.get("play", {}), {}
        exec(cell.source, constants)  # constants need nothing from the cells before
        constants = {name: value for name, value in constants.items() if not name.startswith("__")}
        unknown = sorted(wanted.keys() - constants.keys())
        problems += [f"{name} is in `play`, and not in the settings cell" for name in unknown]
        for name, value in constants.items():
            values = wanted.get(name, _by_rule(value))
            if isinstance(values, str):
                left_out[name] = values
            elif not values or value in values:
                problems.append(f"{name} = {value!r}: `play` has to hold other values, or a reason for none")
            else:
                kind = tuple if isinstance(value, tuple) else lambda other: other  # JSON knows lists only
                turns += [(name, kind(other)) for other in values]
    return turns, left_out, problems


def _by_rule(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int) and value > 0:
        return [other for other in (max(1, value // 2), 2 * value) if other != value]
    return [value / 2, 2 * value] if isinstance(value, float) and value > 0 else []


def _turned(path, name, value):
    """Run with one constant turned; return "ok", "refused" or "FAILED", and what there is to say about it."""

    def change(notebook):
        found = set()
        for cell in _settings(notebook):
            tree = ast.parse(cell.source)
            found = found.union(*(lessons.override(statement, {name}) for statement in tree.body))
            cell.source = f"{name} = {value!r}\n{ast.unparse(tree)}"
        assert found, f"{name} is not assigned a value of its own"

    try:
        runner.execute(path, change=change)
    except runner.NotebookError as error:
        raised = error.__cause__  # None where a cell only wrote to stderr
        if raised and raised.ename == "ValueError" and re.search(rf"\b{name}\b", raised.evalue):
            return "refused", f": {raised.evalue}"
        return "FAILED", "".join(f"\n    {line}" for line in _words(error))
    return "ok", ""


def _twice(path, old):
    """Run every code cell twice in a row; return, as lines, where the second outputs aren't the file's."""

    def change(notebook):
        for position, cell in reversed([*enumerate(notebook.cells)]):
            if cell.cell_type == "code":
                again = deepcopy(cell)
                again.id += AGAIN
                notebook.cells.insert(position + 1, again)

    try:
        new = runner.execute(path, change=change)
    except runner.NotebookError as error:
        return _words(error)
    new.cells = [cell for cell in new.cells if cell.cell_type != "code" or cell.id.endswith(AGAIN)]
    for cell in new.cells:
        cell.id = cell.id.removesuffix(AGAIN)
    return runner.differences(_uncounted(old), _uncounted(new))


def _words(error):
    """Return, as lines, the cell that an error comes from, and what it says."""
    where, *text = str(error).splitlines()
    if raised := error.__cause__:
        text = f"{raised.ename}: {raised.evalue}".splitlines()[:4]
    return [where, *map(str.strip, text)]


def _uncounted(notebook):
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        for part in (cell, *cell.get("outputs", ())):
            if "execution_count" in part:
                part.execution_count = None
    return notebook
