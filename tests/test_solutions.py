"""The solutions of the exercises, as this run has printed them: the same in all three, and right."""

import re

import numpy as np
import pytest

from helpers import lessons, records
from helpers.data import load_mnist
from helpers.records import TOOLS

LESSONS = ("01_matmul", "02_gradient", "03_mlp", "04_optimizers", "05_custom_training", "06_convolution")
LESSONS += ("07_recurrence", "08_probability")
LESSONS += ("10_deployment",)
# What a solution says: numbers, names in quotes, yes or no. What a bound is, its own check says.
SAID = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|'[^']*'|\bTrue\b|\bFalse\b|does not fit|\bnone\b")


def said(text):
    found = SAID.findall(re.sub(r"\bwithin \S+", "", text))
    return [float(word) if word[-1].isdigit() else word for word in found]


def solutions(notebook):
    """What each solution of a notebook says, by its exercise."""
    found = {}
    for cell in notebook.cells:
        match = re.fullmatch(r"exercise-([\w-]+)-solution", cell.id)
        if match:
            found[match[1]] = said("".join(output.get("text", "") for output in cell.outputs))
    return found


# The right answers, by other means than the solutions'.


def shapes():
    answers = [2, 3, 3, 4, 2, 4]  # a product: rows of the first, columns of the second
    for one, other in (((2, 3), (2, 1)), ((2, 3), (2,)), ((3, 1), (3,))):
        answers += [*one, *other]
        try:
            answers += np.broadcast_shapes(one, other)
        except ValueError:
            answers.append("does not fit")
    return answers


def products():
    lesson = lessons.load("01_matmul_numpy", until="data-batch")
    X, W1 = lesson["X"], lesson["W1"]
    terms = X[:4, :, None] * W1  # (4, 784, 128), added up one after the other
    equal = np.array_equal(terms.cumsum(axis=1)[:, -1], terms[:, ::-1].cumsum(axis=1)[:, -1])
    A, B = np.array(lesson["A_list"]), np.array(lesson["B_list"])
    record = ["'2.0 * (A @ B)'", 1, *(2 * (A[:, :, None] * B).sum(axis=1)).ravel()]  # with the first factor
    return {"modify": [str(equal)], "build": record}


def derivatives():
    away = 2 + 1  # from the lowest point of (x + 1)^2, which a step of 0.1 uphill multiplies by 1.2
    return {
        "predict": [2**8, 8 * 2**7, 3],  # x^8, by three squares
        "modify": [1, -1, 0],  # x^4 - 2 x^2 has its valleys at 1 and -1, and at 0 a hill with slope 0
        "build": [round(-1 + away * 1.2**5, 6)],
    }


def networks():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # products this small gain nothing from more, and lose much on a busy machine
    lesson = lessons.load("03_mlp_numpy", until="data-order", also=["exercise-build-start"])
    X, y = torch.from_numpy(lesson["X_train"]), torch.from_numpy(lesson["y_train"]).long()

    def scores(X, params):
        for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
            X = torch.relu(X @ W + b)
        return X @ params[-2] + params[-1]

    def trained(start, decay=0.0):
        """One epoch; all derivatives are PyTorch's, that of the decay too."""
        params = [torch.tensor(array, requires_grad=True) for array in start]
        for rows in torch.from_numpy(lesson["batches"][0]):
            loss = torch.nn.functional.cross_entropy(scores(X[rows], params), y[rows])
            loss = loss + decay / 2 * sum((w**2).sum() for w in params if w.ndim == 2)
            with torch.no_grad():
                for w, dw in zip(params, torch.autograd.grad(loss, params), strict=True):
                    w -= lesson["LEARNING_RATE"] * dw
        return params

    def accuracy(params):
        answers = scores(torch.from_numpy(lesson["X_test"]), params).argmax(dim=1).numpy()
        return round(np.mean(answers == lesson["y_test"]), 3)

    zeros = trained([np.zeros_like(array) for array in lesson["start"]])
    names = ("W1", "b1", "W2", "b2")
    still = [f"'{name}'" for name, array in zip(names, zeros, strict=True) if not array.any()]
    decays = [0, 0.001]
    sizes = [round((trained(lesson["start"], decay)[0] ** 2).sum().item(), 4) for decay in decays]
    modify = [decays[0], sizes[0], decays[1], sizes[1]]
    build = [accuracy(trained(lesson["start3"]))]
    return {"predict": [accuracy(zeros), *still], "modify": modify, "build": build}


