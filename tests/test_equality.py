"""The three tools compute the same numbers, at every step; and the checks that say so can fail."""

import inspect
from itertools import combinations

import numpy as np
import pytest

from helpers import lessons, records

LESSONS = ("03_mlp", "04_optimizers", "05_custom_training", "06_convolution", "07_recurrence")
LESSONS += ("08_probability", "10_deployment")
TOOLS = ("numpy", "keras", "pytorch")
CHANGES_OF_5 = ("smoothing", "focal", "stairs", "penalty", "two", "accumulation")
SHAPES = {}
SHAPES["03_mlp"] = {
    "losses": (1250,),
    "dW1": (784, 128),
    "db1": (128,),
    "dW2": (128, 10),
    "db2": (10,),
    "W1": (784, 128),
    "b1": (128,),
    "W2": (128, 10),
    "b2": (10,),
    "predictions": (1000,),
    "accuracy": (),
}
SHAPES["04_optimizers"] = {"SGD losses": (125,), "Lion losses": (125,)}
# Of lesson 4's forms, each tool records its own, and NumPy both.
SIX = {"keras": "Keras's six losses", "pytorch": "PyTorch's six losses"}
SHAPES["05_custom_training"] = {
    **{f"{change}_losses": (125,) for change in (*CHANGES_OF_5, "heads")},
    **{f"{change}_W2": (128, 10) for change in (*CHANGES_OF_5, "heads", "frozen")},
    **{f"{change}_b1": (128,) for change in CHANGES_OF_5},
    "heads_W3": (128, 1),
    "norms": (1000,),
    "S": (10, 784),
    "fooled": (3, 6),
}
LAYERS_OF_6 = {"W1": (25, 8), "b1": (8,), "W2": (200, 16), "b2": (16,), "W3": (256, 10), "b3": (10,)}
SHAPES["06_convolution"] = {
    "losses": (250,),
    **LAYERS_OF_6,
    **{f"d{name}": shape for name, shape in LAYERS_OF_6.items()},
    "features": (4, 4, 16),
    "predictions": (1000,),
    "shifted": (7,),
    "mlp_shifted": (7,),
    "turned": (24, 24),
    "normed": (8, 5),
    "dropout_losses": (10,),
}
# A size for each kind of network: the widths of its blocks, the shape of its biases, its steps.
WIDTHS = {"RNN": (64, (64,), 336), "LSTM": (256, (256,), 336), "GRU": (192, (2, 192), 112)}
WIDTHS["first"] = (64, (64,), 20)  # gradients at the start, and losses without clipping
SHAPES["07_recurrence"] = {"influence": (8, 28), "forget": (2, 28)}
for name, (width, biases, steps) in WIDTHS.items():
    shapes = ((28, width), (64, width), biases, (64, 10), (10,))
    SHAPES["07_recurrence"] |= {f"{name}_losses": (steps,)}
    SHAPES["07_recurrence"] |= {f"{name}_{k}": shape for k, shape in zip("WUbVv", shapes, strict=True)}
SHAPES["10_deployment"] = {"P": (1000, 10), "P of the file": (1000, 10)}

SHAPES["08_probability"] = {"losses": (1000,), "slopes": (4, 2000), "ratio": (2000,)}
SIZES_OF_8 = {"W1": (784, 64), "b1": (64,), "W2": (64, 4), "b2": (4,)}
SIZES_OF_8 |= {"W3": (2, 64), "b3": (64,), "W4": (64, 784), "b4": (784,)}
SHAPES["08_probability"] |= {f"weights_{name}": shape for name, shape in SIZES_OF_8.items()}
SHAPES["08_probability"] |= {f"first_{name}": SIZES_OF_8[name] for name in ("W2", "b2", "W3", "b3")}
SHAPES["08_probability"] |= {"density_Gamma": (3,), "density_Geometric": (2,), "density_Dirichlet": ()}


@pytest.fixture(scope="module")
def runs(ran):
    """What each notebook computes now."""
    return lambda lesson, tool: ran(f"{lesson}_{tool}").record


def assert_agreed(lesson, one, other):
    common = one.keys() & other.keys()
    assert common >= SHAPES[lesson].keys()
    for key in common:
        assert records.difference(key, one[key], other[key]) <= records.AGREED, key


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("lesson", LESSONS)
def test_records_have_one_layout(runs, lesson, tool):
    for key, shape in SHAPES[lesson].items():
        array = runs(lesson, tool)[key]
        assert array.shape == shape, key
        assert array.dtype == ("int64" if key == "predictions" else "float64"), key
        # What never moves, or a history of zeros, would agree as well.
        assert array.size == 1 or np.unique(array).size > 1, key
        assert not key.endswith("losses") or array.min() > 0, key


