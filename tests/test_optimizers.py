"""What the sentences of lesson 4 say of its own outputs."""

import re

import numpy as np
import pytest

from helpers import lessons
from helpers.records import TOOLS

LESSONS = ("04_optimizers",)
PAGES = [f"04_optimizers_{tool}" for tool in TOOLS]


def gaps(text):
    """The rows of a table of gaps: {name: numbers}, a gap that is rounding as 0."""
    rows = {}
    for line in text.splitlines():
        found = re.findall(r"within \S+|\d\.\de-\d+", line)
        if found:
            name = line[: line.index(found[0])].strip().removesuffix(" gap")
            rows[name] = [0.0 if each.startswith("within") else float(each) for each in found]
    return rows


@pytest.mark.parametrize("page", PAGES)
def test_the_reading_of_the_table_is_right(ran, page):
    table = gaps(ran(page).text("one-name-table"))
    for name in ("momentum", "Nesterov"):  # one algorithm: the gap is gone
        shipped, left = table[name]
        assert 0 < shipped < 1e-5 and left == 0, name
    shipped, left = table["RMSprop"]  # mostly a default
    assert left < shipped / 5
    assert left > 1e-3  # what is left is the place of epsilon
    for name in ("Adam", "AdamW"):  # all of it
        shipped, left = table[name]
        assert left > shipped / 2, name
    shipped, left = table["Adam, weight_decay"]  # another algorithm
    assert left > 0.05 and left > shipped / 2


@pytest.mark.parametrize("page", PAGES)
def test_the_place_accounts_for_nearly_all_of_adams_gap(ran, page):
    left = [rows[1] for rows in gaps(ran(page).text("epsilon-dials")).values()]
    closed = -np.diff(left)
    assert closed.argmax() == 1 and closed[1] > 0.9 * left[0]  # the second change is the place
    assert left[-1] == 0
    grown = [*gaps(ran(page).text("epsilon-dials")).values()][2]
    assert grown[1] > grown[0] > 0  # even the rounding grows


@pytest.mark.parametrize("page", PAGES)
def test_who_shoots_past_and_who_is_first_is_there_to_see(ran, page):
    (cell,) = (cell for cell in ran(page).notebook.cells if cell.id == "paths-picture")
    (alt,) = (
        each.metadata["image/png"]["alt"] for each in cell.outputs if "metadata" in each and each.metadata
    )
    furthest = {name: float(x) for name, x in re.findall(r"(\w+) to \([^)]*\), x \S+ to (-?[\d.]+)[;.]", alt)}
    assert {name for name, x in furthest.items() if x > 0.05} == {"momentum", "Adam"}
    said = re.findall(r"(\w+) +is more than 0.1 away until step (\d+)", ran(page).text("paths-picture"))
    far = {name: int(step) for name, step in said}
    assert far.keys() == furthest.keys() and min(far, key=far.get) == "momentum"


def test_the_valley_is_walked_as_told():
    lesson = lessons.load("04_optimizers_numpy", until="decay-coupled")
    walk, sgd, (x, y) = lesson["walk"], lesson["SGD"], lesson["START"]
    limit = 2 / lesson["STEEP"]
    slow, fast, beyond = (walk(sgd, share * limit) for share in (0.2, 0.9, 1.05))
    assert (slow[:, 1] >= 0).all() and slow[-1, 0] < 0.4 * x  # it creeps
    assert (np.diff(np.sign(fast[:, 1])) != 0).all()  # from side to side
    assert abs(beyond[-1, 1]) > 10 * abs(y)  # y explodes
    little, much = (walk(lesson["Momentum"], 0.2 * limit, mu=mu)[:, 0] / x for mu in (0.5, 0.9))
    assert little.min() > 0 and little[-1] < slow[-1, 0] / x  # gets further, and doesn't shoot past
    assert much.min() < 0 < much[-1]  # shoots past, and comes back
    for mu in (0.5, 0.9):  # the limit with momentum
        at = [
            walk(lesson["Momentum"], share * 2 * (1 + mu) / lesson["STEEP"], mu=mu) for share in (0.95, 1.05)
        ]
        assert abs(at[0][-1, 1]) < 5 * abs(y) < 50 * abs(y) < abs(at[1][-1, 1])
    steady = np.zeros(1)
    optimizer = lesson["Momentum"]([steady], 1.0, mu=0.9)
    for _ in range(300):
        optimizer.step([np.zeros(1)], [np.ones(1)])
    assert optimizer.memory[0][0] == pytest.approx(10)  # 1/(1 - mu) times the gradient


@pytest.mark.parametrize(("kind", "rates"), [("RMSprop", 10), ("KerasRMSprop", 0.1**-0.5), ("Adam", 1)])
def test_the_first_step_is_so_many_rates(kind, rates):
    lesson = lessons.load("04_optimizers_numpy", until="keras-adam")
    w, g = np.zeros(3), np.array([-5.0, 40.0, 300.0])
    lesson[kind]([w], 0.01).step([w], [g])
    np.testing.assert_allclose(w, -0.01 * rates * np.sign(g), rtol=1e-6)