def optimizers():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("04_optimizers_numpy", until="lesson-3")
    mlp, (x, y), steps = lesson["lesson3"], lesson["START"], lesson["STEPS"]
    X, labels = torch.from_numpy(mlp["X_train"]), torch.from_numpy(mlp["y_train"]).long()

    def trained(optimizer_of, before=lambda params: None, penalty=0.0):
        """One epoch: its losses and W1; the gradients are PyTorch's, of the penalty too."""
        params, losses = [torch.tensor(array, requires_grad=True) for array in mlp["start"]], []
        optimizer = optimizer_of(params)
        for rows in torch.from_numpy(lesson["batches"][0]):
            W1, b1, W2, b2 = params
            scores = torch.relu(X[rows] @ W1 + b1) @ W2 + b2
            loss = torch.nn.functional.cross_entropy(scores, labels[rows])
            optimizer.zero_grad()
            (loss + penalty / 2 * sum((w**2).sum() for w in params)).backward()
            with torch.no_grad():
                before(params)
            optimizer.step()
            losses.append(loss.item())
        return np.array(losses), params[0].detach().numpy()

    optim, sizes = torch.optim, []
    for kind, decoupled, rate in (
        (optim.SGD, optim.SGD, lesson["RATE"]),
        (optim.Adam, optim.AdamW, lesson["SMALL"]),
    ):
        ways = [trained(lambda params, kind=kind, rate=rate: kind(params, lr=rate), penalty=0.1)] * 2
        ways.append(
            trained(lambda params, kind=decoupled, rate=rate: kind(params, lr=rate, weight_decay=0.1))
        )
        sizes += [round((W1**2).sum()) for _, W1 in ways]

    def without_correction(warm):
        m, v, t = [[torch.zeros(shape) for shape in map(np.shape, mlp["start"])] for _ in "mv"] + [0]

        def before(params):
            nonlocal t
            t += 1
            for w, a, b in zip(params, m, v, strict=True):
                a.copy_(0.9 * a + 0.1 * w.grad), b.copy_(0.999 * b + 0.001 * w.grad**2)
                share = min(1.0, t / warm) if warm else 1.0
                w -= share * lesson["SMALL"] * a / (b.sqrt() + 1e-6)

        return trained(lambda params: optim.SGD(params, lr=0.0), before)[0][-25:].mean()

    torch.set_default_dtype(torch.float64)
    ends = [round(without_correction(warm), 3) for warm in (0, 20)]
    torch.set_default_dtype(torch.float32)
    place = [round(x * 0.9**steps, 4), y * (-1) ** steps]  # the rate is 2/20
    return {
        "predict": place * 2,
        "modify": sizes,
        "build": [round(0.1 / 0.001**0.5, 2), 25, ends[0], 25, ends[1]],
    }


