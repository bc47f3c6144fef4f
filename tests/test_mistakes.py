"""What page 21 says of its own outputs: the mistakes, the checks, the counts, the museum."""

import csv
import re
from collections import Counter

import numpy as np
import pytest

from helpers import ROOT
from helpers.records import TOOLS

LESSONS = ("21_mistakes",)
FIVE = ["gradients_fit", "learns_by_heart", "answers_alone", "labels_mixed", "data_sound"]
TABLE = ROOT / "data" / "records" / "21_twelve_checks.csv"


@pytest.fixture(scope="module")
def page(ran):
    return ran("21_mistakes")


@pytest.fixture(scope="module")
def rows(page):
    """A dict for each mistake in a tool, from the record of this run."""
    keys = ("names", "tools", "groups", "whens", "said", "accuracies", "against", "asked", "found", "harm")
    columns = [page.record[key].tolist() for key in keys]
    return [dict(zip(keys, each, strict=True)) for each in zip(*columns, strict=True)]


def one(rows, name, tool):
    (row,) = (row for row in rows if (row["names"], row["tools"]) == (name, tool))
    return row


def trains(row):
    return not np.isnan(row["accuracies"]).any()


def found_by(row):
    return {check for check, found in zip(FIVE, row["found"], strict=True) if found}


def test_there_are_enough_mistakes_in_three_groups(rows):
    names = {row["names"]: row["groups"] for row in rows}
    everywhere, by_hand, in_tools = "possible in all three", "only by hand", "only in a tool"
    assert len(names) >= 30 and set(names.values()) == {everywhere, by_hand, in_tools}
    for name, group in names.items():
        tools = {row["tools"] for row in rows if row["names"] == name}
        assert tools == {everywhere: set(TOOLS.values()), by_hand: {"NumPy"}}.get(group, tools), name
        assert group != in_tools or "NumPy" not in tools, name


def test_the_right_programs_are_one_and_raise_no_alarm(page):
    lines = page.text("ask-run").splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert [*said] == FIVE
    assert all(marks[:3] == ["yes"] * 3 for marks in said.values())
    assert [marks[3] for marks in said.values()] == ["NO", "yes", "yes", "yes", "yes"]
    assert re.findall(r"within \S+", page.text("right-agree")) == ["within 1e-14"] * 2
    assert len({tuple(re.findall(r"[\d.]+ %", line)) for line in page.text("right").splitlines()}) == 1


def test_harm_is_what_the_page_says_that_it_is(rows):
    for row in rows:
        gaps = np.subtract(row["against"], row["accuracies"])
        assert row["harm"] == (trains(row) and gaps.min() > 0 and gaps.mean() >= 0.01), row["names"]
    assert 20 < sum(row["harm"] for row in rows) < sum(map(trains, rows))


def test_what_raises_says_something_and_asks_nothing(rows):
    for row in rows:
        if not trains(row):
            assert row["said"] and row["whens"] and not any(row["asked"]), row["names"]
        assert bool(row["said"]) == bool(row["whens"])
        assert not set(found_by(row)) - {f for f, asked in zip(FIVE, row["asked"], strict=True) if asked}


def test_a_wrong_shape_is_caught_at_the_first_batch_or_before(rows):
    for name in ("loss for the other form", "labels from 1 to 10", "transposed batch"):
        for tool in TOOLS.values():
            row = one(rows, name, tool)
            assert not trains(row) and row["whens"] in ("at batch 1", "outside of the loop")
    assert [trains(one(rows, "bytes", tool)) for tool in TOOLS.values()] == [True, True, False]


def test_most_of_what_goes_wrong_is_silent(rows):
    raised, said = Counter(), Counter()
    for tool in TOOLS.values():
        mine = [row for row in rows if row["tools"] == tool]
        raised[tool], said[tool] = (
            sum(not trains(row) for row in mine),
            sum(bool(row["said"]) for row in mine),
        )
        assert raised[tool] < len(mine) / 2
    assert raised.most_common()[0][0] == "PyTorch" and said.most_common()[0][0] == "NumPy"


