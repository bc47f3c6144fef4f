"""The checks that the pages make: each can fail, and compares two things.

`records.agree` notes what it compared while the one run executes the pages (helpers/records.py).
"""

import ast
import re

import nbformat
import pytest

from helpers import runner

PATHS = {path.stem: path for path in runner.paths()}
# Comparisons that print a word, or raise without one, in the place of `records.agree`.
OTHERS = re.compile(r"array_equal|allclose|assert_|is_close|isclose|torch\.equal|reduce_all")
WIDE = 100  # times the gap that was seen, or a unit in the last place where that was less


@pytest.mark.parametrize("name", PATHS)
def test_each_check_compares_two_things_and_can_fail(ran, name):
    for check in ran(name).checks:
        assert not check["same"], f"{check['what']}: a thing with itself"
        assert not all(check["constant"]), f"{check['what']}: two constants"
        assert check["fails when moved"], f"{check['what']}: it holds whatever is compared"


@pytest.mark.parametrize("name", PATHS)
def test_bounds_are_not_wide(ran, name):
    for check in ran(name).checks:
        seen = max(check["gap"], check["rounding"])
        assert check["limit"] <= WIDE * seen, f"{check['what']}: {check['limit']}, seen {seen}"
        assert check["limit"] <= 1e-4, f"{check['what']}: {check['limit']} is no bound"


@pytest.mark.parametrize("name", PATHS)
def test_each_check_has_a_name_of_its_own_and_is_run(ran, name):
    # A check in a loop is made several times under several names; one that was never reached makes none.
    names = [check["what"] for check in ran(name).checks]
    assert len(set(names)) == len(names), sorted(names)
    called = {
        cell.id
        for cell in nbformat.read(PATHS[name], as_version=4).cells
        if cell.cell_type == "code" and re.search(r"records\.agree(ment)?\(", cell.source)
    }
    assert len(names) >= len(called)


def calls(source):
    """The calls of records.agree and records.agreement in a cell."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [node for node in nodes if ast.unparse(node.func) in ("records.agree", "records.agreement")]


@pytest.mark.parametrize("name", PATHS)
def test_comparisons_go_through_the_one_helper(name):
    for cell in nbformat.read(PATHS[name], as_version=4).cells:
        if cell.cell_type == "code":
            for call in calls(cell.source):
                sides = [ast.unparse(side) for side in call.args[1:3]]
                assert len(sides) == len(set(sides)), f"{cell.id}: the two sides are one expression"
            assert not OTHERS.search(cell.source), f"{cell.id}: use records.agree"
            assert not re.search(r"^\s*assert\b", cell.source, re.MULTILINE), f"{cell.id}: use records.agree"


def shown_in(output):
    """What an output says, with a picture's description."""
    texts = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "".join([output.get("text", ""), *texts, str(output.get("metadata", {}).get("image/png"))])


@pytest.mark.parametrize("name", PATHS)
def test_a_gap_that_is_shown_is_one(name):
    # `records.bound` is for what differs: a cell in which all of it is "within" is a check that can't fail.
    for cell in nbformat.read(PATHS[name], as_version=4).cells:
        if cell.cell_type == "code" and "records.bound(" in cell.source and cell.outputs:
            text = "".join(map(shown_in, cell.outputs))
            assert re.search(r"\de[-+]\d\d", re.sub(r"within \de[-+]\d\d", "", text)), (
                f"{cell.id}: use records.agree"
            )