@pytest.mark.parametrize("pair", combinations(TOOLS, 2), ids="-".join)
@pytest.mark.parametrize("lesson", LESSONS)
def test_tools_agree(runs, lesson, pair):
    assert_agreed(lesson, runs(lesson, pair[0]), runs(lesson, pair[1]))


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("lesson", LESSONS)
def test_recorded_runs_are_current(runs, lesson, tool):
    assert_agreed(lesson, runs(lesson, tool), records.load(f"{lesson}_{tool}"))


@pytest.mark.parametrize("tool", SIX)
def test_a_tool_records_what_it_has_computed_itself(runs, tool):
    own, ours = runs("04_optimizers", tool), runs("04_optimizers", "numpy")
    weights = SIX[tool].replace("losses", "W2, b2")
    assert own.keys() & set(SIX.values()) == {SIX[tool]}  # the other tool's forms are NumPy's to compute
    for key, shape in {SIX[tool]: (125, 6), weights: (1290, 6)}.items():
        assert own[key].shape == ours[key].shape == shape
        assert records.difference(key, own[key], ours[key]) <= records.AGREED, key
        assert len(np.unique(own[key][-1])) == 6  # six optimizers


def test_one_name_means_different_things_in_two_tools(runs):
    keras, pytorch = (runs("04_optimizers", tool)[key] for tool, key in SIX.items())
    for one, other in zip(keras.T, pytorch.T, strict=True):
        assert records.difference("losses", one, other) > 1e-8


def test_the_records_of_lesson_5_are_small_and_changes_change_something(runs):
    plain = records.load("03_mlp_numpy")["losses"][:125]
    for tool in TOOLS:
        path = records.FOLDER / f"05_custom_training_{tool}.npz"
        assert path.stat().st_size <= 300_000
        for change in CHANGES_OF_5:
            losses = runs("05_custom_training", tool)[f"{change}_losses"]
            assert np.abs(losses / plain - 1).max() > 1e-2, f"{change} has changed nothing"


def first_epoch(tool, **replace):
    """A lesson's first epoch, with pieces of its source replaced: losses, weights, answers."""
    program = lessons.load(f"03_mlp_{tool}", until="evaluate-run", EPOCHS=1, **replace)
    return {key: np.asarray(program[key]) for key in ("losses", "W1", "b1", "W2", "b2", "P_test")}


@pytest.fixture(scope="module")
def reference():
    return first_epoch("numpy")


# One changed line each, in the program of one tool. The last lines of a run count those that are caught.
MUTATIONS = {
    "model": [
        ("numpy", "A1 = np.maximum(Z1, 0)", "A1 = np.maximum(Z1, 0.001 * Z1)"),
        ("numpy", "W1 + b1", "W1"),
        ("numpy", "E / E.sum(axis=1, keepdims=True)", "E / (1e-9 + E.sum(axis=1, keepdims=True))"),
        ("numpy", "seed=3", "seed=4"),
        ("numpy", "6 / (n_in + n_out)", "6 / n_in"),
        ("pytorch", "torch.from_numpy(array.T)", "torch.from_numpy(array.T).abs()"),
        ("pytorch", "numpy().T.copy()", "numpy().copy()"),  # a weight, transposed
        ("pytorch", "torch.relu(self.hidden(X))", "torch.relu(self.hidden(X)).float().double()"),
        ("pytorch", "nn.CrossEntropyLoss()", "nn.CrossEntropyLoss(label_smoothing=1e-9)"),
        ("keras", 'activation="relu"', 'activation="gelu"'),
        # Keras recovers the logits from behind a sigmoid as well: only the probabilities give this one away.
        ("keras", 'activation="softmax"', 'activation="sigmoid"'),
        ("keras", "keras.config.set_floatx(DTYPE)", "keras.config.set_floatx('float32')"),
    ],
    "gradients": [
        ("numpy", "dZ1 = dA1 * (Z1 > 0)", "dZ1 = dA1 * (Z1 < 0)"),  # the ReLU mask, flipped
        ("numpy", "dZ1 = dA1 * (Z1 > 0)", "dZ1 = dA1 * (A1 >= 0)"),  # the ReLU mask, always true
        ("numpy", "dZ2 = (P - Y) / len(X)", "dZ2 = P - Y"),  # 1/n dropped
        ("numpy", "dW2 = A1.T @ dZ2", "dW2 = Z1.T @ dZ2"),
        ("numpy", "dA1 = dZ2 @ W2.T", "dA1 = dZ2 @ np.abs(W2.T)"),
        ("numpy", "dW1 = X.T @ dZ1", "dW1 = X.T @ dA1"),
        ("pytorch", "loss.backward()", "(loss * (1 + 1e-9)).backward()"),
        ("pytorch", "optimizer.zero_grad()", "pass"),
    ],
    "update": [
        ("numpy", "w -= LEARNING_RATE * dw", "w -= 1.0000001 * LEARNING_RATE * dw"),
        ("numpy", "w -= LEARNING_RATE * dw", "w += LEARNING_RATE * dw"),
        ("pytorch", "optimizer.step()", "optimizer.step(), optimizer.step()"),
        ("pytorch", "lr=rate)", "lr=rate, weight_decay=1e-9)"),
        ("keras", "SGD(LEARNING_RATE)", "SGD(LEARNING_RATE, momentum=1e-9)"),
    ],
    "data order": [
        ("numpy", "for rows in epoch:", "for rows in epoch[[0] * len(epoch)]:"),  # one batch, again and again
        ("numpy", "rng.permutation(len(X_train))", "np.arange(len(X_train))"),  # no shuffling
        ("numpy", "X_train = x_train", "X_train = 255 / 256 * x_train"),
        ("pytorch", "batch_sampler=rows", "batch_size=BATCH"),  # in the file's order
        ("keras", "feed(batches),", "X_train, Y_train, batch_size=BATCH,"),
        ("keras", "yield X_train[rows], Y_train[rows]", "yield X_train[rows], Y_train[rows[::-1]]"),
    ],
    "reductions": [
        ("numpy", "db1 = dZ1.sum(axis=0)", "db1 = dZ1.mean(axis=0)"),
        ("numpy", "-np.log(P[Y == 1]).mean()", "-np.log(P[Y == 1]).sum()"),
        ("pytorch", "nn.CrossEntropyLoss()", 'nn.CrossEntropyLoss(reduction="sum")'),
        ("keras", "self.model.reset_metrics()", "pass"),  # the running mean in the place of the batch's loss
        ("keras", 'loss="categorical_crossentropy"', 'loss="mse"'),
    ],
}
CHANGES = [(kind, *change) for kind, changes in MUTATIONS.items() for change in changes]


