"""Twelve checks on every wrong program of page 21, and on right ones: the committed table, made again.

`python tests/test_twelve_checks.py` writes it. It takes a quarter of an hour, so it is a weekly job's.
"""

import csv
import io
import warnings

import pytest

from helpers import ROOT, lessons

pytestmark = pytest.mark.makers
TABLE = ROOT / "data" / "records" / "21_twelve_checks.csv"
# The page's own mistakes, collected in place of being made.
COLLECT = "lambda name, *edits, skip=(), **says: rows.append((name, edits, skip))"
SHUFFLED = "np.random.default_rng(1).permutation"
SHUFFLED = {"(x_train, y_train)": f"(lambda a, b: ((a[0], {SHUFFLED}(a[1])), b))(*load_mnist(DATA))"}
STEPS = 20


def seven(page):
    """The checks that the page doesn't have: functions of a net and its program (None: of another kind)."""
    np = page["np"]

    def starts_at_guessing(net, program):
        X, Y = next(net.batches())
        place, loss = net.get(), net.step(X, Y)
        net.put(place)
        return abs(loss - np.log(10)) < 0.4

    def all_moved(net, program):
        start, batches = net.get(), list(net.batches())[:STEPS]
        for X, Y in batches:
            net.step(X, Y)
        moved = [after - before for after, before in zip(net.get(), start, strict=True)]
        net.put(start)
        units = [change.reshape(change.shape[0], -1) for change in moved if change.ndim > 1]
        alike = any(np.abs(each - each[:1]).max() == 0 for each in [*units, *(each.T for each in units)])
        return all((np.abs(change) > 0).mean() > 0.1 for change in moved) and not alike

    def same_step_twice(net, program):
        X, Y = next(net.batches())
        place, after = net.get(), []
        for _ in range(2):
            net.put(place)
            net.step(X, Y)
            after.append(net.get())
        net.put(place)
        return all(np.abs(a - b).max() < 1e-12 for a, b in zip(*after, strict=True))

    def answers_in_any_order(net, program):
        X, _ = next(net.batches())
        return np.abs(net.answer(X[::-1].copy())[::-1] - net.answer(X)).max() < 1e-6

    def same_answer_twice(net, program):
        X, _ = next(net.batches())
        return np.abs(net.answer(X) - net.answer(X)).max() == 0

    def beats_a_line(net, program):
        if program is None:
            return True
        X, Y = (np.concatenate(parts) for parts in zip(*net.batches(), strict=True))
        Y = np.eye(10)[page["digits"](Y)]
        if not np.isfinite(X.astype(float)).all():
            return False
        line = np.linalg.solve(X.T @ X + np.eye(784), X.T @ Y)
        return program["reached"] > np.mean((net.data[1] @ line).argmax(axis=1) == program["y_right"])

    def learns_nothing_from_nothing(net, program):
        if program is None:
            return True
        edit, tool = SHUFFLED | program["edit"], program["tool"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rng = np.random.default_rng(3)
            options = dict(until="evaluate-run", edit=edit, EPOCHS=8, rng=rng)
            return lessons.load(page["LESSON_3"][tool], **options)["accuracy"] < 0.15

    return [
        starts_at_guessing,
        all_moved,
        same_step_twice,
        answers_in_any_order,
        same_answer_twice,
        beats_a_line,
        learns_nothing_from_nothing,
    ]


def of_another_kind(page):
    """Twenty right networks that don't look like lesson 3's, by name: a net each."""
    np, keras, torch = (page[name] for name in ("np", "keras", "torch"))
    nn = torch.nn
    program = page["trained"]("NumPy", {}, 3)
    data = [program["X_train"], program["X_test"]]
    layers, functional = keras.layers, nn.functional

    def batches(size=32):
        rows = np.random.default_rng(0).permutation(len(data[0]))
        for part in rows[: len(rows) // size * size].reshape(-1, size):
            yield data[0][part], program["y_train"][part]

    common = dict(data=data, rate=0.1)

    def in_keras(*stack, loss="sparse_categorical_crossentropy", size=32):
        model = keras.Sequential([keras.Input((784,)), *stack, layers.Dense(10, "softmax")])
        model.compile(keras.optimizers.SGD(0.1), loss)

        def step(X, Y):
            model.reset_metrics()
            return float(model.train_on_batch(X, Y))

        answer = lambda X: model.predict(X, verbose=0)  # noqa: E731
        return page["of_keras"](model, step=step, answer=answer, batches=lambda: batches(size), **common)

    def in_pytorch(*stack, loss=functional.cross_entropy, size=32, rate=0.1):
        model = nn.Sequential(*stack)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)

        def step(X, Y):
            found = loss(model(torch.from_numpy(X)), torch.from_numpy(Y).long())
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            return found.item()

        def answer(X):
            model.eval()
            with torch.no_grad():
                found = model(torch.from_numpy(X)).numpy()
            model.train()
            return found

        more = common | dict(rate=rate, batches=lambda: batches(size))
        return page["of_torch"](model, step=step, answer=answer, **more)

    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.01)
    image, flat = layers.Reshape((28, 28, 1)), nn.Unflatten(1, (1, 28, 28))
    wide = {"start": "[glorot(784, 200), np.zeros(200, DTYPE)]"}
    wide["start +="] = "start += [glorot(200, 10), np.zeros(10, DTYPE)]"
    tanh = {"forward.A1": "np.tanh(Z1)", "backward.dZ1": "dA1 * (1 - A1**2)"}
    squares = {"forward.return": "Z1, A1, Z2"}
    squares["cross_entropy.return"] = "((P - Y) ** 2).sum(axis=1).mean() / 2"
    batch = {"BATCH": "64", "LEARNING_RATE": "0.2"}
    by_hand = dict(wide=wide, tanh=tanh, squares=squares, batch=batch)
    nets = {
        f"NumPy {name}": page["numpy_net"](page["trained"]("NumPy", edit, 3))
        for name, edit in by_hand.items()
    }
    nets |= {
        "Keras narrow": in_keras(layers.Dense(16, "relu")),
        "Keras tanh": in_keras(layers.Dense(64, "tanh")),
        "Keras three": in_keras(layers.Dense(64, "relu"), layers.Dense(64, "relu")),
        "Keras batch norm": in_keras(layers.Dense(64), layers.BatchNormalization(), layers.ReLU()),
        "Keras convolution": in_keras(image, layers.Conv2D(4, 5, 2, activation="relu"), layers.Flatten()),
        "Keras pooling": in_keras(image, layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(64, "relu")),
        "Keras decay": in_keras(layers.Dense(64, "relu", kernel_regularizer=keras.regularizers.L2(1e-3))),
        "PyTorch narrow": in_pytorch(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)),
        "PyTorch tanh": in_pytorch(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10)),
        "PyTorch GELU": in_pytorch(nn.Linear(784, 64), nn.GELU(), nn.Linear(64, 10)),
        "PyTorch three": in_pytorch(
            nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "PyTorch batch norm": in_pytorch(
            nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "PyTorch convolution": in_pytorch(
            flat, nn.Conv2d(1, 4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
        ),
        "PyTorch smoothing": in_pytorch(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10), loss=smooth),
        "PyTorch batches of 16": in_pytorch(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10), size=16),
        "PyTorch slower": in_pytorch(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10), rate=0.05),
    }
    return nets


