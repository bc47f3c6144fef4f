"""No figure in the prose that a run could change: what a cell measures, a cell says.

Every number typed into markdown is a small count, or printed by its notebook, or a constant in its code,
or explained in EXCEPTIONS. A number with a unit, and one that begins with "about", has to be printed;
a timing is no support, since the next run prints another.
"""

import ast
import html
import math
import re
from collections import namedtuple
from fnmatch import fnmatchcase
from functools import cache

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers import ROOT
from helpers.runner import TIMING

PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
README = "README.md"

# What no run can change, and nothing on its page prints: (notebook, cell): (reason, figures).
EXCEPTIONS = {
    ("00_start_here", "map"): ("numbers of lessons", "20", "21", "22"),
    ("01_matmul_*", "precision"): ("what float64 and float32 are", "64"),
    ("02_gradient_*", "numeric-picture-read"): ("what float64 is; a network to think of", "16", "100,000"),
    ("03_mlp_*", "data"): ("the sizes of the data, which test_data compares", "1,000", "4,000"),
    ("03_mlp_*", "train"): ("10 epochs of 125 batches", "1,250"),
    ("04_optimizers_*", "data"): ("the sizes of the data, which test_data compares", "4,000", "3,600", "400"),
    ("04_optimizers_*", "seeds"): ("what In short holds back", "400"),
    ("04_optimizers_*", "epsilon-read"): ("the threshold of the cell below", "1 %"),
    ("06_convolution_*", "in-short"): ("what In short holds back", "400"),
    ("06_convolution_*", "norm"): ("Keras's default, which test_convolution compares", "0.99"),
    ("08_probability_*", "mean"): ("the pixels of a digit", "784 times"),
    ("20_equality", "title"): ("the number of the page", "20"),
    ("20_equality", "dial-reduction-why"): ("the sum over a batch of 32 against its mean", "32 times"),
    ("20_equality", "dial-partial-why"): ("4,000 digits in batches of 96", "64"),
    ("20_equality", "dial-float32-why"): ("the width of float64", "64"),
    ("20_equality", "better-sentence-why"): ("the level of the interval", "95 %"),
    ("21_mistakes", "title"): ("the number of the page", "21"),
    ("22_key_differences", "results"): ("the level of the interval", "95 %"),
    (README, "The lessons"): ("the sizes of the data, which test_data compares", "5,000", "70,000"),
}

# Counts of what stands on the page; numbers of lessons, steps and equations; indices and exponents.
SMALL = 12

NUMBER = re.compile(
    r"(?<![\w.#])(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?![\d_])(?P<decimals>\.\d+)?"
    r"(?:[eE](?P<e>[-+]?\d+)(?!\w)"
    r"|(?:\s*(?:\\cdot|\\times|[·×*])\s*(?P<ten>10))?\s*(?:\^|\*\*)\s*\{?(?P<power>-?\d+)\}?)?"
)
# What makes a number a measured one, when it follows.
UNITS = {
    "%": r"\\?%|percent\b|per cent\b",
    "times": r"times\b(?!\s*[.,;:)])|-?fold\b|[x×](?!\w|\s*\d)",
    "time": r"(?:[mnuµμ]|milli|micro|nano)?(?:s|sec|seconds?)\b|min\b|minutes?\b|hours?\b",
    "memory": r"(?:[kKMGT]i?)?B\b|(?:kilo|mega|giga)?bytes?\b",
    "rate": r"[kMGT]?FLOPs?\b|(?:steps|examples|images) (?:a|per) second",
    "frames": r"(?:\w+ )?frames?\b",
    "lines": r"(?:\w+ )?lines?\b",
    "calls": r"(?:\w+ )?calls?\b",
    "names": r"(?:\w+ )?names\b",
}
# A table says these in its head, not beside the number.
HEADS = {"frames", "lines", "calls", "names"}
GAP = r"(?:[\s~}-]|\\[,;: ])*"
# In a formula or in code, 2x is no ratio: there a unit has to come after it, or as text.
OUT = r"\\(?:text|mathrm)\{\s*|\$\s*|(?=\\%)"
HEDGE = re.compile(
    r"(?:\b(?:about|around|nearly|roughly|approximately|almost|near|some|circa)|[~≈]|\\approx)[\s$-]*$", re.I
)
FACTOR = re.compile(r"\bfactor of[\s$]*$", re.I)
LABEL = re.compile(r"\b(?:lessons?|steps?|equations?|rows?|columns?|exercises?)\s$", re.I)

