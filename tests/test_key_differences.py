"""Page 22 measures programs as they are: another line is another figure, and another figure another word."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest

from helpers import ROOT, THREADS, lessons, records, tracing

pytest.importorskip("torch")
pytest.importorskip("tensorflow")
pytest.importorskip("sklearn")
pytest.importorskip("skorch")
pytest.importorskip("scipy")

NAME = "22_key_differences"
LESSONS = (NAME,)
WORDS = ("holds", "holds partly", "false here")
# The rows that wait for a lesson of their own.
LATER = {"distributed": "09_data_parallel_numpy", "deployment": "10_deployment_numpy"}


def table_of(cell_id, name=NAME, outputs=None):
    """The rows of a table that a cell shows, or, as text, says."""
    (cell,) = (cell for cell in lessons.cells(name) if cell.id == cell_id)
    text = cell.source
    if cell.cell_type == "code":
        text = (outputs or {cell_id: cell.outputs})[cell_id][-1].data["text/markdown"]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip().strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def verdict():
    return table_of("verdict-table")


@pytest.fixture(scope="module")
def claims():
    """{key: (claim, measured, rule)} as the sections state them."""
    rows = {}
    for cell in lessons.cells(NAME):
        if cell.cell_type == "markdown" and "| it holds if |" in cell.source:
            for key, *told in table_of(cell.id):
                assert key not in rows
                rows[key] = told
    return rows


def test_every_claim_is_in_the_verdict_once(verdict, claims):
    assert [row[0] for row in verdict] == [claim for claim, *_ in claims.values()]
    assert len(verdict) >= 25
    headings = {
        cell.source.splitlines()[0][3:].replace(" ", "-")
        for cell in lessons.cells(NAME)
        if cell.source.startswith("## ")
    }
    for (claim, word, read, figures, measured), key in zip(verdict, claims, strict=True):
        if key in LATER and not (records.FOLDER / f"{LATER[key]}.npz").is_file():
            assert (word, figures, measured) == ("–", "", "") and read.startswith("See lesson"), claim
            continue
        word, heading = re.fullmatch(r"\[(.+)\]\(#(.+)\)", word).groups()
        assert word in WORDS and heading in headings, claim
        assert read and figures.count("**") >= 2 and "holds if" in measured, claim


def test_the_guide_names_claims_and_the_sections_that_settle_them(verdict, claims):
    sections = dict(zip(claims, (re.search(r"#(.+)\)", row[1] + "#)") for row in verdict), strict=True))
    named = re.findall(r"\[(\w+)\]\(#([^)]+)\)", "\n".join(" | ".join(row) for row in table_of("guide")))
    assert len(named) >= 9
    for claim, section in named:
        assert sections[claim][1].startswith(section), claim


def test_each_claim_is_settled(claims):
    parts = {}
    source = "\n".join(cell.source for cell in lessons.cells(NAME) if cell.cell_type == "code")
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "settle" and len(call.args) == 4:
            parts[getattr(call.args[0], "value", "in a loop")] = call.args[2]
    in_a_loop = {"faster", "adam", "recording", "compiling", "asking", "overhead"}
    assert parts.keys() == claims.keys() - LATER.keys() - in_a_loop | {"in a loop"}


def test_the_words_that_are_printed_are_those_of_the_verdict(ran, verdict):
    page, printed = ran(NAME), {}
    for cell in page.notebook.cells:
        if cell.cell_type == "code":
            words = re.findall(r"^(holds partly|holds|false here) +(.+)$", page.text(cell.id), re.MULTILINE)
            printed |= {claim: word for word, claim in words}
    now = {claim: row for claim, *row in table_of("verdict-table", outputs=page.outputs)}
    # A row on seconds or megabytes may come out otherwise on another machine, so it isn't printed.
    timed = ("#Speed", "#What-lies-beneath", "–")
    counted = {claim: row[0] for claim, row in now.items() if not any(each in row[0] for each in timed)}
    assert printed == {claim: word[1:].partition("]")[0] for claim, word in counted.items()}
    counted = {claim: row for claim, *row in verdict if not any(each in row[0] for each in timed)}
    assert len(counted) >= 18
    for claim, row in counted.items():
        assert now[claim] == row, claim


def test_no_claim_of_control_holds_in_full(verdict):
    words = [word for _, word, *_ in verdict if word.endswith("(#Control)")]
    assert len(words) == 4 and not any(word.startswith("[holds]") for word in words)
    (text,) = (cell.source for cell in lessons.cells(NAME) if cell.id == "control-read")
    assert "the square shows why none of them holds in full" in text


def test_the_square_says_what_the_texts_say(ran):
    (output,) = (o for o in ran(NAME).outputs["control-square"] if "image/png" in o.get("data", {}))
    alt = output.metadata["image/png"]["alt"]
    fields = re.findall(r"loop (ours|the tool's), step (ours|the tool's): (.*?)[;.](?= |$)", alt)
    assert len(fields) == 4
    found = {tool: [tool in ways for *_, ways in fields] for tool in ("Keras", "PyTorch", "SciPy")}
    assert all(found["Keras"]), "Keras stands in all four fields"
    assert 1 < sum(found["PyTorch"]) < 4
    assert found["SciPy"] == [loop == "the tool's" and step == "ours" for loop, step, _ in fields]


# What lesson 3's ledgers may say of a stage, given who was found to own it.
LEDGER = {"ours": ("ours",), "on request": ("on request",), "the tool's": ("the tool's",)}
ALIKE = {"batching": "batches", "early stopping": "early stop"}


@pytest.mark.parametrize(("tool", "column"), [("numpy", 1), ("pytorch", 2), ("keras", 4)])
def test_the_ledgers_of_lesson_3_say_what_is_measured(tool, column):
    ledger = {stage: owner for stage, owner, _ in table_of("ledger-table", f"03_mlp_{tool}")}
    measured = {ALIKE.get(row[0], row[0]): row[column] for row in table_of("control-stages")}
    if tool == "keras":
        measured["checkpoint"] = "on request"  # by `save`; here `fit` saves, through a callback
    both = ledger.keys() & measured.keys()
    assert len(both) == 8 and ledger.keys() - both == {"device"}
    for stage in both:
        assert ledger[stage].startswith(LEDGER[measured[stage]]), stage


def blocks():
    """The programs that stand on the page as text."""
    return {
        cell.id: re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
        for cell in lessons.cells(NAME)
        if cell.cell_type == "markdown" and "```python" in cell.source
    }


def test_programs_are_text_that_python_and_a_panel_can_read():
    many = {cell_id: len(found) for cell_id, found in blocks().items() if len(found) > 1}
    assert many == {"ways": 2, "way-trainer": 2, "speed-programs": 5} and len(blocks()) == 11
    for cell_id, found in blocks().items():
        for program in found:
            ast.parse(program)
            assert all(len(line) <= 72 for line in program.splitlines()), cell_id


def test_validation_digits_are_no_training_digits():
    namespace = {}
    exec("\n".join(blocks()["ways"]), namespace)
    fitted, held, tested = ({row.tobytes() for row in namespace[each]} for each in ("X", "X_val", "X_test"))
    assert (len(namespace["X"]), len(namespace["X_val"])) == (3600, 400)
    assert not fitted & held and not (fitted | held) & tested


# Each program in a process of its own, as somebody would who has pasted it into a file.
@pytest.mark.makers
@pytest.mark.parametrize("cell_id", [each for each in blocks() if each not in ("ways", "speed-programs")])
def test_a_program_runs_alone(tmp_path, cell_id):
    found = blocks()
    source = "\n\n".join([*found["ways"], *found[cell_id], "print('ACCURACY', float(accuracy))"])
    (tmp_path / "program.py").write_text(source, encoding="utf-8")
    env = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(re.search("ACCURACY (.+)", done.stdout)[1]) > 0.9
    assert [path for path in tmp_path.iterdir() if path.name != "program.py"], "nothing was saved"


# The page, in a process of its own, without what is timed. A program is watched again only if its text has
# changed. What the weights of packages would be is made up: it enters no row that is looked at.
PAGE = """
import contextlib, io, json, shutil, sys
from pathlib import Path
import nbformat
from helpers import lessons, records

