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
    assert left > 1e-3  # what is left is the place of epsilon: all settings are equal
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


@pytest.fixture(scope="module")
def valley():
    return lessons.load("04_optimizers_numpy", until="adam-define", also=["paths-search"])


def test_the_search_is_the_same_for_all_and_ends_inside(valley):
    starts, rates, steep = valley["starts"], valley["rates"], valley["STEEP"]
    heights = (starts**2 * [1, steep]).sum(axis=1)
    x, y = valley["START"]
    np.testing.assert_allclose(heights, x**2 + steep * y**2)  # as high as START
    assert len(rates) == 15 and starts.shape == (8, 2) and len(np.unique(np.abs(starts), axis=0)) == 8
    for kind in ("SGD", "Momentum", "Nesterov", "RMSprop", "Adam"):
        found = []
        for rate in rates:  # each start on its own
            with np.errstate(over="ignore"):
                walks = [valley["walk"](valley[kind], rate, start) ** 2 * [1, steep] for start in starts]
                found.append(np.mean(walks))
        assert rates[0] < valley["best"](valley[kind]) == rates[np.argmin(found)] < rates[-1], kind


@pytest.mark.parametrize("page", PAGES)
def test_who_shoots_past_and_who_is_first_is_there_to_see(ran, page, valley):
    (cell,) = (cell for cell in ran(page).notebook.cells if cell.id == "paths-picture")
    (alt,) = (
        each.metadata["image/png"]["alt"] for each in cell.outputs if "metadata" in each and each.metadata
    )
    furthest = {name: float(x) for name, x in re.findall(r"(\w+) to \([^)]*\), x \S+ to (-?[\d.]+)[;.]", alt)}
    assert {name for name, x in furthest.items() if x > 0.05} == {"Momentum", "Nesterov", "Adam"}
    assert min(("Momentum", "Nesterov", "Adam"), key=furthest.get) == "Nesterov"
    said = re.findall(r"(\w+) +at ([\d.]+): from step (\d+)$", ran(page).text("paths-picture"), re.MULTILINE)
    steps = {name: int(step) for name, _, step in said}
    assert steps.keys() == furthest.keys() and len(said) == 5 and min(steps, key=steps.get) == "RMSprop"
    for name, rate, step in said:
        path = valley["walk"](valley[name], valley["best"](valley[name]))
        assert f"{valley['best'](valley[name]):.3f}" == rate
        assert f"{name} to {tuple((path[-1].round(2) + 0.0).tolist())}, x " in alt
        away = [
            np.hypot(*valley["walk"](valley[name], valley["best"](valley[name]), start).T)
            for start in valley["starts"]
        ]
        late = np.max(away, axis=0)
        assert late[int(step) - 1] > 0.1 and (late[int(step) :] <= 0.1).all()