WORD = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|"
    "seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?|dozens?)"
)
# Figures without a digit. No output says "twice", so prose that does has to be an exception.
WORDS = re.compile(
    rf"\b(?:(?:twice|thrice|double|half|{WORD}(?: of)? times|{WORD}fold) (?:"
    r"as (?:fast|slow|long|quick|much|large|small|good)"
    r"|(?:the|its)(?: \w+)? (?:time|speed|cost|memory|loss|accuracy|code|lines))"
    rf"|{WORD} times (?:faster|quicker|slower|longer|shorter|larger|smaller|more|less|fewer|better|worse)"
    rf"|factor of {WORD}"
    rf"|{WORD} (?:%|percent|per cent|(?:milli|micro)?seconds|minutes|hours|[kMG]B|(?:kilo|mega|giga)bytes"
    r"|(?:stack )?frames))\b",
    re.I,
)

# Numbers that are none of the prose's: targets of links, numbers of lessons, minutes (a Goal's, the map's and
# the hour's, which test_start_here compares, and an exercise's), the years of papers, versions of Python,
# the widths of number types.
ELSEWHERE = re.compile(
    r"(?<=\])\([^)]*\)"
    r"|\*\*It takes\*\* about \d+ minutes to read and [\w ]+ to run\."
    r"|\*\*Minutes\*\*.*|\*\*One hour\.\*\*.*"
    r"|\| \d+(?:–\d+)?(?:, \d+(?:–\d+)?)? \|(?= \[)"
    r"|NumPy \d+, Keras \d+, PyTorch \d+ minutes|(?m:^\d+ minutes\.$)"
    r"|\([^()\d]+, (?:19|20)\d\d\)"
    r"|\b(?:[Ll]essons?|[Pp]ages?) \d+(?:(?:, | and | to )\d+)*"
    r"|\bPython \d\.\d+(?:(?:, | or |, or )\d\.\d+)*"
    r"|\b(?:16|32|64)(?:-bit\b|\sbits?\b)"
)

SUPERSCRIPT = re.compile("(?<=10)[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
PLAIN = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")

Figure = namedtuple("Figure", "text value digits unit hedged")


def figures(text):
    """Each figure in a text, in the order of the digits, then those in words."""
    text = SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(PLAIN), text)
    formulas = [match.span() for match in re.finditer(r"\$\$.+?\$\$|\$.+?\$|`[^`]+`", text, re.DOTALL)]
    for match in NUMBER.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        exponent = match["e"] or (match["ten"] and match["power"]) or "0"
        digits = match["whole"].replace(",", "") + (match["decimals"] or "")
        if match["power"] and not match["ten"]:
            if digits != "10":
                continue  # 3^4: mathematics, not a figure
            digits, exponent = "1", match["power"]
        inside = any(start < match.start() and match.end() < end for start, end in formulas)
        gap = GAP + (f"(?:{OUT})" if inside else "")
        units = ((name, re.match(f"{gap}(?:{unit})", after)) for name, unit in UNITS.items())
        unit, said = next(((name, found[0]) for name, found in units if found), (None, ""))
        if FACTOR.search(before):
            unit, said = "times", ""
        elif LABEL.search(before) and unit in HEADS | {"times"}:
            unit, said = None, ""  # "lesson 3 calls it"
        typed = " ".join((match[0] + said).split())
        significant = len(digits.replace(".", "").lstrip("0")) or 1
        yield Figure(typed, float(f"{digits}e{exponent}"), significant, unit, bool(HEDGE.search(before)))
    for match in WORDS.finditer(text):
        yield Figure(" ".join(match[0].split()), None, 0, "words", False)