NAME = "22_key_differences"
folder, original = Path(sys.argv[1]), lessons.NOTEBOOKS
shutil.copytree(lessons.NOTEBOOKS, folder / "notebooks")
shutil.copytree(records.FOLDER, folder / "records")
lessons.NOTEBOOKS, records.FOLDER = folder / "notebooks", folder / "records"
watched = {}


def rows():
    page = lessons.load(NAME, until="control-run")
    first, library = page["watched"], page["LIBRARY"]["trainer"]

    def once(way):
        key = way, page["PROGRAMS"][way], library * (way == page["trainer"])
        watched[key] = watched.get(key) or first(way)
        return watched[key]

    page |= {"watched": once, "packages": dict.fromkeys(page["PROGRAMS"], 1)}
    page["disk"] = page["packages"]
    cells = lessons.cells(NAME)
    begin = [cell.id for cell in cells].index("control-run") + 1
    for cell in cells[begin:]:
        named = "program" in cell.metadata.get("tags", ()) and not cell.id.startswith(("speed", "weight"))
        if cell.cell_type == "code" and named:
            exec(compile(cell.source, cell.id, "exec"), page)
    return {key: row[1:4] for key, row in page["verdict"].items()}


def edit(name, cell_id, old, new):
    path = lessons.NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    assert cell.source.count(old) == 1, (name, cell_id, old, cell.source.count(old))
    cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)