def changes():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("03_mlp_numpy", until="data-order", EPOCHS=1)
    X, y = torch.from_numpy(lesson["X_train"]), torch.from_numpy(lesson["y_train"]).long()
    rate = lesson["LEARNING_RATE"]

    def scores(X, params):
        W1, b1, W2, b2 = params
        return torch.relu(X @ W1 + b1) @ W2 + b2

    def gradients(params, rows, loss_of):
        params = [w.detach().requires_grad_() for w in params]
        loss = loss_of(scores(X[rows], params), y[rows])
        return loss.item(), torch.autograd.grad(loss, params)

    def trained(loss_of, rate, rho=None):
        params, losses = [torch.from_numpy(w) for w in lesson["start"]], []
        for rows in torch.from_numpy(lesson["batches"][0]):
            loss, g = gradients(params, rows, loss_of)
            losses.append(loss)
            if rho:
                size = torch.cat([dw.ravel() for dw in g]).norm()
                climbed = [w + rho * dw / size for w, dw in zip(params, g, strict=True)]
                _, g = gradients(climbed, rows, loss_of)
            params = [w - rate * dw for w, dw in zip(params, g, strict=True)]
        answers = scores(torch.from_numpy(lesson["X_test"]), params).argmax(dim=1).numpy()
        return [round(np.mean(losses), 6), round(np.mean(answers == lesson["y_test"]), 3)]

    def hinge(Z2, y):
        ahead = 1 + Z2 - Z2[torch.arange(len(y)), y][:, None]
        return (ahead.clamp(min=0).sum(dim=1) - 1).mean()  # without the true digit's own 1

    def smoothed(p):  # one digit has 0.9 + 0.01 of the certainty, nine have 0.01
        return round(-0.91 * np.log(p) - 9 * 0.01 * np.log((1 - p) / 9), 6)

    ps = (0.8, 0.91, 0.99)
    cross_entropy = torch.nn.functional.cross_entropy
    build = [answer for rho in (0, 0.1) for answer in (rho, *trained(cross_entropy, rate, rho))]
    lowest = min(smoothed(p) for p in np.arange(0.001, 1, 0.001))
    predict = [lowest, *(answer for p in ps for answer in (p, smoothed(p)))]
    return {"predict": predict, "modify": trained(hinge, rate / 5), "build": build}


