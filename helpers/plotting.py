"""How the suite draws: one colour and one line style a tool, and the pictures that all lessons share.

Functions take an Axes, draw on it and return nothing. No framework is imported here.
"""

import io
import itertools
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL.Image import Quantize
from PIL.Image import open as open_image

# Okabe and Ito's colours: apart for colour-blind readers; the line styles keep them apart in print.
STYLES = {
    "NumPy": {"color": "#000000", "linestyle": "-"},
    "Keras": {"color": "#D55E00", "linestyle": "--"},
    "PyTorch": {"color": "#0072B2", "linestyle": "-."},
}

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "figure.figsize": (6.5, 2.7),
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "svg.hashsalt": "suite",
    }
)


def curve(ax: Axes, values: np.ndarray, tool: str, label: str | None = None, window: int = 25) -> None:
    """Draw one number a step in a tool's style: every step in pale, and the mean over `window` steps in full.

    Args:
        values: (steps,), in the unit of the y axis.
        tool: "NumPy", "Keras" or "PyTorch".
        window: how many steps a point of the full line averages; 1 draws the steps alone.
    """
    steps = np.arange(1, len(values) + 1)
    if window > 1:
        ax.plot(steps, values, color=STYLES[tool]["color"], alpha=0.2, linewidth=0.6)
        whole = len(values) // window * window
        steps = steps[:whole].reshape(-1, window).mean(axis=1)
        values = np.asarray(values)[:whole].reshape(-1, window).mean(axis=1)
    ax.plot(steps, values, label=label or tool, **STYLES[tool])


def loss_axes(ax: Axes, classes: int = 10) -> None:
    """Label a plot of training losses and mark the loss of guessing; the same limits everywhere."""
    ax.axhline(np.log(classes), color="gray", linewidth=1, linestyle=":")
    place = dict(ha="right", va="bottom", color="gray", transform=ax.get_yaxis_transform())
    ax.text(0.99, np.log(classes), f"guessing: ln {classes}", **place)
    ax.set(xlabel="training step", ylabel="loss of the batch", ylim=(0, 2.6))


def image_grid(
    ax: Axes, images: np.ndarray, columns: int, captions: list[str] | None = None, signed: bool = False
) -> None:
    """Draw images as one grid, row by row, each with its caption above it.

    Args:
        images: (count, height, width); grey levels, or `signed` numbers around 0 (red above, blue below).
        columns: images in a row.
        captions: one for each image.
        signed: one symmetric colour scale for all the images, 0 in white.
    """
    count, height, width = images.shape
    gap, top = 2, 9 if captions else 2
    rows = -(-count // columns)
    canvas = np.full((rows * (height + top), columns * (width + gap)), np.nan)
    for i, image in enumerate(images):
        y, x = i // columns * (height + top) + top, i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = image
        if captions:
            ax.text(x + width / 2, y - 1.5, captions[i], ha="center", va="bottom", fontsize=8)
    limit = np.nanmax(np.abs(canvas))
    # Few colours and whole pixels: noise in fine shades would make a file of half a megabyte.
    colours = plt.get_cmap("RdBu_r", 15) if signed else "gray_r"
    low = -limit if signed else 0
    ax.imshow(canvas, cmap=colours, vmin=low, vmax=limit, interpolation="nearest" if signed else "auto")
    ax.axis("off")


def confusion(ax: Axes, counts: np.ndarray) -> None:
    """Draw a confusion matrix with its counts; the diagonal stays white, so that errors stand out.

    Args:
        counts: (classes, classes) integers, row = the digit, column = the answer.
    """
    errors = np.where(np.eye(len(counts), dtype=bool) | (counts == 0), np.nan, counts)
    ax.imshow(errors, cmap="Oranges", vmin=0, vmax=1.5 * np.nanmax(errors, initial=1))
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            weight = "bold" if row == column else "normal"
            ax.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, weight=weight)
    ticks = range(len(counts))
    ax.set(xlabel="answer", ylabel="digit", xticks=ticks, yticks=ticks)
    ax.grid(False)