def test_lines_of_every_kind_are_broken_in_every_tool():
    assert len({change[1:] for change in CHANGES}) == len(CHANGES) >= 25
    assert all(len(changes) >= 5 for changes in MUTATIONS.values())
    assert {tool for _, tool, _, _ in CHANGES} == set(TOOLS)


@pytest.mark.makers
@pytest.mark.parametrize("tool", TOOLS)
def test_first_epochs_agree(reference, tool):
    for key, array in first_epoch(tool).items():
        assert records.difference(key, array, reference[key]) <= records.AGREED, key


@pytest.mark.makers
@pytest.mark.parametrize(
    ("kind", "tool", "old", "new"), CHANGES, ids=[f"{c[0]}, {c[1]}: {c[3]}" for c in CHANGES]
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_broken_line_is_caught(reference, kind, tool, old, new):
    broken = first_epoch(tool, replace={old: new})
    same_shapes = all(broken[key].shape == reference[key].shape for key in reference)
    assert not same_shapes or any(
        records.difference(key, broken[key], reference[key]) > records.AGREED for key in reference
    )


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_broken_line_shows_in_the_printed_table(reference, capsys):
    broken = first_epoch("numpy", replace={"(P - Y) / len(X)": "(P - Y)"})
    recorded = records.load("03_mlp_keras")
    steps = len(broken["losses"])
    assert records.difference("losses", reference["losses"], recorded["losses"][:steps]) <= records.AGREED
    full = dict(recorded, losses=np.r_[broken["losses"], recorded["losses"][steps:]], W1=broken["W1"])
    with pytest.raises(AssertionError, match="losses from Keras's"):
        records.compare("03_mlp_numpy", full)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "from step 2" in lines["losses"] and "apart" in lines["W1"] and "apart" not in lines["dW1"]


CHECK = ("check-tool", "gradients-check-define", "gradients-check")
FINITE_DIFFERENCES = {  # the program's last cell, what else the check needs, and a gradient to break
    "numpy": ("gradients-define", ["model-run"], {"(Z1 > 0)": "(A1 >= 0)"}),
    "keras": ("loss-define", ["model-run"], {"return [g.numpy()": "return [1.001 * g.numpy()"}),
    "pytorch": (
        "loss-define",
        ["model-run"],
        {"loss_fn(probe(X), y).backward()": "(1.001 * loss_fn(probe(X), y)).backward()"},
    ),
}


@pytest.mark.makers
@pytest.mark.parametrize("tool", TOOLS)
def test_finite_differences_hold_and_can_fail(tool, capsys):
    until, also, broken = FINITE_DIFFERENCES[tool]

    def verdicts(replace=None):
        lessons.load(f"03_mlp_{tool}", until=until, also=[*also, *CHECK], replace=replace)
        return ["within" in line for line in capsys.readouterr().out.splitlines() if "finite" in line]

    assert verdicts() == [True] * 4
    with pytest.raises(AssertionError, match="finite differences"):
        verdicts(broken)


def test_the_keras_timer_times_the_type_it_names():
    # A layer keeps its type whatever `set_floatx` says later: easily, "float32" would be float64.
    timer = ["measure-define", "measure-timer"]
    lesson = lessons.load("03_mlp_keras", until="update-define", also=timer)
    for dtype in ("float32", "float64"):
        net = inspect.getclosurevars(lesson["fit_timer"](dtype, rows=64)).nonlocals["net"]
        assert {weight.dtype for weight in net.weights} == {dtype}
