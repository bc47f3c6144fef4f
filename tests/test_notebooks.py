"""The notebooks as files: siblings stand side by side, and what is committed is clean."""

import ast
import base64
import re
from statistics import median

import nbformat
import pytest

from helpers import ROOT, counting, runner
from helpers.records import TOOLS

PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SIBLING = re.compile(rf"(\d\d_\w+)_({'|'.join(TOOLS)})")
LESSONS = sorted({match[1] for name in PATHS if (match := SIBLING.fullmatch(name))})
START = "00_start_here"
# The headings and their cells' ids: the lesson's own stand between the two rows, and after the second.
FIRST = {"Goal": "goal", "Setup": "setup", "Data": "data", "In short": "in-short"}
THEN = {
    "Check": "check",
    "What the tool did for us": "ledger",
    "Key points": "key-points",
    "Exercises": "exercises",
    "Where next": "where-next",
    "Going deeper": "going-deeper",
    "Measure": "measure",
}
MARK = "*The first reading ends here.*"
FOLD = {"jp-MarkdownHeadingCollapsed": True, "tags": ["shared"]}
WIDTH = 72
TIMING, LAST_DIGITS, FLOAT32 = runner.TIMING, runner.LAST_DIGITS, runner.FLOAT32
TIMED_TABLES = ("verdict-table",)  # page 22's, with rows on what is timed below it