def test_the_long_memory_comes_to_rest_and_the_short_one_bounces():
    lesson = lessons.load("04_optimizers_numpy", until="rmsprop-define")
    long, short = (lesson["walk"](lesson["RMSprop"], 0.2, rho=rho) for rho in (0.99, 0.9))
    away = [np.hypot(*path[len(path) // 2 :].T).max() for path in (long, short)]
    assert away[0] < 0.01 < 0.1 < away[1]
    last = short[len(short) // 2 :, 1]
    assert (np.sign(last[1:]) != np.sign(last[:-1])).mean() > 0.5  # round the middle
    with_average = lesson["walk"](lessons.load("04_optimizers_numpy", until="adam-define")["Adam"], 0.2)
    assert np.hypot(*with_average[-1]) < away[1]


def test_the_valley_is_walked_as_told():
    lesson = lessons.load("04_optimizers_numpy", until="decay-define")
    walk, sgd, (x, y) = lesson["walk"], lesson["SGD"], lesson["START"]
    limit = 2 / lesson["STEEP"]
    slow, fast, beyond = (walk(sgd, share * limit) for share in (0.2, 0.9, 1.05))
    assert (slow[:, 1] >= 0).all() and slow[40, 0] < 0.4 * x  # it creeps
    assert (np.diff(np.sign(fast[:, 1])) != 0).all()  # from side to side
    assert abs(beyond[-1, 1]) > 10 * abs(y)  # y explodes
    little, much = (walk(lesson["Momentum"], 0.2 * limit, mu=mu)[:, 0] / x for mu in (0.5, 0.9))
    assert little.min() > 0 and little[-1] < slow[-1, 0] / x  # gets further, and doesn't shoot past
    assert much.min() < -0.1 and abs(much[-1]) < 0.1  # shoots past, and comes back
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
    lesson = lessons.load("04_optimizers_numpy", until="decay-define")
    w = np.ones(2)
    optimizer, rng = lesson["coupled"](lesson["Adam"])([w], 0.001), np.random.default_rng(0)
    for _ in range(500):
        optimizer.step([w], [rng.standard_normal(2) * [1e-4, 10]])
    assert w[0] < 0.7 and abs(w[1] - 1) < 0.1


@pytest.mark.parametrize("page", PAGES)
def test_what_the_comments_of_the_solutions_say(ran, page):
    lines = ran(page).text("exercise-modify-solution").splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if ":" not in line}
    assert len(set(rows["SGD"])) == 1 and rows["Adam"][0] == rows["Adam"][1] != rows["Adam"][2]
    without, warm = map(float, re.findall(r"losses: (\S+)", ran(page).text("exercise-build-solution")))
    assert warm > without  # it doesn't help
    assert (
        len(
            re.findall(
                "in the loss and coupled: (?:within|identical)", ran(page).text("exercise-modify-solution")
            )
        )
        == 2
    )


@pytest.mark.parametrize("page", PAGES)
def test_the_later_sections_say_what_they_print(ran, page):
    shares = [float(each) for each in re.findall(r"([\d.]+)%", ran(page).text("epsilon-share"))]
    assert shares[0] > shares[1] > 0
    assert gaps(ran(page).text("schedules-drop"))["momentum, and a drop:"][0] > 0.05  # a drop separates them
    clipped = re.findall(r"no clipping:? ([\d.]+)", ran(page).text("clipping-check"))
    assert len(clipped) >= 2 and all(float(each) > 0.01 for each in clipped)
    (lost,) = re.findall(r"without them: up to (\d+)%", ran(page).text("restart-run"))
    assert int(lost) >= 5
    assert all(gap[0] > 1e-3 for gap in gaps(ran(page).text("others-table")).values())


def test_the_average_is_compared_with_the_last_weights(ran):
    said = {page: re.findall(r"loss ([\d.]+)", ran(page).text("average-run")) for page in PAGES}
    assert len({tuple(each) for each in said.values()}) == 1 and len(said[PAGES[0]]) == 2
    last, average = map(float, said[PAGES[0]])
    assert average < last  # as the comment says


@pytest.mark.parametrize("page", PAGES)
def test_five_seeds_say_what_other_cells_say_of_them(ran, page):
    rows = re.findall(r"(\S+) +SGD ([\d.]+) momentum ([\d.]+) Adam ([\d.]+)", ran(page).text("seeds-run"))
    assert [name for name, *_ in rows] == [*"01234", "mean"]
    *losses, mean = np.array([row for _, *row in rows], float)
    sgd, momentum, adam = np.transpose(losses)
    assert (momentum < sgd).all()  # the paths: on the digits, it beats SGD
    np.testing.assert_allclose(mean, np.mean(losses, axis=0), atol=2e-3)
    # Another seed changes Adam's loss more than the other tool's epsilon does.
    own, _ = gaps(ran(page).text("one-name-table"))["Adam"]
    assert adam.max() / adam.min() - 1 > own


def test_in_short_disagrees_from_tool_to_tool(ran):
    first = {}
    for page in PAGES:
        cell = "in-short-fit" if page.endswith("keras") else "in-short-train"
        ends = re.findall(r"(\w+) +validation loss \S+ (\S+)", ran(page).text(cell))
        first[page] = min(ends, key=lambda each: float(each[1]))[0].lower()
    assert len(set(first.values())) > 1


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
            assert f"{tool}: {share:.1%}, with {epsilon:.1e}" in ran(page).text("epsilon-share")


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
    (source,) = (cell.source for cell in lessons.cells(page) if cell.id == "momentum-picture")
    assert 'f"momentum {mu}"] = walk(Momentum, slow, mu=mu)' in source and '"SGD": walk(SGD, slow)' in source


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
