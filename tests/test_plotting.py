"""The pictures that lessons share: what is drawn where, in whose colour, and under which words."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import imread

from helpers import plotting, records


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def places(ax):
    """Return {text: (x, y)} of the texts of an Axes."""
    return {text.get_text(): text.get_position() for text in ax.texts}


def test_tools_can_be_told_apart():
    assert list(plotting.STYLES) == list(records.TOOLS.values())
    colours = {"NumPy": "#000000", "Keras": "#D55E00", "PyTorch": "#0072B2"}
    assert {tool: style["color"] for tool, style in plotting.STYLES.items()} == colours
    for key in ("color", "linestyle"):
        assert len({style[key] for style in plotting.STYLES.values()}) == 3


@pytest.mark.parametrize("tool", plotting.STYLES)
def test_curve_is_in_the_tools_style_and_averages_windows(ax, tool):
    plotting.curve(ax, np.arange(7.0), tool, window=2)
    pale, full = ax.get_lines()
    np.testing.assert_array_equal(pale.get_xydata(), np.transpose([np.arange(1, 8), np.arange(7)]))
    np.testing.assert_array_equal(full.get_xydata(), [[1.5, 0.5], [3.5, 2.5], [5.5, 4.5]])
    assert pale.get_alpha() < 0.5 and full.get_alpha() is None
    assert pale.get_label().startswith("_") and full.get_label() == tool
    style = plotting.STYLES[tool]
    assert {pale.get_color(), full.get_color()} == {style["color"]}
    assert full.get_linestyle() == style["linestyle"]


def test_steps_alone_where_the_window_is_one(ax):
    plotting.curve(ax, np.arange(3.0), "NumPy", label="mine", window=1)
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0], [2, 1], [3, 2]])
    assert line.get_label() == "mine"


@pytest.mark.parametrize("classes", [10, 3])
def test_guessing_is_at_the_logarithm_of_the_classes(ax, classes):
    plotting.loss_axes(ax, classes)
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [np.log(classes)] * 2)
    assert places(ax) == {f"guessing: ln {classes}": (0.99, np.log(classes))}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == (
        "training step",
        "loss of the batch",
        (0, 2.6),
    )
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize("signed", [False, True])
def test_image_grid_places_images_row_by_row_each_under_its_caption(ax, signed):
    images = np.arange(1.0, 4)[:, None, None] + np.array([[0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    plotting.image_grid(ax, images, columns=2, captions=["a", "b", "c"], signed=signed)
    (shown,) = ax.get_images()
    canvas = shown.get_array().filled(0)
    assert np.count_nonzero(canvas) == images.size
    for image, caption in zip(images, "abc", strict=True):
        y, x = np.argwhere(canvas == image[0, 0])[0]
        np.testing.assert_array_equal(canvas[y : y + 2, x : x + 3], image)
        left, bottom = places(ax)[caption]
        assert x <= left <= x + 3 and y - 3 < bottom < y
    corners = [np.argwhere(canvas == image[0, 0])[0] for image in images]
    assert corners[0][0] == corners[1][0] < corners[2][0]
    assert corners[0][1] == corners[2][1] < corners[1][1]
    low, high = shown.get_clim()
    assert high == images.max() and low == (-high if signed else 0)
    dark, pale = (np.mean(shown.cmap(level)[:3]) for level in (1.0, 0.5 if signed else 0.0))
    assert dark < pale
    red, _, blue, _ = shown.cmap(1.0)
    assert (red > blue) == signed


def test_a_confusion_matrix_has_the_digit_in_rows_and_the_answer_in_columns(ax):
    counts = np.array([[9, 1, 0], [4, 8, 2], [0, 3, 7]])
    plotting.confusion(ax, counts)
    assert places(ax) == {str(counts[y, x]): (x, y) for y, x in np.ndindex(3, 3) if counts[y, x]}
    (shown,) = ax.get_images()
    np.testing.assert_array_equal(shown.get_array().filled(0), counts * (1 - np.eye(3)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("answer", "digit")
    assert shown.get_clim()[0] == 0 < shown.get_clim()[1]
    weights = {text.get_text(): text.get_weight() for text in ax.texts}
    assert {text for text, weight in weights.items() if weight == "bold"} == {"9", "8", "7"}


@pytest.mark.parametrize("backwards", [False, True])
def test_a_graph_runs_from_left_to_right_and_its_arrows_as_told(ax, backwards):
    nodes, edges = {"x": "x", "f": "square", "g": "plus"}, [("x", "f"), ("f", "g"), ("x", "g")]
    plotting.graph(ax, nodes, edges, "PyTorch", notes={"x": "6"}, backwards=backwards)
    at = {key: places(ax)[text] for key, text in nodes.items()}
    assert at["x"][0] < at["f"][0] < at["g"][0]
    arrows = [(text.xyann, text.xy) for text in ax.texts if not text.get_text()]
    ends = [(at[start], at[end]) for start, end in edges]
    assert arrows == [pair[::-1] for pair in ends] if backwards else arrows == ends
    assert places(ax)["6"][0] == at["x"][0]
    assert abs(places(ax)["6"][1] - at["x"][1]) < 0.5


def test_what_plain_programs_draw_is_said_in_words():
    fig, (lines, image, bars) = plt.subplots(1, 3)
    lines.plot([1, 2], [0.8, 0.25], label="training")
    lines.set(xlabel="epoch", ylabel="loss")
    image.imshow(np.zeros((2, 3)))
    image.set_title("a 7")
    image.text(0, 0, "19")
    bars.bar(range(3), [0.1, 0.7, 0.2])
    said = [plotting._described(ax) for ax in fig.axes]
    plt.close(fig)
    assert said[0] == "loss against epoch: training from 0.8 to 0.25."
    assert said[1] == "a 7: an image of 2 x 3 pixels; in it, 19."
    assert said[2] == "3 bars, the highest, 0.70, at 1."


def test_a_graph_is_said_in_words():
    nodes, edges = {"x": "x\n2", "f": "square", "g": "plus\n(3,)"}, [("x", "f"), ("f", "g"), ("x", "g")]
    assert plotting.graph_in_words(nodes, edges) == (
        "3 boxes, 3 arrows: square from x (2); plus (3,) from square and x (2)."
    )
    assert plotting.graph_in_words(nodes, edges, {"f": "d = 1"}, backwards=True) == (
        "3 boxes, 3 arrows: square to x (2); plus (3,) to square and x (2). "
        "Below the boxes stands square: d = 1."
    )


def test_call_stacks_stand_on_their_callers(ax):
    frames = [("ours", "main"), ("keras", "fit"), ("keras", "step"), ("ours", "call")]
    plotting.call_stacks(ax, {"Keras": frames, "NumPy": [("ours", "main")]})
    heights = [(bar.get_x() + bar.get_width() / 2, bar.get_y()) for bar in ax.patches]
    np.testing.assert_allclose(heights, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)])
    solid = [bar.get_alpha() is None for bar in ax.patches]
    assert solid == [True, False, False, True, True]
    texts = [(text.get_text(), text.get_position()[1]) for text in ax.texts if text.get_position()[0] < 1]
    assert [text for text, _ in sorted(texts, key=lambda pair: pair[1])] == ["main", "keras, 2", "call"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Keras", "NumPy"]


def test_show_keeps_the_colours_and_saves_bytes(monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "display", lambda image, metadata: shown.append(image))
    fig, ax = plt.subplots()
    plotting.curve(ax, np.random.default_rng(0).random(300), "NumPy")
    ax.axhline(0.5, linewidth=3, color=plotting.STYLES["Keras"]["color"])
    full = io.BytesIO()
    fig.savefig(full, format="png", bbox_inches="tight")
    plotting.show(fig, "Noise, and a line through the middle of it.")
    assert not plt.fignum_exists(fig.number)
    (image,) = shown
    assert len(image.data) < 0.6 * len(full.getvalue())
    drawn, before = (imread(io.BytesIO(data))[..., :3] for data in (image.data, full.getvalue()))
    assert drawn.shape == before.shape and np.abs(drawn - before).max() < 0.1
    orange = np.array([0xD5, 0x5E, 0x00]) / 255
    assert np.abs(drawn - orange).max(axis=-1).min() < 0.02


def test_pictures_carry_their_description(monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "display", lambda image, metadata: shown.append((image, metadata)))
    fig, ax = plt.subplots()
    plotting.curve(ax, np.ones(50), "Keras")
    ax.legend()
    plotting.show(fig, "A flat line at 1, over fifty steps.")
    image, metadata = shown[0]
    assert image.alt == "A flat line at 1, over fifty steps."
    drawn = metadata["image/png"]["drawn"]
    assert "line: Keras | #D55E00 -- None | 2" in drawn and "legend: Keras" in drawn
    assert not plt.get_fignums()

    with pytest.raises(ValueError, match="needs a description"):
        plotting.show(plt.figure(), "A line.")
    fig, ax = plt.subplots()
    ax.plot([1, 2], label="NumPy, float32", color=plotting.STYLES["PyTorch"]["color"])
    with pytest.raises(ValueError, match="not in the colour of NumPy"):
        plotting.show(fig, "A line from 1 to 2, in another's colour.")
    plt.close("all")
