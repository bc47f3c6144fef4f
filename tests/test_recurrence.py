"""Lesson 7 by other means: what its pictures and tables show, what its sentences say of them, its checks."""

import contextlib
import io
import itertools
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from helpers import benchmark, lessons, plotting, records
from helpers.records import TOOLS

PAGES = [f"07_recurrence_{tool}" for tool in TOOLS]


def cell(page, cell_id):
    (found,) = (cell for cell in lessons.cells(page) if cell.id == cell_id)
    return found


def printed(page, cell_id):
    return "".join(output.get("text", "") for output in cell(page, cell_id).outputs)


def alternative(page, cell_id):
    """What a picture says of itself."""
    outputs = cell(page, cell_id).outputs
    (said,) = (each.metadata["image/png"]["alt"] for each in outputs if each.get("metadata"))
    return said


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", text)]


@pytest.fixture(scope="module")
def numpys():
    return lessons.load("07_recurrence_numpy", until="variants-two")


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


def by_hand(torch, X, params):
    """The states of either network after each row, which PyTorch can differentiate: [(h,)] or [(h, c)]."""
    W, U, b, *_ = params
    n, size = len(X), U.shape[0]
    h, c, states = torch.zeros(n, size, dtype=W.dtype), torch.zeros(n, size, dtype=W.dtype), []
    for row in range(X.shape[1]):
        Z = X[:, row] @ W + h @ U + b
        if U.shape[1] == size:
            h = torch.tanh(Z)
            states.append((h,))
        else:
            i, f, g, o = Z.split(size, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            c = c.clone()  # the road to the next row, apart from h
            states.append((h, c))
    return states


def trained(page, name):
    record = records.load(page)
    return [record[f"{name}_{letter}"] for letter in "WUbVv"]


# The pictures


@pytest.mark.parametrize("page", PAGES)
def test_the_digit_grows_by_the_rows_that_its_captions_say(monkeypatch, page):
    seen = []
    monkeypatch.setattr(plotting, "image_grid", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(plotting, "show", lambda fig, alt: seen.append(alt))
    scope = lessons.load(page, until="setup-imports")
    exec(cell(page, "data-picture").source, scope)
    scope["plt"].close("all")
    (_, images, _, captions), said = seen
    whole = scope["x_test"][scope["SHOWN"]]
    for image, caption in zip(images, captions, strict=True):
        count = int(caption.split()[0])
        assert caption == f"{count} rows" and f"{count}" in said
        assert np.array_equal(image[:count], whole[:count]) and not image[count:].any()
    assert whole[: int(captions[0].split()[0])].any(), "or one row less would look the same"


@pytest.mark.parametrize("page", PAGES)
def test_the_beliefs_are_those_about_the_digit_beside_them(torch, page):
    (x_test, y_test) = (
        lessons.load(page, until="arrays")["x_test"],
        lessons.load(page, until="arrays")["y_test"],
    )
    (shown,) = re.findall(r"SHOWN = (\d+)", cell(page, "data-picture").source)
    params = [torch.from_numpy(w) for w in trained(page, "LSTM")]
    states = by_hand(torch, torch.from_numpy(x_test / 255), params)
    P = torch.stack([torch.softmax(h @ params[3] + params[4], dim=1) for h, _ in states]).numpy()
    mine, said = P[:, int(shown)], alternative(page, "look-picture")
    best = ", ".join(f"{row}: {mine[row - 1].argmax()}" for row in range(4, 29, 4))
    assert said.startswith(f"A {y_test[int(shown)]}, ")
    assert f"row {best}; there at {mine[-1].max():.2f}." in said
    assert mine[-1].argmax() == y_test[int(shown)], "it is read in the end"
    right = (P.argmax(axis=-1) == y_test).mean(axis=1)
    rows = re.findall(r"after row (\d+): (\S+) are right", printed(page, "look-run"))
    assert [float(share) for _, share in rows] == [round(right[int(row) - 1], 3) for row, _ in rows]
    assert max(right[:16]) < 0.2 < 0.5 < right[-1], "for most of the page, hardly better than chance"


@pytest.mark.parametrize("page", PAGES)
def test_the_lengths_of_gradients_are_those_that_pytorch_finds(torch, numpys, page):
    X, y = torch.from_numpy(numpys["X_test"][:100]), torch.from_numpy(numpys["y_test"][:100]).long()
    W, U, *rest = numpys["draw_start"]()
    lines = {f"{k} U": [W, k * U, *rest] for k in (0.5, 1.0, 1.5)}
    lines["trained"] = trained(page, "RNN")
    both = {"before": numpys["draw_start"](4, forget=1.0), "after": trained(page, "LSTM")}
    found = {}
    for name, params in (lines | both).items():
        params = [torch.from_numpy(w).requires_grad_() for w in params]
        states = by_hand(torch, X, params)
        S = states[-1][0] @ params[3] + params[4]
        loss = torch.nn.functional.cross_entropy(S, y, reduction="sum")
        for place, letter in enumerate(["h", "c"][: len(states[0])]):
            each = [state[place] for state in states]
            grads = torch.autograd.grad(loss, each, retain_graph=True, allow_unused=True)
            lengths = np.array([0 if g is None else g.norm(dim=1).mean().item() for g in grads])
            found[name if name in lines else f"d{letter} {name}"] = lengths
    order = [*lines, "dh before", "dc before", "dh after", "dc after"]
    np.testing.assert_allclose(
        records.load(page)["influence"], [found[name] for name in order], rtol=1e-9, atol=1e-12
    )
    said = alternative(page, "memory-picture")
    for name in order:
        assert f"{name} {found[name][0]:.0e} to {found[name][-2]:.0e}" in said, name
    # What the page reads from it.
    assert found["0.5 U"][0] < 1e-6 * found["0.5 U"][-1]
    assert found["1.5 U"][0] > 10 * found["1.5 U"][-1]
    assert 1e-3 < found["1.0 U"][0] < found["1.0 U"][-2] / 10, "it shrinks, and less than half of U"
    for name in ("1.0 U", "dh before", "dc before"):
        assert found[name][7] < found[name][-2] / 10, name
    for name in ("trained", "dh after", "dc after"):  # from the first strokes to the last row but one
        assert max(found[name][7:27]) < 2 * min(found[name][7:27]), f"{name} is not nearly level"
    inked = (
        (numpys["X_test"][:, :8] > 0).any(axis=(1, 2)).mean(),
        (numpys["X_test"][:, :4] > 0).any(axis=(1, 2)).mean(),
    )
    assert inked[0] > 0.95 and inked[1] < 0.2, "not about row 8"
    text = cell(page, "memory-read").source
    assert "The plain one has opened the way, too." in text
    assert "nearly level from row 8, when nearly every digit has begun" in text


@pytest.mark.parametrize("page", PAGES)
def test_the_forget_gates_are_those_of_the_formula(torch, numpys, page):
    X = torch.from_numpy(numpys["X_test"])
    y = torch.from_numpy(numpys["y_test"]).long()
    found, left = [], 0
    for params in (numpys["draw_start"](4, forget=1.0), trained(page, "LSTM")):
        W, U, b, V, v = (torch.from_numpy(w) for w in params)
        after = [h for h, _ in by_hand(torch, X, [W, U, b])]
        before = [torch.zeros_like(after[0]), *after[:-1]]
        f = torch.stack([torch.sigmoid(X[:, k] @ W + h @ U + b)[:, 64:128] for k, h in enumerate(before)])
        found.append(f.mean(dim=(1, 2)).numpy())
        left = f[8:].prod(dim=0).mean(dim=0).max().item()
    np.testing.assert_allclose(records.load(page)["forget"], found, rtol=1e-9)

    def with_gates(gates):  # (28, 1 or n, 64)
        h = c = torch.zeros(len(X), 64, dtype=X.dtype)
        for k in range(28):
            i, _, g, o = (X[:, k] @ W + h @ U + b).chunk(4, dim=1)
            c = gates[k] * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return ((h @ V + v).argmax(dim=1) == y).double().mean().item()

    own, mean = with_gates(f), with_gates(f.mean(dim=1, keepdim=True))
    start = with_gates(torch.full((28, 1, 64), 1 / (1 + np.exp(-1)), dtype=X.dtype))
    assert numbers(printed(page, "forget-run")) == pytest.approx([left, own, mean, start], abs=0.0051)
    assert left < 0.1, "they let much through"
    assert own - 0.04 < mean < own and start < mean - 0.05
    text = cell(page, "forget-read").source
    assert "On its own, $f$ lets little of any number through from row 8 to the end." in text
    assert "the LSTM reads nearly as well; with those of the start, worse" in text
    assert "So what is forgotten was decided in training, and hardly by the digit at hand." in text
    assert "with their mean gates, the LSTM reads nearly as well" in cell(page, "key-points").source


def source_of_styles(page):
    """The look of each line of the picture of gradients, as it is drawn."""
    scope = lessons.load(page, until="setup-imports")
    scope["influences"] = {name: np.ones(28) for name in ("0.5 U", "1.0 U", "1.5 U")}
    scope["influences"]["trained"] = np.ones(28)
    scope["influences"] |= {f"{d} {when}": np.ones(28) for when in ("before", "after") for d in ("dh", "dc")}
    figures = []
    scope["plotting"] = type("", (), {"show": staticmethod(lambda fig, alt: figures.append(fig))})
    exec(cell(page, "memory-picture").source, scope)
    lines = {line.get_label(): line for ax in figures[0].axes for line in ax.lines}
    scope["plt"].close("all")
    return lines


def test_before_and_after_have_a_colour_each_and_c_a_solid_line():
    lines = source_of_styles(PAGES[0])
    assert len(lines) == 8
    for when in ("before", "after"):
        assert lines[f"dh {when}"].get_color() == lines[f"dc {when}"].get_color()
        assert (lines[f"dh {when}"].get_linestyle(), lines[f"dc {when}"].get_linestyle()) == (":", "-")
    assert lines["dc before"].get_color() != lines["dc after"].get_color()
    plain = (*(f"{k} U" for k in (0.5, 1.0, 1.5)), "trained")
    assert len({lines[name].get_color() for name in plain}) == 4


# Chaos


class Asked:
    """Stands in for `run`: it notes what it is asked, and two runs are never the same."""

    def __init__(self):
        self.calls = []

    def __call__(self, kind, params, batches, *rest, **more):
        self.calls.append((kind, np.array(batches), rest, more))
        return np.full(5, 1.0 + len(self.calls)), len(self.calls)


@pytest.mark.parametrize("page", PAGES)
def test_the_second_run_has_the_same_batches_back_to_front(numpys, page):
    scope = dict(run=Asked(), np=np, start=None, batches=numpys["batches"], held=(None, None))
    scope["gradient_at"] = lambda kind, params: [np.ones(1)]
    for name in ("train-gap", "train-run", "train-clip"):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(cell(page, name).source, scope)
    epoch, calls = numpys["batches"][0], scope["run"].calls
    assert [np.array_equal(order, epoch) for _, order, *_ in calls] == [True, False, True, False]
    for _, order, *_ in calls[1::2]:
        assert np.array_equal(order, epoch[:, ::-1]), "not the same batches, turned round"
    assert [rest for *_, rest, _ in calls] == [(np.inf,), (np.inf,), (), ()]
    assert [scope["pairs"][name][k][1] for name in ("without clipping", "with clipping") for k in (0, 1)] == [
        1,
        2,
        3,
        4,
    ]
    assert list(scope["gaps"]) == list(scope["pairs"]) == ["without clipping", "with clipping"]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_that_one_pair_parts_and_the_other_does_not(page):
    first, largest = printed(page, "train-run").splitlines()
    assert first == "gap in the first step: within 1e-12" and largest == "largest gap: above 1e-03"
    largest, *lengths = printed(page, "train-clip").splitlines()
    assert largest == "largest gap with clipping: within 1e-12"
    assert len(lengths) == 2 and min(numbers(line)[0] for line in lengths) > 1, "longer than the limit"
    if not page.endswith("numpy"):
        assert printed(page, "train-numpy") == "largest gap to NumPy's run: above 1e-03\n"
    said = alternative(page, "train-picture")
    (plain,) = re.findall(r"without clipping at the end (\S+) and (\S+) right", said)
    (clipped,) = re.findall(r"(?<=; )with clipping at the end (\S+) and (\S+) right", said)
    assert clipped[0] == clipped[1] and float(clipped[0]) > max(map(float, plain)), "the accuracy likes that"
    assert plain[0] != plain[1]


def test_the_limit_sets_the_length_of_each_step(numpys):
    params, lengths = numpys["draw_start"](), []
    for picked in numpys["batches"][0]:
        X, Y = numpys["X_train"][picked], numpys["Y_train"][picked]
        _, grads, _ = numpys["gradients"]("RNN", params, X, Y)
        lengths.append(np.sqrt(sum(np.sum(dw**2) for dw in grads)))
        _, params = numpys["run"]("RNN", params, picked[None])
    assert np.mean(np.array(lengths) > numpys["CLIP"]) > 0.99


def test_pytorch_and_numpy_part_and_clipping_holds_them_together(torch, numpys):
    other = lessons.load("07_recurrence_pytorch", until="train-define")
    start, epoch = numpys["draw_start"](), numpys["batches"][0]
    for theta, parted in ((np.inf, True), (numpys["CLIP"], False)):
        one, two = (page["run"]("RNN", start, epoch, theta)[0] for page in (numpys, other))
        gap = np.abs(one / two - 1)
        assert gap[:20].max() < 1e-12
        assert (gap.max() > 1e-3) == parted and (gap.max() < 1e-12) != parted
    torch.set_default_dtype(torch.float32)


# Memory


@pytest.fixture(scope="module")
def waiting(torch, numpys):
    """What is left of each network's reading after blank rows: by its own V, and by a fresh one."""
    X, Y = (torch.from_numpy(numpys[name][:1000]) for name in ("X_train", "Y_train"))
    X_test, y_test = torch.from_numpy(numpys["X_test"]), torch.from_numpy(numpys["y_test"]).long()
    found = {}
    draw = numpys["draw_start"]
    starts = {"RNN": draw(), "LSTM": draw(blocks=4, forget=1.0)}
    for name, after in itertools.product(starts, (0, 2, 8, "untrained")):
        if after == "untrained":
            params, count = [torch.from_numpy(w) for w in starts[name]], 0
        else:
            params, count = [torch.from_numpy(w) for w in trained(PAGES[2], name)], after
        some, tests = (torch.nn.functional.pad(each, (0, 0, 0, count)) for each in (X, X_test))
        h, h_test = (by_hand(torch, each, params)[-1][0] for each in (some, tests))
        V = torch.linalg.lstsq(h, Y).solution
        answers = (h_test @ params[3] + params[4]).argmax(dim=1), (h_test @ V).argmax(dim=1)
        found[name, after] = [(each == y_test).double().mean().item() for each in answers]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_who_forgets_while_nothing_comes(waiting, page):
    said = re.findall(r"(RNN|LSTM) +(\w+) +(\S+) +(\S+)$", printed(page, "memory-wait"), re.MULTILINE)
    assert len(said) == len(waiting) == 8
    for name, after, own, fresh in said:
        place = name, int(after) if after.isdigit() else after
        assert [float(own), float(fresh)] == pytest.approx(waiting[place], abs=0.0051)
    own, fresh = ({place: both[k] for place, both in waiting.items()} for k in (0, 1))
    assert own["RNN", 2] < 0.6 * own["RNN", 0] and own["LSTM", 2] > 0.9 * own["LSTM", 0], "after two rows"
    assert max(own[name, 8] for name in ("RNN", "LSTM")) < 0.35, "after eight, nor can the LSTM"
    for name in ("RNN", "LSTM"):
        assert min(fresh[name, count] for count in (2, 8)) > fresh[name, 0] - 0.04, "but it hasn't forgotten"
        assert min(fresh[name, count] for count in (0, 2, 8)) > fresh[name, "untrained"] + 0.04
    text = cell(page, "memory-wait-read").source
    assert "half of the plain network's answers are gone. After eight, most of the LSTM's are, too." in text
    assert "neither has forgotten: a fresh $V$ finds the digit nearly as well as before, and more" in text
    assert "more often than in an untrained state" in text


def share(torch, name, params, X, y):
    W, U, b, V, v = (torch.from_numpy(w) for w in params)
    h = by_hand(torch, torch.from_numpy(X), [W, U, b])[-1][0]
    return ((h @ V + v).argmax(dim=1).numpy() == y).mean()


@pytest.mark.parametrize("page", PAGES)
def test_the_plain_network_is_ahead_at_first_and_the_lstm_in_the_end(torch, numpys, page):
    _, *lines = printed(page, "gates-run").splitlines()
    names = "RNN", "LSTM"
    shares = {name: numbers(line) for name, line in zip(names, lines[::2], strict=True)}
    assert [line.split()[0] for line in lines] == ["RNN", "RNN", "LSTM", "LSTM"]
    tests = [numbers(line)[0] for line in lines[1::2]]
    held = numpys["X_train"][3600:], numpys["y_train"][3600:]
    for name, said in zip(names, tests, strict=True):
        params = trained(page, name)
        assert f"{share(torch, name, params, numpys['X_test'], numpys['y_test']):.3f}" == f"{said:.3f}"
        assert f"{share(torch, name, params, *held):.3f}" == f"{shares[name][-1]:.3f}"
    assert shares["RNN"][0] > shares["LSTM"][0] + 0.05 and shares["LSTM"][2] > shares["RNN"][2] + 0.03
    assert tests[1] > tests[0] + 0.03
    text = cell(page, "memory").source
    assert "The plain network is ahead at first, the LSTM in the end." in text
    assert (
        "The LSTM reads better here, with one seed and one rate each: no verdict."
        in cell(page, "key-points").source
    )


@pytest.mark.makers
@pytest.mark.parametrize("seed", [2, 3])
def test_other_seeds_agree_on_who_reads_better(torch, numpys, seed):
    ends = {}
    for kind, blocks, rate in (("RNN", 1, "RATE"), ("LSTM", 4, "GATED_RATE")):
        params = numpys["draw_start"](blocks, seed, forget=float(kind == "LSTM"))
        for k, order in enumerate(numpys["batches"]):
            _, params = numpys["run"](kind, params, order, rate=numpys[rate] / 2**k)
        ends[kind] = share(torch, kind, params, numpys["X_test"], numpys["y_test"])
    assert ends["LSTM"] > ends["RNN"]


@pytest.mark.parametrize("page", PAGES)
def test_no_step_sees_the_digits_held_back(page):
    lesson = lessons.load(page, until="arrays")
    assert lesson["batches"].max() < 3600 == len(lesson["x_train"]) - len(lesson["held"][0])
    assert np.array_equal(lesson["held"][0], lesson["x_train"][3600:] / 255)
    assert np.array_equal(lesson["held"][1], lesson["y_train"][3600:])


@pytest.mark.parametrize("page", PAGES)
def test_each_network_at_the_others_rate(page):
    slow, parted = numbers(printed(page, "exercise-modify-solution"))
    lstm = numbers(printed(page, "gates-run").splitlines()[3])[0]
    assert slow < lstm - 0.1 and parted == 1e-3
    assert "Each has a rate of its own (see *Modify*)" in cell(page, "gates").source


@pytest.mark.parametrize("page", PAGES)
def test_a_half_shut_gate_begins_later_with_every_seed(page):
    shut, opened = printed(page, "open-gate-run").splitlines()
    assert shut.startswith("bias 0.0, after 60 steps:")
    assert opened.startswith("bias 1.0, after 15 steps:")
    shut, opened = (numbers(line.split(":")[1]) for line in (shut, opened))
    assert len(shut) == len(opened) == 3 and max(shut) < min(opened) - 0.05
    assert "With each seed, even four times the steps aren't enough" in cell(page, "open-gate-read").source


@pytest.mark.parametrize("page", PAGES)
def test_another_digits_half_changes_most_answers(torch, numpys, page):
    said = re.findall(r"(\w+) +(upper|lower) half: (\d+)% change", printed(page, "memory-halves"))
    X, others = numpys["X_test"], np.random.default_rng(seed=0).permutation(numpys["X_test"])
    halves = {"upper": np.s_[:14], "lower": np.s_[14:]}
    assert [(name, half) for name, half, _ in said] == list(itertools.product(("RNN", "LSTM"), halves))
    for name, half, percent in said:
        *params, V, v = (torch.from_numpy(w) for w in trained(page, name))
        mixed = X.copy()
        mixed[:, halves[half]] = others[:, halves[half]]
        assert (mixed != X).any(axis=(1, 2)).mean() > 0.99
        each = (by_hand(torch, torch.from_numpy(images), params)[-1][0] for images in (X, mixed))
        own, new = ((h @ V + v).argmax(dim=1) for h in each)
        changed = (own != new).double().mean().item()
        assert int(percent) == round(100 * changed) and changed > 0.5
    assert (
        "More than half of the answers change with the top: both know of it."
        in cell(page, "memory-read").source
    )
    assert "more than half of their answers change" in cell(page, "key-points").source


def test_the_records_tell_which_network_is_one_call():
    fast, double, plain = printed("07_recurrence_pytorch", "measure-records").splitlines()
    assert fast.startswith("LSTM torch.float32") and fast.endswith("True") and numbers(fast)[1] < 15
    for line in (double, plain):
        assert line.endswith("False") and numbers(line)[1] > 100


@pytest.mark.parametrize("page", PAGES)
def test_what_is_recorded_has_been_trained(numpys, page):
    record = records.load(page)
    start = {
        "RNN": numpys["draw_start"](),
        "LSTM": numpys["draw_start"](4, forget=1.0),
        "GRU": numpys["draw_start"](3),
    }
    for name, arrays in start.items():
        for letter, w in zip("WUbVv", arrays, strict=True):
            assert np.abs(record[f"{name}_{letter}"] - w).max() > 1e-3, (name, letter)


# The checks can fail


@pytest.mark.parametrize("page", PAGES)
def test_a_wrong_gradient_is_noticed(numpys, page):
    X, Y = (numpys[name][numpys["batches"][0, 0]] for name in ("X_train", "Y_train"))
    scope = {"np": np, "records": records, "start": numpys["draw_start"]()}
    scope["loss_at"] = lambda kind, params: numpys["gradients"](kind, params, X, Y)[0]
    for wrong in [None, *range(5)]:

        def gradient_at(kind, params, wrong=wrong):
            _, grads, _ = numpys["gradients"](kind, params, X, Y)
            return [dw * (1.0001 if place == wrong else 1) for place, dw in enumerate(grads)]

        scope["gradient_at"] = gradient_at
        expected = (
            contextlib.nullcontext() if wrong is None else pytest.raises(AssertionError, match="slopes")
        )
        with expected, contextlib.redirect_stdout(io.StringIO()):
            exec(cell(page, "gradients-check").source, scope)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("check", ["masks-hand", "masks-run"])
def test_a_network_without_a_mask_is_noticed(numpys, page, check):
    scope = dict(numpys) | {"start": numpys["draw_start"]()}
    exec(cell("07_recurrence_numpy", "masks-define").source, scope)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(cell(page, check).source, scope)
        scope["masked"] = lambda X, W, U, b: numpys["rnn"](X, W, U, b)[0]
        with pytest.raises(AssertionError, match=r"two pages by hand|padded and masked"):
            exec(cell(page, check).source, scope)


def test_the_example_by_hand_is_right():
    c = 0.0
    for _ in range(3):  # half is forgotten, and half of 1/2 comes in
        c = c / 2 + 1 / 4
    assert c == 7 / 16
    for page in PAGES:
        assert "1/4, 3/8, 7/16" in cell(page, "check").source
        assert "7 / 16" in cell(page, "check-hand").source


# What the pages say of the tools


def test_the_order_of_the_blocks_is_each_tools_own(torch, numpys):
    ((keras, pytorch),) = {
        re.search(
            r"blocks are ([zrg, ]+) in Keras, and ([zrg, ]+) in PyTorch", cell(page, "one-name").source
        ).groups()
        for page in PAGES
    }
    rng = np.random.default_rng(0)
    W, U, both = (rng.uniform(-0.5, 0.5, shape) for shape in ((28, 192), (64, 192), (2, 192)))
    X = numpys["X_test"][:4]
    h, _ = numpys["gru"](X, W, U, both)  # z, r, g

    def ordered(w, order):
        blocks = dict(zip("zrg", np.split(w, 3, axis=-1), strict=True))
        return np.concatenate([blocks[letter] for letter in order.split(", ")], axis=-1)

    gru = torch.nn.GRU(28, 64, batch_first=True).double()
    arrays = [ordered(w, pytorch).T.copy() for w in (W, U, both[0], both[1])]
    gru.load_state_dict(dict(zip(gru.state_dict(), map(torch.from_numpy, arrays), strict=True)))
    np.testing.assert_allclose(gru(torch.from_numpy(X))[1][0].detach(), h, atol=1e-12)
    layers = pytest.importorskip("tensorflow").keras.layers
    layer = layers.GRU(64, dtype="float64")
    layer.build(X.shape)
    layer.set_weights([ordered(w, keras) for w in (W, U, both)])
    np.testing.assert_allclose(layer(X), h, atol=1e-12)


def test_what_dropout_drops_is_what_the_comments_say():
    kerass, pytorchs = (cell(f"07_recurrence_{tool}", "defaults-run").source for tool in ("keras", "pytorch"))
    drawn, without = printed("07_recurrence_keras", "defaults-run").splitlines()[-2:]
    assert drawn.endswith("True") and without.startswith("W 0") and without.endswith("False")
    assert "# So what it drops are the inputs." in kerass
    one, two, *_ = printed("07_recurrence_pytorch", "defaults-run").splitlines()
    assert "warnings: 1," in one and one.endswith("False") and "warnings: 0," in two and two.endswith("True")
    assert "# So what it drops is what one layer hands to the next." in pytorchs


def test_defaults_of_the_first_weights():
    assert "biases of i, f, g, o: 0.0 1.0 0.0 0.0" in printed("07_recurrence_keras", "defaults-run")
    *_, line, biases = printed("07_recurrence_pytorch", "defaults-run").splitlines()
    largest, bound = numbers(line.replace("1 / ", ""))
    assert 0.99 * bound < largest <= bound and max(map(abs, numbers(biases))) < 0.1


@pytest.mark.parametrize("page", PAGES)
def test_each_suspect_makes_another_answer(page):
    rows = dict(re.findall(r"^(.+?)  +(\d\.\d+)$", printed(page, "one-name-table"), re.MULTILINE))
    assert len(rows) == 4 and min(map(float, rows.values())) >= 0.005
    assert printed(page, "one-name-table") == printed(PAGES[0], "one-name-table")


def test_the_sigmoid_in_the_sentence_is_the_one_in_the_code(numpys):
    for page in PAGES:
        assert r"$\sigma(Z)=1/(1+e^{-Z})$" in cell(page, "gates").source
    np.testing.assert_allclose(numpys["sigmoid"](np.array([0.0, np.log(3)])), [0.5, 0.75])


def test_an_orthogonal_start_keeps_lengths(numpys):
    rng = np.random.default_rng(0)
    for blocks in (1, 3, 4):
        W, U, b, _, v = numpys["draw_start"](blocks)
        h = rng.standard_normal((5, numpys["HIDDEN"]))
        np.testing.assert_allclose(np.linalg.norm(h @ U, axis=1), np.linalg.norm(h, axis=1))
        assert np.abs(W).max() <= np.sqrt(6 / (28 + W.shape[1])) and not b.any() and not v.any()
    *_, b, _, _ = numpys["draw_start"](4, forget=1.0)
    assert b.reshape(4, -1).mean(axis=1).tolist() == [0, 1, 0, 0]


def test_epochs_of_the_same_digits_in_other_orders(numpys):
    for epoch in numpys["batches"]:
        assert len(np.unique(epoch)) == epoch.size
    for one, other in itertools.combinations(numpys["batches"], 2):
        assert not np.array_equal(one, other)


def test_the_bound_of_the_benchmark_is_that_of_all_products_of_a_step():
    lesson, flop = benchmark.load(PAGES[0], "measure-define", "measure-products", until="gates-back"), []

    class Counted(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            inputs = [np.asarray(each) for each in inputs]
            result = getattr(ufunc, method)(*inputs, **options)
            if ufunc is np.matmul:
                flop.append(2 * result.size * inputs[0].shape[-1])
                assert result.dtype == "float32"
            return result.view(Counted)

    draw = lesson["draw_start"]
    with mock.patch.dict(lesson, draw_start=lambda *a, **k: [w.view(Counted) for w in draw(*a, **k)]):
        products = lesson["products_timer"]("float32")
        flop.clear()
        products()
    assert len(flop) == 5 * 28 + 3 and sum(flop) == benchmark.FLOP_RECURRENCE


def test_the_table_of_the_benchmark_names_what_it_times(monkeypatch):
    def loaded(name, *also, **_):
        tool = name.rpartition("_")[2]
        step = lambda dtype, wrap=None, **dials: (tool, dtype, wrap, dials)  # noqa: E731
        torch = SimpleNamespace(compile="compile")
        return {"step_timer": step, "fit_timer": step, "products_timer": step, "torch": torch}

    monkeypatch.setattr(benchmark, "load", loaded)
    monkeypatch.setattr(benchmark, "self_timed", lambda call, number=50: call)
    monkeypatch.setattr(benchmark, "bound_timer", lambda flop: ("bound", "float32", flop, {}))
    with contextlib.redirect_stdout(io.StringIO()) as told:
        _, calls, pairs = benchmark.recurrence()
    assert "can't compile" in told.getvalue()  # a tuple can't be called
    row = "bound: 113.9 MFLOP at this machine's best"
    assert calls[row] == ("bound", "float32", benchmark.FLOP_RECURRENCE, {})
    assert calls["NumPy"] == ("numpy", "float32", None, {}) == calls["all products alone"]
    assert calls["PyTorch"] == ("pytorch", "float32", None, {})
    assert calls["Keras fit as shipped"] == ("keras", "float32", None, {})
    assert calls["Keras fit, a dial"] == ("keras", "float32", None, {"steps_per_execution": 16})
    assert {name for pair in pairs for name in pair} <= calls.keys() | {"PyTorch, compiled"}


@pytest.mark.parametrize("page", PAGES)
def test_the_shares_stand_where_a_reader_sees_them(page, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plotting, "show", lambda fig, alt: shown.append((fig, alt)))
    gaps = {"without clipping": np.full(112, 0.1), "with clipping": np.zeros(112)}
    scope = {"np": np, "plt": plt, "plotting": plotting, "steps": 112, "gaps": gaps}
    scope |= {"pairs": {name: ((0, name), (1, name)) for name in gaps}}
    scope["accuracy"] = lambda kind, name: 0.5 + 0.1 * (name == "with clipping")
    exec(cell(page, "train-picture").source, scope)
    ((fig, _),) = shown
    (ax,) = fig.axes
    bottom, top = ax.get_ylim()
    found = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert (
        found == {" 0.50 and 0.50 right": 0.1, " 0.60 and 0.60 right": 1e-17}
        and bottom < 0.5e-17
        and 0.1 <= top
    )
    plt.close(fig)
