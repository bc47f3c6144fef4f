"""Puts into the README what lesson 22 has found: its verdict as a table, and its picture."""

import base64
import os
import re
import tempfile
from pathlib import Path

from helpers import ROOT, lessons

LESSON = "22_key_differences"
PAGE, PICTURE = ROOT / "README.md", ROOT / "data" / "picture.png"
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


def page():
    """Return the README with the lesson's verdict in it."""
    table = output("verdict-table", "text/markdown").strip()
    text = PAGE.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise ValueError(f"{PAGE.name} has no place for the verdict, between its two comments")
    return BLOCK.sub(lambda _: f"\n{table}\n\n", text)


def picture():
    """Return the lesson's picture, a PNG, as bytes."""
    return base64.b64decode(output("verdict-picture", "image/png"))


def main():
    """Write README.md and data/picture.png, each in one move."""
    for path, content in ((PAGE, page().encode("utf-8")), (PICTURE, picture())):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            draft.write_bytes(content)
            os.replace(draft, path)
    return 0