def read(name):
    return nbformat.read(PATHS[name], as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def sections(notebook):
    """The notebook's cells, each with the heading it stands under."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            heading = cell.source.splitlines()[0][3:]
        yield heading, cell


def headings(notebook):
    return [heading for heading in dict.fromkeys(heading for heading, _ in sections(notebook)) if heading]


def shared(notebook):
    return [
        (heading, cell.id, cell.cell_type, cell.source, tags(cell))
        for heading, cell in sections(notebook)
        if "shared" in tags(cell)
    ]


@pytest.mark.parametrize("lesson", LESSONS)
def test_siblings_have_the_same_headings(lesson):
    first, *others = [headings(read(f"{lesson}_{tool}")) for tool in TOOLS]
    start = first.index("Check")
    assert first[: len(FIRST)] == [*FIRST] and first[start : start + len(THEN)] == [*THEN]
    assert start > len(FIRST), "no heading of its own"
    for other in others:
        assert other == first


@pytest.mark.parametrize("name", PATHS)
def test_headings_stand_in_cells_of_their_own_names(name):
    cells = read(name).cells
    assert cells[0].id == "title"
    named = {cell.source.splitlines()[0][3:]: cell.id for cell in cells if cell.source.startswith("## ")}
    known = FIRST | THEN
    assert {heading: named[heading] for heading in named if heading in known} == {
        heading: known[heading] for heading in named if heading in known
    }


@pytest.mark.parametrize("name", PATHS)
def test_the_end_of_the_first_reading_is_marked(name):
    cells = counting.first_reading(read(name).cells)
    (marked,) = (cell for cell in read(name).cells if MARK in cell.source)
    assert marked == cells[-1] and marked.source.splitlines()[-1] == MARK
    assert len(cells) < len(read(name).cells) and (marked.id == "where-next" or name == START)


@pytest.mark.parametrize("lesson", LESSONS)
def test_shared_cells_are_the_same_to_the_byte(lesson):
    first, *others = [shared(read(f"{lesson}_{tool}")) for tool in TOOLS]
    assert first
    for other in others:
        assert other == first


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_cell_that_stands_in_all_siblings_and_is_not_shared_differs(lesson):
    # The other half: what is the same is also marked as the same, or an edit of one copy goes unseen.
    cells = [{cell.id: cell for cell in read(f"{lesson}_{tool}").cells} for tool in TOOLS]
    for name in set.intersection(*map(set, cells)):
        if "shared" not in tags(cells[0][name]):
            assert len({group[name].source for group in cells}) > 1, f"{name} is the same: tag it shared"


def asked(text):
    """The names in backticks that an exercise says to hand in, with their arguments if they have some."""
    text = re.sub(r"(?<= )\(.*?\)", "", text)  # remarks
    lines = [line.partition("Hand in")[2] for line in text.splitlines() if "Hand in" in line]
    found = [re.findall(r"`([a-z]\w*)(?:\((.*?)\))?`", line, re.IGNORECASE) for line in lines]
    return {name: tuple(re.findall(r"\w+", arguments)) for line in found for name, arguments in line}


def defined(source):
    """The names that a source defines, but not inside a function, with their arguments if they have some."""
    found, nodes = {}, [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef):
            found[node.name] = tuple(each.arg for each in node.args.args)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = ()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = ()
        else:
            nodes += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("lesson", LESSONS)
def test_siblings_ask_the_same_exercises_and_solve_them(lesson):
    ids = []
    for tool in TOOLS:
        book = read(f"{lesson}_{tool}")
        code = [
            cell.source for cell in book.cells if cell.cell_type == "code" and "solution" not in tags(cell)
        ]
        given = set().union(*map(defined, code))
        _, *found = [cell for heading, cell in sections(book) if heading == "Exercises"]
        cells = {cell.id: cell for cell in found}
        ids.append([*cells])
        tasks = [name for name in cells if not name.endswith(("-start", "-heading", "-solution"))]
        parts = [task + part for task in tasks for part in ("", "-start", "-heading", "-solution")]
        assert ids[-1] == [name for name in parts if name in cells or not name.endswith("-start")]
        for task in tasks:
            text, solution = cells[task].source, cells[f"{task}-solution"]
            assert text.startswith("### "), task
            assert re.search(r"NumPy \d+, Keras \d+, PyTorch \d+ minutes", text), task
            # What is folded ends at the next heading of this rank or a higher one: the next exercise.
            fold = cells[f"{task}-heading"]
            assert (fold.cell_type, fold.source, fold.metadata) == ("markdown", "#### Solution", FOLD)
            assert "solution" in tags(solution) and "jupyter" not in solution.metadata
            assert solution.outputs
            names, mine = asked(text), defined(solution.source)
            # Besides what is to hand in, there are arguments, and what the notebook has given.
            other = given.union(*names.values()) - mine.keys()
            assert names.keys() - other and names.keys() <= mine.keys() | other, task
            for name in names:
                assert names[name] in ((), mine.get(name)), f"{task}: the arguments of {name}"
    assert ids[0] == ids[1] == ids[2]
    assert {"exercise-predict", "exercise-modify", "exercise-build"} <= set(ids[0])


@pytest.mark.parametrize("lesson", LESSONS)
def test_titles_and_links_to_the_siblings(lesson):
    titles = set()
    for tool, title in TOOLS.items():
        first = read(f"{lesson}_{tool}").cells[0].source
        head, _, name = first.splitlines()[0].rpartition(" · ")
        titles.add(head)
        assert name == title and head.startswith(f"# {int(lesson[:2])}. ")
        for other in set(TOOLS) - {tool}:
            assert f"({lesson}_{other}.ipynb)" in first
    assert len(titles) == 1


@pytest.mark.parametrize("name", PATHS)
def test_links_lead_somewhere(name):
    notebook = read(name)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    anchors = {title.replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            for target in re.findall(r"\]\(([^)\s]+)\)", prose):
                if target.startswith("#"):
                    assert target[1:] in anchors, target
                elif "://" not in target:
                    assert (PATHS[name].parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("name", PATHS)
def test_outputs_come_from_one_clean_run(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id


@pytest.mark.parametrize("name", PATHS)
def test_no_trace_of_machine_or_moment(name):
    notebook = read(name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata["language_info"]
    for cell in notebook.cells:
        known = {"tags", "jp-MarkdownHeadingCollapsed"} if cell.cell_type == "markdown" else {"tags"}
        known |= {"play"} if "parameters" in tags(cell) else set()
        assert set(cell.metadata) <= known, cell.id
        assert not re.search(r"[^\n\x20-\U0010ffff]", cell.source), f"{cell.id}: a tab, such as \\top makes"
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [str(output.get("text", "")), *map(str, output.get("data", {}).values())]
        for text in texts:
            assert not re.search(r"/home/|/root/|/tmp/|/Users/|C:\\\\?Users|site-packages", text), cell.id
            assert "\r" not in text, f"{cell.id} shows a progress bar"


@pytest.mark.parametrize("name", PATHS)
def test_no_cell_tells_the_judge_to_look_away(name):
    known = {"shared", "program", "solution", "parameters", "in-short", TIMING, LAST_DIGITS, FLOAT32}
    assert sum(FLOAT32 in tags(cell) for cell in read(name).cells) <= 5
    for cell in read(name).cells:
        assert set(tags(cell)) <= known | ({"report"} if "in-short" in tags(cell) else set()), cell.id
        if cell.cell_type == "code":
            assert not re.search(r"NBVAL|PYTEST_VALIDATE", cell.source, re.IGNORECASE), cell.id


@pytest.mark.parametrize("name", PATHS)
def test_ignored_outputs_are_timings(name):
    ignored = [(heading, cell) for heading, cell in sections(read(name)) if TIMING in tags(cell)]
    assert len(ignored) <= 6
    for heading, cell in ignored:
        if cell.id in TIMED_TABLES:
            continue
        assert heading in ("Measure", "Speed", "What lies beneath"), cell.id
        assert re.search(r"timing\.|_seconds|perf_counter", cell.source), f"{cell.id} measures no time"


@pytest.mark.parametrize("name", PATHS)
def test_cells_are_small(name):
    notebook = read(name)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [cell_id for cell_id in ids if re.fullmatch(r"[0-9a-f]{8}", cell_id)], (
        "an id that says nothing"
    )
    sizes = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 25, cell.id
            # nbval lets a misspelt magic pass, and shows what a semicolon hides; the notebooks use neither.
            assert not [line for line in lines if line.lstrip().startswith(("%", "!"))], cell.id
            assert not lines[-1].endswith(";"), cell.id
            sizes.append(len(lines))
    assert median(sizes) <= 8


@pytest.mark.parametrize("name", PATHS)
def test_notebooks_are_short(name):
    cells = read(name).cells
    first = counting.first_reading(cells)
    if name == START or name > "20":
        assert len(cells) <= {START: 70, "20_equality": 130}.get(name, 150)
        return
    assert len(cells) <= 90 and counting.words(cells) <= (2400 if name < "03" else 2500)
    assert len(first) <= 60 and counting.words(first) <= 1600


@pytest.mark.parametrize("name", PATHS)
def test_setup_cells_are_short(name):
    for heading, cell in sections(read(name)):
        if heading == "Setup" and cell.cell_type == "code":
            assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 10, cell.id


@pytest.mark.parametrize("name", PATHS)
def test_lines_are_narrow(name):
    for cell in read(name).cells:
        if cell.cell_type == "code":
            outputs = [] if "report" in tags(cell) else cell.outputs
            shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
            lines = [line for text in (cell.source, *shown) for line in text.splitlines()]
            assert [line for line in lines if len(line) > WIDTH] == [], cell.id


@pytest.mark.parametrize("name", [START, *LESSONS])
def test_the_goal_says_how_many_minutes(name):
    for path in runner.paths([name]):
        (goal,) = (cell.source for cell in read(path.stem).cells if cell.id == "goal")
        assert goal.splitlines()[-1] == counting.minutes_line(name), path.stem


@pytest.mark.parametrize("name", sorted({runner.lesson(name) for name in PATHS}))
def test_the_map_says_how_many_minutes(name):
    (table,) = (cell.source for cell in read(START).cells if cell.id == "map")
    link = f"({runner.paths([name])[0].name})"
    (row,) = (row for row in table.splitlines() if row.startswith("|") and link in row)
    assert f"| {counting.minutes_range(name)} |" in row


@pytest.mark.parametrize("name", PATHS)
def test_files_are_small(name):
    assert PATHS[name].stat().st_size < 300_000
    for cell in read(name).cells:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png", "")
            assert len(base64.b64decode(picture)) < 50_000, cell.id


def test_the_map_in_the_readme_is_complete():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme))) == sorted(PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_no_temporary_file_is_left(ran, name):
    assert ran(name).notebook.metadata["left"] == []