def graph(
    ax: Axes,
    nodes: dict,
    edges: list[tuple],
    tool: str,
    notes: dict | None = None,
    backwards: bool = False,
) -> None:
    """Draw a record of operations as boxes and arrows, from what was given to the result, left to right.

    Args:
        nodes: the text in each box, by any key.
        edges: (from, to) pairs of those keys, in the direction of the computation, without a cycle.
        tool: "NumPy", "Keras" or "PyTorch".
        notes: text to stand below some of the boxes, by key.
        backwards: let the arrows point against the computation, the way that gradients go.
    """
    users = {key: [end for start, end in edges if start == key] for key in nodes}
    column, row = {}, {}
    waiting = list(nodes)
    while waiting:  # a box stands one column left of the leftmost that uses it
        ready = [key for key in waiting if all(user in column for user in users[key])]
        for key in ready:
            column[key] = min((column[user] for user in users[key]), default=1) - 1
        waiting = [key for key in waiting if key not in column]
    for x in sorted(set(column.values()), reverse=True):  # and at the mean height of those, pushed apart
        wish = {key: np.mean([row[user] for user in users[key]] or [0]) for key in nodes if column[key] == x}
        order, height = sorted(wish, key=wish.get), -np.inf
        for key in order:
            row[key] = height = max(wish[key], height + 1)
        shift = np.mean([wish[key] - row[key] for key in order])
        row |= {key: row[key] + shift for key in order}

    color = STYLES[tool]["color"]
    box = dict(boxstyle="round,pad=0.35", facecolor="white", edgecolor=color)
    boxes = {
        key: ax.text(column[key], row[key], text, ha="center", va="center", fontsize=8, bbox=box)
        for key, text in nodes.items()
    }
    for key, text in (notes or {}).items():
        ax.text(column[key], row[key] + 0.36, text, ha="center", va="top", fontsize=8, weight="bold")
    style = dict(arrowstyle="-|>", color=color if backwards else "gray", shrinkA=0, shrinkB=0)
    for number, edge in enumerate(edges):
        bend = 0 if edges.count(edge) == 1 else 0.25 if edges.index(edge) == number else -0.25
        tail, tip = reversed(edge) if backwards else edge
        # From centre to centre, cut off at the boxes, which must be drawn first for that.
        ends = dict(patchA=boxes[tail].get_bbox_patch(), patchB=boxes[tip].get_bbox_patch(), zorder=4)
        arrow = dict(connectionstyle=f"arc3,rad={bend}", **style, **ends)
        ax.annotate("", (column[tip], row[tip]), (column[tail], row[tail]), arrowprops=arrow)
    bottom = max(row.values()) + (0.8 if notes else 0.4)
    ax.set(xlim=(min(column.values()) - 0.55, 0.55), ylim=(bottom, min(row.values()) - 0.4))
    ax.axis("off")


def graph_in_words(
    nodes: dict, edges: list[tuple], notes: dict | None = None, backwards: bool = False
) -> str:
    """Say what `graph` draws of the same nodes, edges and notes, for those who can't see it.

    A box is called by its first line, with the other lines in brackets.
    """
    names = {key: text.split("\n")[0] for key, text in nodes.items()}
    for key, text in nodes.items():
        rest = " ".join(text.split("\n")[1:]).strip("()")
        names[key] += f" ({rest})" if rest else ""
    word, said = "to" if backwards else "from", []
    for tip in dict.fromkeys(end for _, end in edges):
        tails = [names[start] for start, end in edges if end == tip]
        said.append(f"{names[tip]} {word} {' and '.join(tails)}")
    text = f"{len(nodes)} boxes, {len(edges)} arrows: {'; '.join(said)}."
    if notes:
        below = "; ".join(f"{names[key]}: {note}" for key, note in notes.items())
        text += f" Below the boxes stands {below}."
    return text


def call_stacks(ax: Axes, stacks: dict[str, list[tuple[str, str]]]) -> None:
    """Draw call stacks as towers, side by side: every frame a storey, standing on the one that called it.

    Args:
        stacks: for each tower its title and its frames, outermost first: whose code it is, and the name of
            the function. The frames of the owner "ours" are solid and carry their names; those of others
            are pale, and carry how many stand together.
    """
    colours = {"keras": STYLES["Keras"]["color"], "torch": STYLES["PyTorch"]["color"]}
    for x, frames in enumerate(stacks.values()):
        start = 0
        for owner, run in itertools.groupby(frames, key=lambda frame: frame[0]):
            names = [name for _, name in run]
            colour, count = colours.get(owner, "#777777"), len(names)
            for y in range(start, start + count):
                look = dict(color="#009E73") if owner == "ours" else dict(color=colour, alpha=0.35)
                ax.bar(x, 0.85, bottom=y, width=0.4, **look)
            labels = names if owner == "ours" else [f"{owner}, {count}"]
            for offset, label in enumerate(labels):
                y = start + offset + 0.42 if owner == "ours" else start + (count - 1) / 2 + 0.42
                weight = "bold" if owner == "ours" else "normal"
                ax.text(x + 0.23, y, label, va="center", fontsize=7, weight=weight)
            start += count
    ax.set_xticks(range(len(stacks)), stacks)
    top = max(map(len, stacks.values())) + 0.5
    ax.set(xlim=(-0.4, len(stacks) - 0.2), ylim=(0, top), ylabel="calls that have begun and not ended")
    ax.grid(False, axis="x")