found = []
for place in [None, *json.loads(sys.argv[2])]:
    if place:
        edit(*place)
    with contextlib.redirect_stdout(io.StringIO()):
        found.append(rows())
    if place:
        shutil.copy(original / f"{place[0]}.ipynb", lessons.NOTEBOOKS)
# What `settle` makes of truth values; the rule of "heavy" has two parts.
page, words = lessons.load(NAME, until="verdict-figures"), []
for parts in ([True, True], [True, False], [False, True], [False, False], [True]):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            page["settle"]("heavy", {}, parts, "")
        words.append(page["verdict"]["heavy"][1])
    except ValueError as error:
        words.append(str(error))
(folder / "rows.json").write_text(json.dumps([words, *found]), encoding="utf-8")
"""
TWELVE = "".join(f"spare_{i} = {i}\n" for i in range(12))
TRAIN = "        train_step(X_batch, y_batch)"
# A line more or less, and the rows whose figures it has to change; with the new word, where that changes.
LINES = {
    "twelve lines more in lesson 3's script": (
        ("03_mlp_numpy", "in-short-model", "params = ", f"{TWELVE}params = "),
        {"code": None, "between": None},
    ),
    "forty-eight lines more in lesson 3's PyTorch": (
        ("03_mlp_pytorch", "in-short-data", "SEED = 0", f"{TWELVE * 4}SEED = 0"),
        {"code": "false here", "between": None},
    ),
    "a loss that lesson 3 computes twice": (
        (
            "03_mlp_pytorch",
            "in-short-loop",
            "        loss.backward()",
            "        loss_fn(model(X), y)\n        loss.backward()",
        ),
        {"code": None, "calls": None},
    ),
    "a name more in lesson 3": (
        ("03_mlp_keras", "in-short-data", "Y_test = ", "keras.backend.clear_session()\nY_test = "),
        {"code": None, "expertise": None},
    ),
    "a dearer change in lesson 5": (
        (
            "05_custom_training_keras",
            "smoothing",
            "label_smoothing=SMOOTH",
            f"label_smoothing={' + '.join(['SMOOTH'] * 90)}",
        ),
        {"strange": None},
    ),
    "a forward that our loop asks for": (
        (NAME, "way-loop", TRAIN, f"        model(X_batch)\n{TRAIN}"),
        {"control": None, "hides": None, "code": None},
    ),
    "a decorator": (
        (NAME, "way-autograd", "def adam(", "@torch.no_grad()\ndef adam("),
        {"calls": None, "code": None},
    ),
    "a cheaper layer": (
        (NAME, "way-grown-words", "nn.Linear(128, 64), nn.ReLU(), ", ""),
        {"development": None, "between": None},
    ),
    "an operation that NumPy lacks": (
        (
            NAME,
            "handled-names",
            "dir(keras.ops)",
            "('relu', 'elu', 'silu')",
        ),
        {"tensors": "holds"},
    ),
    "a decorator in lesson 3's script": (
        ("03_mlp_numpy", "in-short-step", "def forward(X):", "@np.errstate()\ndef forward(X):"),
        {"calls": None, "code": None, "expertise": None, "development": None},
    ),
}


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    command = [sys.executable, "-c", PAGE, str(folder), json.dumps([place for place, _ in LINES.values()])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    words, before, *after = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    return before, dict(zip(LINES, after, strict=True)), words


@pytest.mark.makers
@pytest.mark.parametrize("line", LINES)
def test_another_line_is_another_figure_and_can_be_another_word(changed, line):
    before, after = changed[0], changed[1][line]
    assert {key for key in after if after[key] != before[key]} == LINES[line][1].keys()
    for key, word in LINES[line][1].items():
        if word:
            assert (
                re.match(r"\[(.*?)\]", after[key][0])[1] == word != re.match(r"\[(.*?)\]", before[key][0])[1]
            )


@pytest.mark.makers
def test_a_word_follows_from_truth_values_of_which_each_part_of_a_rule_has_one(changed):
    *words, error = changed[2]
    partly = "[holds partly](#What-lies-beneath)"
    assert words == ["[holds](#What-lies-beneath)", partly, partly, "[false here](#What-lies-beneath)"]
    assert "shorter than argument 1" in error


@pytest.mark.makers
def test_the_page_says_what_its_programs_say_now(changed, verdict, claims):
    """Run anew, without IPython and in another process: the same figures and words, to the letter."""
    shown = dict(zip(claims, verdict, strict=True))
    for key, row in changed[0].items():
        if key not in ("between", *LATER):  # there, the packages' weight is made up
            assert shown[key][1:4] == row, key


# Every grown program, trained as it stands.
GROWN = """
import contextlib, io, os, sys
from helpers import lessons, tracing