# What the sentences between the mistakes say of them.
FINDS = {
    ("labels in the other form", "PyTorch"): (False, set()),
    ("softmax twice", "NumPy"): (True, {"gradients_fit", "learns_by_heart"}),
    ("softmax twice", "Keras"): (True, {"learns_by_heart"}),
    ("softmax twice", "PyTorch"): (True, {"learns_by_heart"}),
    ("sorted", "Keras"): (True, {"labels_mixed"}),
    ("zero_grad forgotten", "PyTorch"): (True, {"gradients_fit"}),
    ("mask forgotten", "NumPy"): (None, {"gradients_fit"}),
    ("W2 before dA1", "NumPy"): (None, {"gradients_fit"}),
    ("bias by the mean", "NumPy"): (False, {"gradients_fit"}),
    ("noise that stays", "PyTorch"): (None, {"data_sound"}),
    ("dropout never off", "Keras"): (True, {"answers_alone"}),
    ("from_logits", "Keras"): (False, set()),
} | {
    (name, tool): (None, set()) for name in ("shuffled alone", "brighter in bytes") for tool in TOOLS.values()
}


@pytest.mark.parametrize(("case", "expected"), FINDS.items(), ids=map("-".join, FINDS))
def test_a_mistake_is_found_by_what_the_text_says(rows, case, expected):
    row, (harm, checks) = one(rows, *case), expected
    assert found_by(row) == checks
    assert harm is None or row["harm"] == harm


def test_one_mistake_in_two_tools_has_one_result(rows):
    pairs = [("softmax twice", "Keras", "softmax twice", "PyTorch")]
    pairs += [("frozen layer left", "Keras", "hidden layer detached", "PyTorch")]
    for one_name, one_tool, other_name, other_tool in pairs:
        first, second = one(rows, one_name, one_tool), one(rows, other_name, other_tool)
        assert first["accuracies"] == second["accuracies"]
    assert np.mean(one(rows, "frozen layer left", "Keras")["accuracies"]) > 0.5  # more than half


def test_the_counts_are_right(page, rows):
    for group, tool, *counts in page.record["counts"].tolist():
        mine = [row for row in rows if (row["groups"], row["tools"]) == (group, tool)]
        silent = [row for row in mine if trains(row) and not row["said"]]
        warned = [row for row in mine if trains(row) and row["said"]]
        harm = sum(row["harm"] for row in silent)
        expected = [len(mine) - len(silent) - len(warned), len(warned), len(silent), harm]
        assert [*map(int, counts)] == expected, (group, tool)


def test_the_order_of_the_checks_is_the_best_first(page, rows):
    among = [row for row in rows if trains(row)]
    printed = re.findall(
        r"^(\w+) +(\d+), alone +(\d+); first \d: (\d+), (\d+)", page.text("matrix-print"), re.M
    )
    assert {name for name, *_ in printed} == set(FIVE)
    chosen = set()
    for name, count, alone, together, harmful in printed:
        best = max(sum(bool(found_by(row) & (chosen | {each})) for row in among) for each in FIVE)
        chosen.add(name)
        assert int(count) == sum(name in found_by(row) for row in among)
        assert int(alone) == sum(found_by(row) == {name} for row in among)
        assert int(together) == best == sum(bool(found_by(row) & chosen) for row in among)
        assert int(harmful) == sum(bool(found_by(row) & chosen) for row in among if row["harm"])
    assert int(printed[-1][3]) > 0.8 * len(among)


def test_each_wrong_program_stands_at_one_leaf_of_the_tree(page, rows):
    order = ["data_sound", "labels_mixed", "answers_alone", "gradients_fit", "learns_by_heart"]
    ends = Counter()
    for row in (row for row in rows if trains(row)):
        ends[next((check for check in order if check in found_by(row)), "none")] += 1
    (cell,) = (cell for cell in page.notebook.cells if cell.id == "tree-picture")
    (alt,) = (each.metadata["image/png"]["alt"] for each in cell.outputs if each.get("metadata"))
    assert dict(re.findall(r"(\w+) (\d+)(?=[,.])", alt)) == {end: str(count) for end, count in ends.items()}