def show(fig: Figure, alt: str) -> None:
    """Show a figure as a PNG that carries its description, and close it.

    Args:
        fig: a figure of few colours, such as lines, bars and digits: a palette of 256 takes a third of
            the bytes.
        alt: one or two sentences for those who can't see it: what it shows, with its numbers, which the
            page computes.

    Raises:
        ValueError: the description is missing, or a line or bar that is labelled with a tool's name isn't
            drawn in that tool's style.
    """
    if len(alt.split()) < 5:
        raise ValueError("a figure needs a description: one or two sentences, with its numbers")
    drawn = _drawn(fig)
    full, small = io.BytesIO(), io.BytesIO()
    fig.savefig(full, format="png", bbox_inches="tight")
    plt.close(fig)
    # The octree keeps rare colours; the default would turn a thin line brown.
    few = open_image(full).convert("RGB").quantize(256, method=Quantize.FASTOCTREE)
    few.save(small, format="png", optimize=True)
    # nbconvert and others read `alt`; `drawn` is for tests/test_pictures.py.
    display(Image(small.getvalue(), alt=alt), metadata={"image/png": {"drawn": drawn}})


def _show_all(*_, **__):
    """What `plt.show()` does in a notebook that imports this module: describe each figure, then show it."""
    for number in plt.get_fignums():
        fig = plt.figure(number)
        show(fig, " ".join(filter(None, map(_described, fig.axes))))


def _described(ax):
    title, x, y = ax.get_title("left") or ax.get_title(), ax.get_xlabel(), ax.get_ylabel()
    ends = [(line.get_label(), np.ravel(line.get_ydata())) for line in ax.lines]
    said = [f"{label} from {y[0]:.3g} to {y[-1]:.3g}" for label, y in ends if label[0] != "_" and len(y) > 1]
    for bars in ax.containers:
        heights = [bar.get_height() for bar in bars]
        said.append(f"{len(heights)} bars, the highest, {max(heights):.2f}, at {np.argmax(heights)}")
    said += ["an image of {} x {} pixels".format(*image.get_array().shape[:2]) for image in ax.images]
    said += [f"in it, {', '.join(text.get_text() for text in ax.texts)}"] if ax.texts else []
    head = f"{title}: " if title else ""
    return f"{head}{f'{y} against {x}: ' if x and y else ''}{'; '.join(said)}." if said or head else ""


if get_ipython():  # in a kernel; a plain program shows its windows as ever
    plt.show = _show_all


def _drawn(fig):
    """What stands in a figure, less its numbers: a line of text for each thing that is drawn."""
    said = []
    for ax in fig.axes:
        title = ax.get_title("left") or ax.get_title()
        labels = [title, ax.get_xlabel(), ax.get_ylabel(), f"{ax.get_xscale()}, {ax.get_yscale()}"]
        said.append("axes: " + " | ".join(labels))
        for line in ax.lines:
            label, colour = line.get_label(), to_hex(line.get_color()).upper()
            named = [tool for tool in STYLES if label == tool or label.startswith((f"{tool} ", f"{tool},"))]
            for tool in named:
                if colour != STYLES[tool]["color"]:
                    raise ValueError(f"the line {label!r} is drawn in {colour}, not in the colour of {tool}")
            label = "" if label.startswith("_") else label
            look = f"{colour} {line.get_linestyle()} {line.get_marker()}"
            said.append(f"line: {label} | {look} | {len(line.get_xdata())}")
        said += [f"image: {image.get_array().shape} {image.cmap.name}" for image in ax.images]
        patches = Counter(to_hex(patch.get_facecolor()).upper() for patch in ax.patches)
        said += [f"patches: {colour} | {count}" for colour, count in sorted(patches.items())]
        said += [f"{type(group).__name__}: {len(group.get_offsets())}" for group in ax.collections]
        said.append(f"texts: {len(ax.texts)}")
        if ax.get_legend():
            said.append("legend: " + " | ".join(text.get_text() for text in ax.get_legend().get_texts()))
    return said