os.chdir(sys.argv[1])
page = lessons.load("22_key_differences", until="development-grown", skip=[
    cell.id for cell in lessons.cells("22_key_differences")
    if cell.id.startswith(("control", "code", "handled", "flexibility", "ease"))
])
for way, wishes in page["GROWN"].items():
    for wish in wishes:
        _, new = page["grown"](way, wish)
        marks = {"ours": {}, "asks": {}, "tool": {}}
        for module in page["LIBRARY"]:
            made = type(sys)(module)
            exec(new.get(module, ""), vars(made))
            sys.modules[module] = made
        namespace = {"__name__": "grown"}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(new["program"], namespace)
        print("LEARNT", way, "|", wish, "|", float(namespace["accuracy"]), flush=True)
"""


@pytest.mark.makers
def test_every_grown_program_learns(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", GROWN, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"LEARNT (.+) \| (.+) \| (.+)", done.stdout)
    assert len(found) == 11
    assert all(float(accuracy) > 0.88 for *_, accuracy in found), found


# PyTorch in the two fields of the square in which no program of the page puts it.
OWN_STEP = """class OwnStep(NeuralNetClassifier):
    def train_step_single(self, batch, **options):
        images, labels = batch
        self.module_.train()
        Z2 = self.module_(images)
        loss = self.criterion_(Z2, labels)
        loss.backward()
        return {"loss": loss, "y_pred": Z2}


net = OwnStep("""
OWN_LOOP = """net.initialize()
history = []
for _ in range(2):
    order = np.random.permutation(len(X))
    for rows in np.split(order[:3584], 112):
        batch = torch.from_numpy(X[rows]), torch.from_numpy(y[rows])
        last = net.train_step(batch)
    history.append(last["loss"].item())
"""


@pytest.mark.makers
@pytest.mark.parametrize("field", ["a step of our own under skorch", "skorch's step in a loop of our own"])
def test_pytorch_can_stand_in_the_other_fields(field):
    import torch

    torch.set_default_dtype(torch.float32)  # another test's lesson may have set float64
    source = "\n\n".join([*blocks()["ways"], *blocks()["way-skorch"]]).replace(
        "max_epochs=10", "max_epochs=2"
    )
    if "under" in field:
        source = source.replace("net = NeuralNetClassifier(", OWN_STEP)
    else:
        source = source[: source.index("net.fit(")] + OWN_LOOP + "accuracy = net.score(X_test, y_test)"
    marks = tracing.marks("PyTorch with skorch")["tool"]
    seen = tracing.watch(source, {"tool": {stage: marks[stage] for stage in ("step", *tracing.CORE)}})
    step_is_ours = {stage: seen.owners[stage] != "the tool's" for stage in tracing.CORE}
    if "under" in field:
        assert seen.holder.startswith("skorch: ") and sum(step_is_ours.values()) == 3, seen
        assert not step_is_ours["update"], "skorch calls the optimizer around our step"
    else:
        assert seen.holder == "ours" and not any(step_is_ours.values()), seen
    assert seen.accuracy > 0.8


def test_pytorch_calls_itself_a_library():
    assert "PyTorch is a library" in metadata.metadata("torch").get_payload()


def test_most_of_numpys_warnings_on_page_21_come_from_a_logarithm():
    known = records.load("21_mistakes")
    warned = sum(int(warns) for _, tool, _, warns, *_ in known["counts"].tolist() if tool == "NumPy")
    said = [said for said, tool in zip(known["said"], known["tools"], strict=True) if tool == "NumPy"]
    assert warned > sum(each.endswith("encountered in log") for each in said) > warned / 2


@pytest.mark.makers
def test_keras_imports_what_it_does_not_need_where_that_is_installed():
    program = "import sys, keras; print([name in sys.modules for name in ('sklearn', 'matplotlib')])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True]"