class Support:
    """What notebooks print (without the timings, unless they are asked for), and what their code sets."""

    def __init__(self, notebooks, timings=False):
        self.measured, self.printed, self.constants, shares = set(), set(), set(), set()
        for cell in (cell for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code"):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                    self.constants.add(node.value)
            if timings or TIMING not in cell.metadata.get("tags", ()):
                text = "\n".join(printed(output) for output in cell.outputs)
                values = {figure for figure in figures(text) if figure.value is not None}
                self.printed |= {figure.value for figure in values}
                self.measured |= {(figure.value, figure.unit) for figure in values}
                heads = [unit for unit in HEADS if re.search(rf"\b{UNITS[unit]}", text)]
                self.measured |= {(figure.value, unit) for figure in values for unit in heads}
                if re.search("accuracy|share", text):
                    shares |= {100 * figure.value for figure in values}
        self.measured |= {(value, "%") for value in shares}

    def carries(self, figure):
        if figure.unit:
            found = {value for value, unit in self.measured if unit == figure.unit}
        elif figure.hedged:
            found = self.printed
        else:  # as typed, to the last digit
            return (figure.value <= SMALL and figure.value.is_integer()) or any(
                math.isclose(figure.value, value, rel_tol=1e-9) for value in self.printed | self.constants
            )
        if figure.unit == "words":
            return False
        # What says "about", or has a unit, may be rounded: to the digits that are typed.
        return f"{figure.value:.{figure.digits - 1}e}" in {
            f"{value:.{figure.digits - 1}e}" for value in found
        }


def printed(output):
    """The text of an output, without tags and styles; what stands in another line or field is no unit."""
    texts = [output.get("text", "")]
    for kind, text in output.get("data", {}).items():
        if kind.startswith("text/"):
            texts.append(html.unescape(re.sub(r"<style.*?</style>|<[^<>]*>", "\n", text, flags=re.DOTALL)))
    return "\n".join(texts).replace("\n", "\n| ")


def unsupported(source, support):
    """The figures in a piece of prose that nothing supports, as they are typed, with their units."""
    return [figure.text for figure in figures(ELSEWHERE.sub(" ", source)) if not support.carries(figure)]


@cache
def read(name):
    return nbformat.reads(PATHS[name].read_text(encoding="utf-8"), as_version=4)


@cache
def findings(page):
    """Each figure of a page that nothing on it supports, with its cell; in the README, its section."""
    if page == README:
        # What it says of speed comes from a notebook by a command, and a test holds it current.
        support = Support(map(read, PATHS), timings=True)
        support.constants.clear()  # it has no code
        sections = re.split(r"^#+ ", (ROOT / README).read_text(encoding="utf-8"), flags=re.MULTILINE)
        cells = [(section.partition("\n")[0], section) for section in sections]
    else:
        support = Support([read(page)])
        texts = [cell for cell in read(page).cells if cell.cell_type == "markdown"]
        # What stands between ``` is a program, and no prose.
        cells = [(cell.id, re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)) for cell in texts]
    return {(cell, text) for cell, source in cells for text in unsupported(source, support)}


def excepted(page, cell, text):
    """The exceptions that a figure falls under."""
    return {
        (pages, cells, text)
        for (pages, cells), (_, *texts) in EXCEPTIONS.items()
        if fnmatchcase(page, pages) and fnmatchcase(cell, cells) and text in texts
    }


@pytest.mark.parametrize("page", [*PATHS, README])
def test_every_figure_in_the_prose_comes_from_a_cell(page):
    assert not {finding for finding in findings(page) if not excepted(page, *finding)}


def test_every_exception_is_needed():
    used = set()
    for page in [*PATHS, README]:
        for finding in findings(page):
            used |= excepted(page, *finding)
    listed = {(*where, text) for where, (_, *texts) in EXCEPTIONS.items() for text in texts}
    assert listed == used


# The test itself: what it finds, and what it lets pass.

TIMING_ONLY = {"metadata": {"tags": [TIMING]}}
PAGE = new_notebook(
    cells=[
        new_code_cell("STEPS, RATE = 1250, 0.1"),
        new_code_cell(
            "compare()",
            outputs=[new_output("stream", text="accuracy 0.914, the rest within 1e-12 after 10,000 rounds")],
        ),
        new_code_cell(
            "stack()",
            outputs=[
                new_output(
                    "display_data",
                    {
                        "text/html": "<style>td {width: 26px}</style><table><th>frames<td>23</table>",
                        "image/png": "97.9+26",
                    },
                )
            ],
        ),
        new_code_cell("time()", **TIMING_ONLY, outputs=[new_output("stream", text="207 µs, 3.2 times, 5.6")]),
    ]
)

