"""Every picture is the one on the page, and says in words what it shows.

A picture is compared by its pixels, less what another processor may round: the mean over 3 x 3 pixels,
which a moved line, a changed word or another colour alters far more. Pictures of timings, of
rounding errors and of float32 differ from run to run: of those, what is drawn, less its numbers.
"""

import base64
import io
import re

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.image import imread
from numpy.lib.stride_tricks import sliding_window_view

from helpers import plotting, runner

PATHS = {path.stem: path for path in runner.paths()}
TOLERANCE = 0.1  # of the way from black to white


def pictures(notebook):
    """Return {(cell id, number): (output, tags)} of the cells' pictures."""
    return {
        (cell.id, number): (output, set(cell.metadata.get("tags", ())))
        for cell in notebook.cells
        for number, output in enumerate(cell.get("outputs", ()))
        if "image/png" in output.get("data", {})
    }


def pixels(output):
    return imread(io.BytesIO(base64.b64decode(output.data["image/png"])))[..., :3]


def apart(one, other):
    """Return how far two pictures are apart where they are most, from 0 to 1."""
    if one.shape != other.shape:
        return 1.0
    return float(np.abs(sliding_window_view(one - other, (3, 3), axis=(0, 1)).mean(axis=(-1, -2))).max())


def said(output):
    return output.metadata.get("image/png", {})


def drawn_in(output, tags):
    """What is drawn, less its numbers; less those in words, too, where they are a run's or the machine's."""
    text = "\n".join(said(output).get("drawn", ()))
    text = runner.masked(text) if runner.FLOAT32 in tags else text
    return re.sub(r"\d+ threads?", "threads", text) if runner.TIMING in tags else text


@pytest.mark.parametrize("name", PATHS)
def test_pictures_are_those_on_the_page(ran, name):
    before, now = pictures(nbformat.read(PATHS[name], as_version=4)), pictures(ran(name).notebook)
    assert before.keys() == now.keys()
    for place, (old, tags) in before.items():
        new, _ = now[place]
        assert drawn_in(new, tags) == drawn_in(old, tags), place
        if not tags & {runner.TIMING, runner.LAST_DIGITS, runner.FLOAT32}:
            assert said(new).get("alt") == said(old).get("alt"), place
            assert apart(pixels(old), pixels(new)) < TOLERANCE, place


@pytest.mark.parametrize("name", PATHS)
def test_every_picture_says_what_it_shows(name):
    texts = {place: said(output).get("alt", "") for place, (output, _) in pictures(read(name)).items()}
    for place, text in texts.items():
        assert len(text.split()) >= 8 and text.endswith("."), place
    assert len(set(texts.values())) == len(texts)


def read(name):
    return nbformat.read(PATHS[name], as_version=4)


def drawn(draw):
    """The pixels of a figure of one Axes, on which `draw` has drawn."""
    fig, ax = plt.subplots(figsize=(5, 2.5), dpi=100)
    draw(ax)
    fig.canvas.draw()
    image = np.asarray(fig.canvas.buffer_rgba())[..., :3] / 255
    plt.close(fig)
    return image


LOSSES = 2.3 * np.exp(-np.arange(300) / 80) + 0.05 * np.sin(np.arange(300))


def curve(ax, values=LOSSES, tool="NumPy", guess=10, label=None, window=25, title=""):
    plotting.curve(ax, values, tool, label=label, window=window)
    plotting.loss_axes(ax, guess)
    ax.set_title(title)
    ax.legend()


def digits(ax, captions=("3→8", "5→6"), images=None):
    images = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 97 if images is None else images
    plotting.image_grid(ax, images, 2, list(captions))


def test_rounding_makes_no_other_picture():
    noise = 1 + 1e-12 * np.random.default_rng(0).standard_normal(300)
    assert apart(drawn(curve), drawn(lambda ax: curve(ax, LOSSES * noise))) < TOLERANCE / 10


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (curve, lambda ax: curve(ax, tool="Keras", label="NumPy")),
        (curve, lambda ax: curve(ax, label="Keras")),
        (curve, lambda ax: curve(ax, guess=9)),
        (curve, lambda ax: curve(ax, LOSSES * 1.03)),
        (curve, lambda ax: curve(ax, window=50)),
        (curve, lambda ax: curve(ax, title="After")),
        (digits, lambda ax: digits(ax, ("8→3", "5→6"))),
        (digits, lambda ax: digits(ax, ("5→6", "3→8"))),
        (digits, lambda ax: digits(ax, images=(np.arange(1568).reshape(2, 28, 28) % 97).swapaxes(1, 2))),
        (
            lambda ax: plotting.confusion(ax, np.array([[9, 2], [1, 8]])),
            lambda ax: plotting.confusion(ax, np.array([[9, 1], [2, 8]])),
        ),
    ],
    ids=[
        "another tool's colour",
        "another tool's name",
        "guessing at another height",
        "other data",
        "another window",
        "a title",
        "a caption turned round",
        "captions exchanged",
        "images transposed",
        "axes exchanged",
    ],
)
def test_another_picture_is_noticed(right, wrong):
    assert apart(drawn(right), drawn(wrong)) > TOLERANCE
