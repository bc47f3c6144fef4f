"""Puts into the README what lesson 22 has found: six rows of its verdict, and its picture."""

import base64
import os
import re
import tempfile
from pathlib import Path

from helpers import ROOT, lessons

LESSON = "22_key_differences"
PAGE, PICTURE = ROOT / "README.md", ROOT / "data" / "picture.png"
# The rows that surprise, as the page states their claims.
SURPRISES = (
    "You call a library; a framework calls you",
    "A library leaves control to you, a framework takes it",
    "A framework needs less code",
    "Easier to use: a framework tells you of your mistakes",
    "A framework is faster",
    "As it comes, each tool gives other results",
)
BLOCK = re.compile(r"(?<=<!-- verdict -->\n).*?(?=<!-- end -->)", re.DOTALL)


def output(cell_id, kind):
    """Return the first output of that MIME type (a string) of a cell of lesson 22.

    Raises a ValueError that says what to do where there is none.
    """
    cells = {cell.id: cell for cell in lessons.cells(LESSON)}
    for result in cells[cell_id].get("outputs", ()) if cell_id in cells else ():
        if kind in result.get("data", {}):
            return result.data[kind]
    raise ValueError(f"{LESSON} shows no {kind} in {cell_id}: `python3 -m helpers run {LESSON}` writes it")


def rows():
    """Return a line for each row that surprises: the claim, its verdict, what was seen.

    Raises a ValueError for a claim that the verdict hasn't got.
    """
    lines = output("verdict-table", "text/markdown").splitlines()
    verdict = {row[0]: row[1:3] for row in (line.strip("| ").split(" | ") for line in lines)}
    missing = [claim for claim in SURPRISES if claim not in verdict]
    if missing:
        raise ValueError(f"the verdict of {LESSON} has no row {missing[0]!r}")
    words = {claim: re.match(r"\[(.+?)\]", verdict[claim][0])[1] for claim in SURPRISES}
    return [f"- *{claim}*: **{words[claim]}**. {verdict[claim][1]}" for claim in SURPRISES]


def page():
    """Return the README with the lesson's verdict in it."""
    text = PAGE.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise ValueError(f"{PAGE.name} has no place for the verdict, between its two comments")
    block = f"\n![{described()}](data/picture.png)\n\n" + "\n".join(rows()) + "\n\n"
    return BLOCK.sub(lambda _: block, text)


def described():
    """Return what the lesson's picture shows, for those who can't see it."""
    cells = {cell.id: cell for cell in lessons.cells(LESSON)}
    output("control-square", "image/png")  # or it says what to do
    (shown,) = (each for each in cells["control-square"].outputs if "image/png" in each.get("data", {}))
    return shown.metadata["image/png"]["alt"]


def picture():
    """Return the lesson's picture, a PNG, as bytes."""
    return base64.b64decode(output("control-square", "image/png"))


def main():
    """Write README.md and data/picture.png, each in one move."""
    for path, content in ((PAGE, page().encode("utf-8")), (PICTURE, picture())):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            draft.write_bytes(content)
            os.replace(draft, path)
    return 0
