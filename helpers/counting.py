"""Counts code: its lines and nodes, the names in it, what changed, who calls whom, words and minutes."""

import ast
import difflib
import inspect
import itertools
import re
from collections import defaultdict

from helpers import lessons, records


def program_cells(name, shared=True):
    """Return {heading: {cell id: source}} of a notebook's program; its own cells alone if not `shared`."""
    heading, found = "", defaultdict(dict)
    for cell in lessons.cells(name):
        tags = cell.metadata.get("tags", ())
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^## (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        elif "program" in tags and (shared or "shared" not in tags):
            found[heading][cell.id] = cell.source
    return found


def code_of(*things):
    """Return the source of functions and classes; of a class, its first line and its methods.

    (Of a class that was made in a notebook, Python 3.11 finds no more.)
    """
    text = []
    for thing in things:
        inner = [thing]
        if inspect.isclass(thing):
            inner = vars(thing).values()
            text.append(f"class {thing.__name__}({thing.__base__.__name__}):")
        text += [inspect.getsource(function) for function in inner if inspect.isfunction(function)]
    return "\n".join(text)


def lines_of(source):
    """Return the lines of a source as they stand, without comments, blank lines and indentation."""
    lines = [line.split("  #")[0].strip() for line in source.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def unparsed_lines(source):
    """Return how many lines a program has, blank ones apart, as Python's own `ast.unparse` writes it."""
    return sum(bool(line.strip()) for line in ast.unparse(ast.parse(source)).splitlines())


def nodes(source):
    """Return the nodes of a source's syntax tree as words, from the top down, without docstrings.

    A name is a node, and so are a number, an operator, a call, an argument: layout, comments and brackets
    aren't. (Whether a name is read or written goes without a node of its own.)
    """
    found = []

    def visit(node):
        if isinstance(node, ast.expr_context):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        own = [getattr(node, field, None) for field in ("name", "id", "attr", "arg", "value")]
        own = [repr(value) for value in own if not isinstance(value, ast.AST | list | None)]
        found.append(" ".join([type(node).__name__, *own]))
        for child in ast.iter_child_nodes(node):
            visit(child)

    for statement in ast.parse(source).body:
        visit(statement)
    return found


def statements(source):
    """Return {name: source} of a program's top-level statements: a def's name, or what stands before `=`."""
    found = {}
    for statement in ast.parse(source).body:
        text = ast.unparse(statement)
        named = getattr(statement, "name", None)  # or what stands before the first bracket or equals sign
        found.setdefault(named or re.split("[(=:]", text)[0].strip(), text)
    return found


def nodes_changed(old, new):
    """Return how many nodes of the program `new` are not those of `old`; both are sources.

    Both are cut into top-level statements, and each new one is laid beside the old one of the same name. A
    node that is new, gone or different counts one; a statement that `old` hasn't got counts whole, and one
    that `new` leaves out nothing. A line break, a comment or a docstring counts nothing.
    """
    old, count = statements(old), 0
    for name, statement in statements(new).items():
        before, after = nodes(old.get(name, "")), nodes(statement)
        edits = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        count += sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in edits if kind != "equal")
    return count


def replaced(old, new):
    """Return what of the program `old` the program `new` replaces, a list of names; both are sources.

    A statement that `old` hasn't got is named if it is a class, with its methods: those that override
    something; `__init__` and `__call__` override nothing of interest.
    """
    old, found = statements(old), []
    for statement in ast.parse(new).body:
        (name,) = statements(ast.unparse(statement))
        if name in old:
            found += [name] if ast.unparse(statement) != old[name] else []
        elif isinstance(statement, ast.ClassDef):
            methods = [each.name for each in statement.body if isinstance(each, ast.FunctionDef)]
            methods = [each for each in methods if not each.startswith("__")]
            found += [f"{name}.{method}" for method in methods] or [name]
    return found


def equations(source):
    """Return how many equations a text displays, in `$$` or in the rows of a table."""
    shown = re.findall(r"\$\$(.+?)\$\$", source, re.DOTALL)
    for row in re.findall(r"^\|.*\|$", source, re.MULTILINE):
        shown += re.findall(r"\$(.+?)\$", row)
    parts = [part for display in shown for part in re.split(r"\\q?quad", display)]
    return sum(bool(re.search(r"=|\\leftarrow|\\approx", part)) for part in parts)


# Statements with which a page tries a change out, no part of the change: what is trained and said of it,
# and what lesson 3 gives back for the next change.
TRIALS = r"tell|run|print|history|accuracy|.*lesson"