def table():
    """The table as text: kind, program, tool, and for each check 1 (alarm), 0, or nothing (not asked)."""
    page = lessons.load("21_mistakes", until="t-buffer-run", edit={"mistake": COLLECT})
    checks, more = page["CHECKS"], seven(page)
    names = [check.__name__ for check in [*checks, *more]]
    right = [("right", [{}] * 3, ()), ("right, dropout", page["drop"], ("gradients_fit", "same_step_twice"))]
    right[1][1][0] = page["drop"][0] | {"P_test": page["at_rest"]}
    lines = io.StringIO()
    write = csv.writer(lines, lineterminator="\n").writerow
    write(["kind", "program", "tool", *names])

    def ask(kind, name, tool, net, program=None, skip=()):
        skip = {getattr(each, "__name__", each) for each in skip}
        said = [int(not f(net)) if f.__name__ not in skip else "" for f in checks]
        said += [int(not f(net, program)) if f.__name__ not in skip else "" for f in more]
        write([kind, name, tool, *said])

    for name, edits, skip in [*right, *page["rows"]]:
        kind = "right" if name.startswith("right") else "wrong"
        for tool, edit in zip(page["LESSON_3"], edits, strict=False):
            if edit is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    program = page["trained"](tool, edit, 3)
                except Exception:  # it raises: there is nothing to ask
                    continue
                reached = program["accuracy"]  # before the net answers for a few images
                program |= dict(edit=edit, tool=tool, y_right=program["y_test"], reached=reached)
                ask(kind, name, tool, page["NETS"][tool](program), program, skip)
    for name, net in of_another_kind(page).items():
        ask("other", name.partition(" ")[2], name.partition(" ")[0], net)
    return lines.getvalue()


def test_the_committed_table_is_what_the_checks_say():
    assert TABLE.read_text(encoding="utf-8") == table(), "python tests/test_twelve_checks.py writes it anew"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8", newline="\n")