def test_a_blank_row_raises_no_false_alarm_and_a_wrong_gradient_does(rows):
    for tool in TOOLS.values():  # a mistake of the data, whose blank rows stand on the kink
        assert "gradients_fit" not in found_by(one(rows, "reshaped", tool))
    wrong = ("mask forgotten", "n forgotten", "bias by the mean", "w = w -", "W2 before dA1")
    assert all("gradients_fit" in found_by(one(rows, name, "NumPy")) for name in wrong)


def test_the_tree_leads_back_to_the_mistakes(page):
    (cell,) = (cell for cell in page.notebook.cells if cell.id == "tree-text")
    text = "".join(output["data"].get("text/markdown", "") for output in cell.outputs)
    titles = re.findall(r"^#+ (.+)$", "\n".join(c.source for c in page.notebook.cells), re.M)
    targets = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(targets) > 30 and set(targets) <= {title.replace(" ", "-") for title in titles}


def test_a_long_step_cries_wolf_and_a_short_one_does_not(page):
    alarms = {
        float(h): int(n) for h, n in re.findall(r"h = (\S+): +(\d+) false alarms", page.text("wolf-run"))
    }
    assert alarms[1e-4] >= alarms[1e-5] > 5 > alarms[1e-6] and alarms[1e-7] == 0


def test_keras_looks_through_the_softmax(page):
    text = page.text("axis-look")
    reported, by_hand = map(float, re.findall(r"\d\.\d\d", text.splitlines()[0]))
    assert by_hand > 3 * reported
    right = [float(each) for each in re.findall(r"([\d.]+) %", text)]
    assert right == sorted(right) and right[0] < 15 and right[-1] > 70


def test_the_help_is_the_same_for_both(page):
    said = dict(re.findall(r"^(shuffled|not shuffled) +(.+)$", page.text("help-run"), re.M))
    assert said["shuffled"] == said["not shuffled"] and "shuffle=True" in said["shuffled"]


def test_gradient_descent_forgives_for_a_while(page):
    found = re.findall(r"^(.+?) +([\d.]+) % +([\d.]+) %$", page.text("forgives-run"), re.M)
    found = {name: (float(early), float(late)) for name, early, late in found}
    assert {"right", "mask forgotten", "bias by the mean", "W2 before dA1"} <= found.keys()
    assert found["W2 before dA1"][0] > 80 > 15 > found["W2 before dA1"][1]
    assert found["right"][1] > found["mask forgotten"][1] > 85
    assert abs(found["right"][1] - found["bias by the mean"][1]) < 1.5


def test_frozen_after_fit_still_moves(page):
    moved = dict(re.findall(r"^frozen (.+?) +moves by up to ([\d.]+)$", page.text("frozen-run"), re.M))
    assert float(moved["after compile"]) == float(moved["after fit, compiled again"]) == 0
    assert float(moved["after fit"]) > 0.001


def test_the_solutions_say_who_raises_and_what_is_wrong(page, rows):
    text = page.text("exercise-predict-solution")
    assert text.splitlines()[-1] == "raises: Keras NumPy"  # 11 columns against 10; numbers to 9 have a place
    found = dict(re.findall(r"^\d: (.+?) +fails (.+)$", page.text("exercise-find-solution"), re.M))
    assert len(found) == 5
    for name, checks in found.items():
        same = [row for row in rows if row["names"] == name and row["tools"] != "Keras"]
        assert any(row["harm"] for row in same)
        assert any(found_by(row) == set(checks.replace("none", "").split(", ")) - {""} for row in same)


def test_right_programs_of_another_kind_raise_an_alarm_in_one_case_at_most(page):
    rows = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
    others = [row for row in rows if row["kind"] == "other"]
    alarmed = [row for row in others if any(row[name] == "1" for name in FIVE)]
    assert len(others) == 20 and len(alarmed) <= 1


def test_the_committed_table_knows_the_mistakes_of_the_page(rows):
    table = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
    wrong = {(row["program"], row["tool"]): row for row in table if row["kind"] == "wrong"}
    assert wrong.keys() == {(row["names"], row["tools"]) for row in rows if trains(row)}
    for row in rows:
        if trains(row) and not re.search("dropout|noise in", row["names"]):  # which draw numbers of their own
            said = wrong[row["names"], row["tools"]]
            assert {name for name in FIVE if said[name] == "1"} == found_by(row), row["names"]
