"""Takes a lesson's program out of its notebook, so that there is one implementation of each thing."""

import ast
import difflib
import linecache
import re
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


def texts(name, cell_id):
    """Return the programs that stand in a cell's text, between ```python and ```, as a list of sources.

    Raises a ValueError where the notebook has no such cell, or the cell no program.
    """
    found = [cell.source for cell in cells(name) if cell.id == cell_id]
    programs = [
        block for text in found for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M)
    ]
    if not programs:
        raise ValueError(f"no program stands in the text of {cell_id!r} in {name}")
    return programs


def load(name, until=None, skip=(), also=(), replace=None, edit=None, **constants):
    """Run the program of notebooks/NAME.ipynb and return its namespace, a dict.

    The program is the code cells tagged `program`, in order, up to and including the cell with id
    `until` (None: all), without the cells whose ids are in `skip`, and with those in `also`, tagged or
    not. Each keyword in `constants` takes the place of the value that the program assigns to that name
    (`EPOCHS=1`); the dict `replace` maps pieces of source, each found exactly once, to others, to see
    what breaks; `edit` does so by names, as `edited` says.
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
    before = sources
    sources = edited(sources, edit or {})
    for old in replace:
        found = sum(source.count(old) for source in sources.values())
        if found != 1:
            raise ValueError(f"{old!r} occurs {found} times in the program of {name}, not once")

    # Setting a constant turns `EPOCHS = 10` into `EPOCHS = EPOCHS`: everything after it sees the new
    # value, and the source that a traceback shows stays the notebook's.
    program, assigned = {}, set()
    for cell_id, source in sources.items():
        for old, new in replace.items():
            source = source.replace(old, new)
        # A changed cell gets another name, or its source would show up under the unchanged one's.
        file = f"{name}.ipynb[{cell_id}]" + ("" if source == before[cell_id] else " changed")
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        tree = ast.parse(source, file)
        for statement in tree.body:
            assigned |= override(statement, constants)
        program[cell_id] = compile(tree, file, "exec", dont_inherit=True)
    unknown = sorted(set(constants) - assigned)
    if unknown:
        raise ValueError(f"the program of {name} doesn't assign a value to {', '.join(unknown)} at top level")

    return again({"__name__": name, "__cells__": program}, *program, **constants)


def again(program, *ids, **named):
    """Run cells of a loaded program in the order of `ids`, with `named` set before; return its namespace.

    A constant that was set when the program was loaded can be set again: its cell keeps what is given.
    """
    program |= named
    for cell_id in ids:
        exec(program["__cells__"][cell_id], program)
    return program


def edited(sources, edits):
    """Return the dict of sources with pieces exchanged that are found by their names in the syntax tree.

    A path leads through definitions to a name: `"backward.dZ1"` is the value assigned to dZ1 in `backward`,
    `"MLP.forward.return"` what that method returns (`"yield"` likewise), `"sgd"` the whole function,
    `"sgd.w -="` that statement, `"train_step.zero_grad()"` the statement that calls it, `"compile.loss"` the
    keyword of a call. In its place comes a piece of source: a value, or statements for the whole statement;
    None takes the statement out.
    Raises ValueError for a path that isn't found exactly once.
    """
    sources = dict(sources)
    for path, new in edits.items():
        found = 0
        for cell_id, source in sources.items():
            change = Edit(path, new)
            tree = change.visit(ast.parse(source))
            if change.found:
                sources[cell_id] = ast.unparse(ast.fix_missing_locations(tree))
            found += change.found
        if found != 1:
            raise ValueError(f"{path!r} is found {found} times in the program, not once")
    return sources


def difference(name, edits):
    """Return the lines that `load(name, edit=edits)` takes out, with a `-`, and puts in, with a `+`."""
    old = {cell.id: cell.source for cell in cells(name) if "program" in cell.metadata.get("tags", ())}
    new = edited(old, edits)
    lines = []
    for cell_id in old:
        if new[cell_id] != old[cell_id]:
            pair = [ast.unparse(ast.parse(source)).splitlines() for source in (old[cell_id], new[cell_id])]
            lines += [line for line in difflib.ndiff(*pair) if line[:2] in ("- ", "+ ") and line[2:].strip()]
    return lines


class Edit(ast.NodeTransformer):
    """Exchanges what a path of `edited` leads to; `found` counts the places."""

    def __init__(self, path, new):
        *self.outer, self.name = path.split(".")
        self.new, self.found, self.around = new, 0, []

    def wanted(self, name):
        return self.outer == self.around and name == self.name

    def instead(self, statement, holder="value"):
        self.found += 1
        body = ast.parse(self.new or "").body
        if self.new and len(body) == 1 and isinstance(body[0], ast.Expr):
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                return ast.Assign([ast.Name(statement.name, ast.Store())], body[0].value)
            setattr(statement, holder, body[0].value)
            return statement
        return body

    def visit_FunctionDef(self, node):
        if self.wanted(node.name):
            return self.instead(node)
        self.around.append(node.name)
        self.generic_visit(node)
        self.around.pop()
        return node

    def visit_ClassDef(self, node):
        return self.visit_FunctionDef(node)

    def visit_Assign(self, node):
        names = [ast.unparse(part) for part in getattr(node.targets[0], "elts", node.targets)]
        for place, name in enumerate(names):
            if self.wanted(name) and len(names) > 1 and isinstance(node.value, ast.Tuple):
                part = self.instead(ast.Expr(node.value.elts[place]))
                if isinstance(part, list):
                    return part
                node.value.elts[place] = part.value
            elif self.wanted(name):
                return self.instead(node)
        return self.generic_visit(node)

    def visit_AugAssign(self, node):
        sign = {ast.Add: "+=", ast.Sub: "-=", ast.Mult: "*=", ast.Div: "/="}.get(type(node.op))
        return self.instead(node) if self.wanted(f"{ast.unparse(node.target)} {sign}") else node

    def visit_Return(self, node):
        return self.instead(node) if self.wanted("return") else self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Yield) and self.wanted("yield"):
            change = self.instead(node.value)
            return change if isinstance(change, list) else node
        if isinstance(node.value, ast.Call) and self.wanted(f"{called(node.value)}()"):
            return self.instead(node)
        return self.generic_visit(node)

    def visit_Call(self, node):
        if self.outer == [*self.around, called(node)]:
            for keyword in (keyword for keyword in node.keywords if keyword.arg == self.name):
                self.instead(keyword)
        return self.generic_visit(node)


def called(call):
    """Return the last name of what an ast.Call calls: `zero_grad` for `optimizer.zero_grad()`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


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