def cost(lesson, base, wishes, without=TRIALS):
    """Return what changes to a lesson cost in each tool, as the notebooks stand in their files.

    `lesson` and `base` are names of lessons: the program cells of `lesson` whose ids begin with a change's
    prefix, but for shared ones and those that end in "-run", are laid beside the program of `base`. `wishes`
    maps the name of each change to its prefix; statements that match `without` are left out: those that only
    try the change.

    Returns for each change and tool (name, tool, nodes, derived, step, loop, doors): how many nodes changed
    (`nodes_changed`); how many equations NumPy's notebook derives for it, in the cell "PREFIX-why" (None for
    the other tools); whether `train_step`, and whether the loop itself, was edited or overridden; and what
    was `replaced`.
    """
    rows = []
    for name, prefix in wishes.items():
        for tool, title in records.TOOLS.items():
            old = _joined(program_cells(f"{base}_{tool}"))
            cells = {
                key: source
                for section in program_cells(f"{lesson}_{tool}", shared=False).values()
                for key, source in section.items()
            }
            mine = [key for key in cells if re.fullmatch(rf"{prefix}(-\w+)?", key) and key[-4:] != "-run"]
            if not mine:
                raise ValueError(f"no program cell {prefix!r} in {lesson}_{tool}")
            lines = [ast.unparse(each) for key in mine for each in ast.parse(cells[key]).body]
            new = "\n".join(line for line in lines if not re.match(without, line))
            derived = None
            if tool == "numpy":
                why = [cell.source for cell in lessons.cells(f"{lesson}_numpy") if cell.id == f"{prefix}-why"]
                derived = sum(map(equations, why))
            doors = replaced(old, new)
            edited = {door.rpartition(".")[2] for door in doors}
            step, loop = "train_step" in edited, bool({"train", "fit"} & edited)
            rows.append((name, title, nodes_changed(old, new), derived, step, loop, doors))
    return rows


def _joined(sections):
    return "\n\n".join(source for cells in sections.values() for source in cells.values())


def imported(sources, packages):
    """Return the names that imports in `sources` give to modules and classes of `packages`, a set."""
    found = set()
    for node in _nodes(sources):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for item in node.names:
                path = f"{module}.{item.name}" if module else item.name
                if path.split(".")[0] in packages:
                    found.add(item.asname or item.name)
    return found


def names_used(sources, modules, types):
    """Return the names of a tool in `sources`: dotted ones that begin in one of `modules` (`np.exp`), and
    attributes that are public in one of `types` (`.sum`) and that the sources don't assign themselves.

    An attribute is known by its name alone, so one of another tool's that is called the same is taken, too.
    """
    nodes = list(_nodes(sources))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}  # self.hidden = ...
    public = {name for kind in types for name in dir(kind) if not name.startswith("_")} - own
    found = set()
    for node in nodes:
        path = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        dotted = re.fullmatch(r"[\w.]+", path)
        if dotted and path.split(".")[0] in modules:
            found.add(path)
        elif node in attributes and node.attr in public and not (dotted and path.startswith("np.")):
            found.add("." + node.attr)
    return {path for path in found if not any(other.startswith(path + ".") for other in found)}


def _nodes(sources):
    return (node for source in sources for node in ast.walk(ast.parse(source)))


def callers():
    """Return whose code waits for the function that asks, the outermost first: "ours > torch > ours".

    "ours" is the module, or the notebook, in which the function that asks was written; all other code goes
    by the name of its package. Lesson 0 shows how a stack is read.
    """
    scopes = [info.frame.f_globals for info in inspect.stack(0)][:0:-1]  # without this function's own
    owners = ["ours" if scope is scopes[-1] else scope["__name__"].split(".")[0] for scope in scopes]
    owners = owners[owners.index("ours") :]  # before that, there is only Jupyter
    return " > ".join(owner for owner, _ in itertools.groupby(owners))


def first_reading(cells):
    """Return the cells of a notebook that come before its `going-deeper`; all of them if it has none."""
    return list(itertools.takewhile(lambda cell: cell.id != "going-deeper", cells))


def words(cells):
    """Return how many words there are in the texts among `cells`: whatever has a letter or a digit in it."""
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return sum(bool(re.search(r"\w", word)) for text in texts for word in text.split())


def minutes(cells):
    """Return how many minutes cells take: 200 words and 12 lines of code a minute, and one for the run."""
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    lines = sum(bool(line.strip()) for source in sources for line in source.splitlines())
    return round(words(cells) / 200 + lines * 5 / 60 + 1)


def _minutes(name):
    """Yield the tool, the minutes of the first reading (None without one) and of the whole, by notebook."""
    siblings = {f"{name}_{tool}": title for tool, title in records.TOOLS.items()}
    single = (lessons.NOTEBOOKS / f"{name}.ipynb").is_file()
    for stem, title in {name: None}.items() if single else siblings.items():
        cells = lessons.cells(stem)
        first = first_reading(cells)
        yield title, minutes(first) if len(first) < len(cells) else None, minutes(cells)


def minutes_line(name):
    """Return the line in the Goal of a lesson, or of a single notebook, that says its minutes."""
    said = ", ".join(f"{title or ''} {first} and {whole}".strip() for title, first, whole in _minutes(name))
    return f"**Minutes** for a first reading and for the whole: {said}."


def minutes_range(name):
    """Return what the map says of a lesson or a single notebook: "13–14, 22–24", or the whole alone."""
    columns = [set(column) for column in zip(*[times for _, *times in _minutes(name)], strict=True)]
    ends = [sorted({min(column), max(column)}) for column in columns if None not in column]
    return ", ".join("–".join(map(str, pair)) for pair in ends)