def test_coupled_decay_is_strong_where_gradients_are_small():
    lesson = lessons.load("04_optimizers_numpy", until="decay-coupled")
    w = np.ones(2)
    optimizer, rng = lesson["coupled"](lesson["Adam"])([w], 0.001), np.random.default_rng(0)
    for _ in range(500):
        optimizer.step([w], [rng.standard_normal(2) * [1e-4, 10]])
    assert w[0] < 0.7 and abs(w[1] - 1) < 0.1


@pytest.mark.parametrize("page", PAGES)
def test_what_the_comments_of_the_solutions_say(ran, page):
    rows = {
        line.split()[0]: line.split()[1:] for line in ran(page).text("exercise-modify-solution").splitlines()
    }
    assert len(set(rows["SGD"])) == 1 and rows["Adam"][0] == rows["Adam"][1] != rows["Adam"][2]
    without, warm = map(float, re.findall(r"losses: (\S+)", ran(page).text("exercise-build-solution")))
    assert warm > without  # it doesn't help


@pytest.mark.parametrize("page", PAGES)
def test_the_later_sections_say_what_they_print(ran, page):
    shares = [float(each) for each in re.findall(r"([\d.]+)%", ran(page).text("epsilon-share"))]
    assert shares[0] > shares[1] > 0
    assert gaps(ran(page).text("schedules-drop"))["momentum, and a drop:"][0] > 0.05  # a drop separates them
    clipped = re.findall(r"no clipping:? ([\d.]+)", ran(page).text("clipping-check"))
    assert len(clipped) >= 2 and all(float(each) > 0.01 for each in clipped)
    (lost,) = re.findall(r"without it: up to (\d+)%", ran(page).text("restart-run"))
    assert int(lost) >= 5
    assert all(gap[0] > 1e-3 for gap in gaps(ran(page).text("others-table")).values())


def test_the_average_is_compared_with_the_last_weights(ran):
    said = {page: re.findall(r"loss ([\d.]+)", ran(page).text("average-run")) for page in PAGES}
    assert len({tuple(each) for each in said.values()}) == 1 and len(said[PAGES[0]]) == 2


def test_the_share_is_of_weights_that_had_a_gradient(ran):
    lesson = lessons.load("04_optimizers_numpy", until="lesson-3")
    kind = lessons.load("04_optimizers_numpy", until="keras-adam")["KerasAdam"]
    params = [w.copy() for w in lesson["start"]]
    optimizer, mlp = kind(params, lesson["SMALL"]), lesson["lesson3"]
    mlp["train"](params, optimizer.step, lesson["batches"])
    used = (mlp["X_train"][lesson["batches"].ravel()] > 0).any(axis=0)  # blank pixels have no gradient
    v = optimizer.memory[0][1]
    assert not v[~used].any()
    v_hat = v[v != 0] / (1 - 0.999**optimizer.t)
    for tool, epsilon in {"Keras": 1e-7 / (1 - 0.999**optimizer.t) ** 0.5, "PyTorch": 1e-8}.items():
        share = np.mean(epsilon / np.sqrt(v_hat) > 0.01)
        for page in PAGES:
            assert f"{tool}: {share:.1%}" in ran(page).text("epsilon-share")


def test_in_short_validates_on_what_was_held_back():
    source = [cell.source for cell in lessons.cells("04_optimizers_numpy") if cell.id.startswith("in-short-")]
    program = "\n".join([*source[:2], source[2].partition("fig, ax")[0]])
    scope = {}
    exec(program, scope)
    before = list(scope["validation"](scope["SGD"], 0.1))
    scope["X_val"] = np.zeros_like(scope["X_val"])
    after = list(scope["validation"](scope["SGD"], 0.1))
    assert before != after
    assert not {row.tobytes() for row in scope["X"][:100]} & {row.tobytes() for row in scope["X_val"][:1]}


@pytest.mark.parametrize("page", PAGES)
def test_each_walker_has_its_own_name(page):
    (source,) = (cell.source for cell in lessons.cells(page) if cell.id == "paths-picture")
    walkers = re.findall(r'"(\w+)"(?:\] =|:) walk\((\w+)', source) + re.findall(
        r'"(SGD)": walk\((\w+)', source
    )
    assert len({name for name, _ in walkers}) == 5
    assert all(name.lower() == kind.lower() for name, kind in walkers)


def test_the_valley_is_drawn_as_it_is(monkeypatch):
    lesson = lessons.load("04_optimizers_numpy", until="valley-walk", also=["valley-draw"])
    figures = []
    monkeypatch.setattr(lesson["plotting"], "show", lambda fig, alt: figures.append(fig))
    lesson["draw"]({"slow": lesson["walk"](lesson["SGD"], 0.01)})
    (contours,) = (each for each in figures[0].axes[0].collections if hasattr(each, "levels"))
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        if len(path.vertices):
            x, y = path.vertices.T
            np.testing.assert_allclose((x**2 + lesson["STEEP"] * y**2) / 2, level, rtol=0.02)
    lesson["plt"].close(figures[0])