def convolutions():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("06_convolution_numpy", until="data-start")
    conv, pool = torch.nn.functional.conv2d, torch.nn.functional.max_pool2d

    def images(X):
        return torch.from_numpy(X[..., 0])[:, None]

    def kernel(W):
        return W.reshape(5, 5, -1, W.shape[1]).permute(3, 2, 0, 1)

    def scores(X, params, largest):
        W1, b1, W2, b2, W3, b3 = params
        M1 = pool(torch.relu(conv(X, kernel(W1), b1)), 2)
        M2 = pool(torch.relu(conv(M1, kernel(W2), b2)), 2)
        return (M2.amax(dim=(2, 3)) if largest else M2.permute(0, 2, 3, 1).flatten(1)) @ W3 + b3

    def trained(start, change=lambda X: X, largest=False):
        params = [torch.tensor(array, requires_grad=True) for array in start]
        X, y = images(change(lesson["X_train"])), torch.from_numpy(lesson["y_train"]).long()
        for rows in torch.from_numpy(lesson["batches"]).flatten(0, 1):
            loss = torch.nn.functional.cross_entropy(scores(X[rows], params, largest), y[rows])
            with torch.no_grad():
                for w, dw in zip(params, torch.autograd.grad(loss, params), strict=True):
                    w -= lesson["LEARNING_RATE"] * dw
        return params

    def accuracy(X, params, largest=False):
        answers = scores(images(X), params, largest).argmax(dim=1).numpy()
        return round(np.mean(answers == lesson["y_test"]), 3)

    order = np.random.default_rng(7).permutation(784)

    def shuffled(X):
        return np.take(X.reshape(len(X), 784), order, axis=1).reshape(X.shape)

    start, X = lesson["start"], lesson["X_test"]
    params = trained([*start[:4], np.zeros((16, 10)), np.zeros(10)], largest=True)
    right = np.zeros_like(X)
    right[:, :, 4:] = X[:, :, :-4]
    small = [(28 - 2) // 2, ((28 - 2) // 2 - 2) // 2]
    count = (3 * 3 + 1) * 8 + (3 * 3 * 8 + 1) * 16 + (small[1] ** 2 * 16 + 1) * 10
    return {
        "predict": [small[1], small[1], 16, count],
        "modify": [accuracy(shuffled(X), trained(start, shuffled))],
        "build": [accuracy(X, params, True), accuracy(right, params, True)],
    }


def readers():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("07_recurrence_numpy", until="cell-start")
    names = ("X_train", "X_test")
    X, X_test = (torch.from_numpy(lesson[name]) for name in names)
    y, y_test = (torch.from_numpy(lesson[name]).long() for name in ("y_train", "y_test"))
    X_held, y_held = X[3600:], y[3600:]

    def scores(X, params):  # after each row
        W, U, b, V, v = params
        h, c, found = torch.zeros(len(X), len(U), dtype=X.dtype), 0, []
        for x in X.transpose(0, 1):
            Z = x @ W + h @ U + b
            if len(b) == len(U):
                h = torch.tanh(Z)
            else:
                i, f, g, o = Z.split(len(U), dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h @ V + v)
        return torch.stack(found)  # (28, n, 10)

    def trained(rate, limit, rows_of_loss, start=lesson["start"], turn=1):
        params, losses = [torch.tensor(w, requires_grad=True) for w in start], []
        for rows in torch.from_numpy(lesson["batches"][0][:, ::turn].copy()):
            S = scores(X[rows], params)[rows_of_loss]
            labels = y[rows].expand(len(S), -1)
            loss = torch.nn.functional.cross_entropy(S.flatten(0, 1), labels.flatten())
            grads = torch.autograd.grad(loss, params)
            size = torch.cat([dw.ravel() for dw in grads]).norm()
            with torch.no_grad():
                for w, dw in zip(params, grads, strict=True):
                    w -= rate * min(1, limit / (size + 1e-6)) * dw
            losses.append(loss.item())
        right = (scores(X_test, params).argmax(dim=-1) == y_test).double().mean(dim=1)
        held = (scores(X_held, params)[-1].argmax(dim=-1) == y_held).double().mean().item()
        return losses, [round(each, 3) for each in right.tolist()], float(f"{held:.3f}")

    blank = np.count_nonzero(lesson["x_test"][:, 27].sum(axis=1) == 0)
    end, limit, gated = slice(27, 28), lesson["CLIP"], lesson["draw_start"](4, forget=1.0)
    *_, slow = trained(lesson["RATE"], limit, end, gated)
    fast = [trained(lesson["GATED_RATE"], limit, end, turn=turn)[0] for turn in (1, -1)]
    parted = 1e-3 if np.abs(np.divide(*fast) - 1).max() > 1e-3 else 0
    losses, right, _ = trained(lesson["RATE"], limit, slice(None))
    assert right[19] > 0.25 > right[27], "it answers on the way, and forgets how to at the end"
    ends = [round(losses[0], 4), round(losses[-1], 4)]
    build = [*ends, 12, 20, 28, right[11], right[19], right[27]]
    return {"predict": [blank, blank], "modify": [slow, parted], "build": build}


def drawers():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("08_probability_numpy", until="start")
    softplus, relu = torch.nn.functional.softplus, torch.relu

    def parts(params, X, e):
        W1, b1, W2, b2, W3, b3, W4, b4 = params
        m, r = (relu(X @ W1 + b1) @ W2 + b2).split(2, dim=1)
        D = relu((m + (r / 2).exp() * e) @ W3 + b3) @ W4 + b4
        return (softplus(D) - X * D).sum(dim=1).mean(), (m**2 + r.exp() - 1 - r).sum(dim=1).mean() / 2

    X, X_test = (torch.from_numpy(lesson[name]) for name in ("X_train", "X_test"))

    def trained(times):
        params = [torch.tensor(w, requires_grad=True) for w in lesson["start"]]
        adam = torch.optim.Adam(params, lesson["RATE"], (1 - 2**-3, 1 - 2**-10), 1e-30)
        for rows, e in zip(lesson["batches"][: lesson["steps"]], lesson["noise"], strict=False):
            adam.zero_grad()
            sum(parts(params, X[rows], times * torch.from_numpy(e))).backward()
            adam.step()
        return params

    e_test = torch.from_numpy(np.random.default_rng(2).standard_normal((1000, 2)))
    calm, usual = trained(0), trained(1)
    with torch.no_grad():
        asked = (calm, 0 * e_test), (calm, e_test), (usual, e_test)
        modify = [round(float(parts(params, X_test, e)[0]), 1) for params, e in asked]

    draws = np.random.default_rng(0).standard_normal(2000)[:1000]
    ones = np.count_nonzero(draws < -0.5244005127080407)  # three normal draws in ten are below it
    earned, slope = np.array([0.36] * ones + [0.16] * (1000 - ones)), np.full(1000, -1 / 0.7)
    slope[:ones] = 1 / 0.3
    both = [slope * (earned - base) for base in (0, earned.mean())]
    build = [0.2, *(round(x.mean(), 3) for x in both), *(round(x.std(), 3) for x in both)]
    # Of a mean of r / p trials, r are successes (SciPy's nbinom counts the others).
    means = [3 / 0.2 - 3, 3 / (1 - 0.2) - 3]
    return {"predict": means * 2, "modify": modify, "build": build}


def deployments():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    (x_train, y_train), (x_test, y_test) = load_mnist()
    kept = records.load("03_mlp_pytorch")
    pixels, y = torch.from_numpy(x_test.reshape(-1, 784) * 1.0), torch.from_numpy(y_train).long()
    X = torch.from_numpy(x_train.reshape(-1, 784) / 255)

    def begin():
        params = [torch.tensor(kept[name], requires_grad=True) for name in ("W1", "b1", "W2", "b2")]
        return params, torch.optim.SGD(params, 0.01, momentum=0.9), np.random.default_rng(8)

    def scores(X, params):
        W1, b1, W2, b2 = params
        return torch.relu(X @ W1 + b1) @ W2 + b2

    def rates(X):
        P = torch.softmax(scores(X, begin()[0]), dim=1).detach().numpy()
        return [round(np.mean(P.argmax(1) == y_test), 3), round(np.mean(P.max(1) > 0.99), 3)]

    def trained(forget=None):
        """60 steps; in the middle, what is forgotten is as at the beginning."""
        params, sgd, rng = begin()
        for step in range(60):
            if step == 30:
                sgd = torch.optim.SGD(params, 0.01, momentum=0.9) if forget == "velocity" else sgd
                rng = np.random.default_rng(8) if forget == "generator" else rng
            rows = rng.integers(len(X), size=32)
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(scores(X[rows], params), y[rows]).backward()
            sgd.step()
        return params[0].detach()

    gaps = [(trained(each) - trained()).abs().max().item() for each in ("velocity", "generator")]
    return {
        "predict": ["'ReLU'", "'softmax'", "'weights'"],
        "modify": rates(pixels) + rates(pixels / 255),
        "build": [*(float(f"{gap:.1e}") for gap in gaps), 0.0],
    }


RIGHT = {
    "01_matmul": lambda: {"predict": shapes(), **products()},
    "02_gradient": derivatives,
    "03_mlp": networks,
    "04_optimizers": optimizers,
    "05_custom_training": changes,
    "06_convolution": convolutions,
    "07_recurrence": readers,
    "08_probability": drawers,
    "10_deployment": deployments,
}


# Of the pages of all three tools: what has to come out, by the reasons that the solutions give.
PAGES = {
    "20_equality": {
        "predict": [1e-8, "True", 1e-6, "True"],
        "order": [1, 0, 0, 4, 1, 8, -4],
        "backend": [1e-12, "False", 1e-3, "True"],
        "modify": [0.9, 2.2e-7, 7, 8],
    },
    "21_mistakes": {"build": ["True", "False", "True"]},
    "22_key_differences": {
        "modify": [6, 11],
    },
}


def assert_right(found, right):
    for exercise, answers in right.items():
        assert found[exercise] == [
            answer if isinstance(answer, str) else pytest.approx(answer, rel=1e-6) for answer in answers
        ], exercise


@pytest.mark.parametrize("lesson", LESSONS)
def test_siblings_solutions_say_the_same_and_are_right(ran, lesson):
    found = {tool: solutions(ran(f"{lesson}_{tool}").notebook) for tool in TOOLS}
    for tool in TOOLS:
        assert found[tool] == found["numpy"], tool
    assert all(found["numpy"].values())
    right = RIGHT[lesson]()
    assert right.keys() == {"predict", "modify", "build"}
    assert_right(found["numpy"], right)


@pytest.mark.parametrize("page", PAGES)
def test_solutions_of_the_comparisons_are_right(ran, page):
    assert_right(solutions(ran(page).notebook), PAGES[page])
