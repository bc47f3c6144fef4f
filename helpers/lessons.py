"""Takes a lesson's program out of its notebook, so that there is one implementation of each thing."""

import ast
import linecache
from types import FunctionType

import nbformat

from helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"


def cells(name):
    """Return the cells of notebooks/NAME.ipynb, as nbformat reads them.

    Raises a ValueError that lists the notebooks when there is none of that name.
    """
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"no notebook {name!r} in {NOTEBOOKS}; there are: {known or 'none'}")
    return nbformat.read(path, as_version=4).cells


def load(name, until=None, skip=(), also=(), replace=None, **constants):
    """Run the program of notebooks/NAME.ipynb and return its namespace, a dict.

    The program is the code cells tagged `program`, in order, up to and including the cell with id
    `until` (None: all), without the cells whose ids are in `skip`, and with those in `also`, tagged or
    not. Each keyword in `constants` takes the place of the value that the program assigns to that name
    (`EPOCHS=1`); the dict `replace` maps pieces of source, each found exactly once, to others, to see
    what breaks.
    Raises ValueError for a name, a cell or a piece of source that isn't there.
    """
    skip, replace = {skip} if isinstance(skip, str) else set(skip), replace or {}
    every = cells(name)
    ids = [cell.id for cell in every]
    for wanted in [*sorted(skip), *also, *([until] if until else [])]:
        if wanted not in ids:
            raise ValueError(f"no cell {wanted!r} in {name}; there are: {', '.join(ids)}")
    last = ids.index(until) if until else len(ids)
    sources = {
        cell.id: cell.source
        for position, cell in enumerate(every)
        if cell.cell_type == "code"
        and cell.id not in skip
        and (cell.id in also or (position <= last and "program" in cell.metadata.get("tags", ())))
    }
    for old in replace:
        found = sum(source.count(old) for source in sources.values())
        if found != 1:
            raise ValueError(f"{old!r} occurs {found} times in the program of {name}, not once")

    # Setting a constant turns `EPOCHS = 10` into `EPOCHS = EPOCHS`: everything after it sees the new
    # value, and the source that a traceback shows stays the notebook's.
    program, assigned = [], set()
    for cell_id, source in sources.items():
        for old, new in replace.items():
            source = source.replace(old, new)
        # A changed cell gets another name, or its source would show up under the unchanged one's.
        file = f"{name}.ipynb[{cell_id}]" + ("" if source == sources[cell_id] else " changed")
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        tree = ast.parse(source, file)
        for statement in tree.body:
            assigned |= override(statement, constants)
        program.append(compile(tree, file, "exec", dont_inherit=True))
    unknown = sorted(set(constants) - assigned)
    if unknown:
        raise ValueError(f"the program of {name} doesn't assign a value to {', '.join(unknown)} at top level")

    namespace = {"__name__": name, **constants}
    for code in program:
        exec(code, namespace)
    return namespace


def changed(program, *definitions, **named):
    """Return a lesson's program with some names redefined, as if its cells had been edited; a new dict.

    `program` is what `load` has returned, and stays as it was. `definitions` are functions and classes that
    take the places of those of the same names; `named` does so for anything. In the new program all
    functions, the lesson's and those given, call one another. A name that only the page of a given function
    knows means what it means there at this moment.
    """
    named = named | {each.__name__: each for each in definitions}
    new = {}
    for value in named.values():
        new |= value.__globals__ if isinstance(value, FunctionType) else {}
    new |= program | named
    for name, value in (program | named).items():
        if isinstance(value, FunctionType) and (name in named or value.__globals__ is program):
            new[name] = FunctionType(value.__code__, new, name, value.__defaults__, value.__closure__)
            new[name].__kwdefaults__ = value.__kwdefaults__
    return new


def override(statement, constants):
    """Turn `NAME = value` into `NAME = NAME`, for the names in `constants`, and return the names found.

    `statement` is a node of an ast.Module's body; `A, B = 1, 2` counts as two assignments.
    """
    if isinstance(statement, ast.AnnAssign) and statement.value:
        targets = [statement.target]
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        targets = statement.targets
    else:
        return set()

    def name_of(target, value):
        if isinstance(target, ast.Name) and target.id in constants:
            found.add(target.id)
            return ast.copy_location(ast.Name(target.id, ast.Load()), value)
        return value

    found, target, value = set(), targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        value.elts = [name_of(*pair) for pair in zip(target.elts, value.elts, strict=True)]
    else:
        statement.value = name_of(target, value)
    return found