FOUND = {
    "It reads 97.9 % of the digits.": "97.9 %",
    r"It reads $97.9\,\%$ of them.": r"97.9\,\%",
    "PyTorch is 3.2 times as fast.": "3.2 times",
    "PyTorch is 3.2x faster.": "3.2x",
    "That is faster by a factor of 40.": "40",
    "It takes 12,345 steps.": "12,345",
    "From `fit` down there are about 26 frames.": "26 frames",
    "Below `fit` lie 9 stack frames.": "9 stack frames",
    "Each is a 26-frame call.": "26-frame",
    "The accuracy is 0.915.": "0.915",
    "The accuracy is .915.": ".915",
    "The loss ends near $0.1$.": "0.1",
    r"The loss is $L \approx 0.2143$.": "0.2143",
    "There are about 26 of them.": "26",
    "They agree to 3e-15.": "3e-15",
    "They agree to 3·10⁻¹⁵.": "3·10^-15",
    r"They agree to $3 \cdot 10^{-15}$.": r"3 \cdot 10^{-15}",
    "A step takes 207 µs.": "207 µs",
    "An epoch takes 3s.": "3s",
    "The import takes 740 MB.": "740 MB",
    "We add 7 lines.": "7 lines",
    "| Keras | 5.6 |": "5.6",
    "It prints `5.6`.": "5.6",
    "It takes about twice the time.": "twice the time",
    "It is ten times slower.": "ten times slower",
    "Over a loop that is a factor of thousands.": "factor of thousands",
    "It takes five seconds.": "five seconds",
    "It trains for 15 minutes.": "15 minutes",
    "| Keras | 26 |": "26",
}

PASSED = [
    "It reads 0.914 of them, which is 91.4 %, or about 0.91.",
    "`STEPS` is 1,250, at a rate of $0.1$.",
    "All within $10^{-12}$, or 10⁻¹², or `1e-12`, after 10,000 rounds.",
    "The stack has 23 frames.",
    "Lesson 3 calls it *ReLU*; at step 1 it is 0.",
    "Two matrices of 2 x 3, so $Z_1 = 2x + 1$ and $x^{2} + 3s$.",
    "Numbers of 64 bits are `float64`, those of 32-bit tools `float32`.",
    "*Adam* (Kingma and Ba, 2015), as in [lesson 3](03_mlp_numpy.ipynb#Part-77), needs Python 3.11 or 3.12.",
    "**It takes** about 25 minutes to read and less than a minute to run.",
    "**Minutes**, first reading and whole: NumPy 14, 24; Keras 13, 22; PyTorch 13, 22.",
    "| 1 | The product | 13–14, 22–24 | [NumPy](01_matmul_numpy.ipynb) |",
    "Which rows add up?\n15 minutes.",
    "We call it five times, and use it twice.",
]


@pytest.mark.parametrize("sentence", FOUND)
def test_a_typed_figure_is_found(sentence):
    assert unsupported(sentence, Support([PAGE])) == [FOUND[sentence]]


@pytest.mark.parametrize("sentence", PASSED)
def test_a_figure_that_a_cell_supports_passes(sentence):
    assert not unsupported(sentence, Support([PAGE]))


@pytest.mark.parametrize(
    "figure", ["97.9 %", "3.2 times", "12,345", "26 frames", "0.914", "2.6 ms", "9 lines"]
)
def test_a_figure_planted_in_a_lesson_is_found(figure):
    page = read("03_mlp_numpy")
    (cell,) = (cell for cell in page.cells if cell.id == "look-wrong-why")
    assert unsupported(cell.source, Support([page])) == []
    assert unsupported(f"{cell.source} That is {figure} in all.", Support([page])) == [figure]


def test_a_timing_supports_the_readme_only():
    assert unsupported("A step takes 207 µs.", Support([PAGE])) == ["207 µs"]
    assert unsupported("A step takes 207 µs.", Support([PAGE], timings=True)) == []
