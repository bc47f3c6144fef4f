"""Lesson 5 by other means: what fools the network, what `fit` reports, which doors were gone through."""

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT, counting, lessons, records

LESSONS = ("05_custom_training",)
TOOLS = tuple(records.TOOLS)


def cell(name, cell_id):
    (found,) = (cell for cell in lessons.cells(name) if cell.id == cell_id)
    return found


def printed(name, cell_id):
    return "".join(output.get("text", "") for output in cell(name, cell_id).outputs)


def alternative(name, cell_id):
    """What a picture says of itself."""
    (said,) = (output.metadata["image/png"]["alt"] for output in cell(name, cell_id).outputs)
    return said


@pytest.fixture(scope="module")
def attacks():
    """What fools the network, found by PyTorch in the weights of lesson 3, and in those of the penalty."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    lesson = lessons.load("03_mlp_numpy", until="train-define", EPOCHS=1)
    constants = lessons.load("05_custom_training_numpy", until="constants")
    X, y = torch.from_numpy(lesson["X_test"]), torch.from_numpy(lesson["y_test"]).long()
    rows_of = torch.from_numpy(lesson["batches"][0])
    X_train, y_train = torch.from_numpy(lesson["X_train"]), torch.from_numpy(lesson["y_train"]).long()

    def scores(X, params):
        return torch.relu(X @ params[0] + params[1]) @ params[2] + params[3]

    def slopes(X, y, params, **more):
        X = X.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(scores(X, params), y, reduction="sum")
        return torch.autograd.grad(loss, X, **more)[0]

    def trained(penalty):
        params = [torch.tensor(w, requires_grad=True) for w in lesson["start"]]
        for rows in rows_of:
            S = slopes(X_train[rows], y_train[rows], params, create_graph=True)
            loss = torch.nn.functional.cross_entropy(scores(X_train[rows], params), y_train[rows])
            grads = torch.autograd.grad(loss + penalty * (S**2).sum() / len(rows), params)
            with torch.no_grad():
                for w, dw in zip(params, grads, strict=True):
                    w -= lesson["LEARNING_RATE"] * dw
        return params

    plain, careful = trained(0), trained(constants["PENALTY"])
    random = torch.from_numpy(np.random.default_rng(seed=1).standard_normal(X.shape))
    ways = [(plain, random), (plain, slopes(X, y, plain)), (careful, slopes(X, y, careful))]

    def answers(params, S, epsilon):
        return scores((X + epsilon * S.sign()).clamp(0, 1), params).argmax(dim=1)

    shares = [
        [(answers(*way, epsilon) == y).double().mean().item() for epsilon in constants["EPSILONS"]]
        for way in ways
    ]
    epsilon = constants["EPSILONS"][len(constants["EPSILONS"]) // 2]
    before, after = (answers(plain, slopes(X, y, plain), by) for by in (0, epsilon))
    turned = torch.where((before == y) & (after != y))[0][:4]
    return np.array(shares), epsilon, before[turned].tolist(), after[turned].tolist()


@pytest.mark.parametrize("tool", TOOLS)
def test_what_fools_the_network_is_what_another_gradient_finds(ran, attacks, tool):
    shares, epsilon, before, after = attacks
    np.testing.assert_allclose(ran(f"05_custom_training_{tool}").record["fooled"], shares, rtol=0, atol=1e-12)
    # What the page concludes from it.
    random, signs, careful = shares
    assert random.min() > 0.8 and signs[-1] < 0.05 and (careful[2:] > signs[2:]).all()
    said = alternative(f"05_custom_training_{tool}", "image-picture")
    as_they_were, moved = (", ".join(map(str, digits)) for digits in (before, after))
    assert (
        f"as they were, read as {as_they_were}, and below them moved by {epsilon}, read as {moved}." in said
    )


def test_fit_reports_what_was_learned_wherever_we_went_in(ran):
    text = "".join(
        output.get("text", "") for output in cell("05_custom_training_keras", "in-short-train").outputs
    )
    epochs = re.findall(r" accuracy: (\S+) - loss: (\S+) - val_accuracy: (\S+) - val_loss: (\S+)", text)
    assert len(epochs) == 5
    assert all(float(figure) > 0.05 for epoch in epochs for figure in epoch)
    assert float(epochs[-1][0]) > 0.9


HISTORIES = """
import contextlib, inspect, io, json, sys
from helpers import lessons

with contextlib.redirect_stdout(io.StringIO()):
    lesson = lessons.load("05_custom_training_keras", until="two-model")
found = {}
for name in ("stairs", "penalty", "two"):  # models of their own
    around = inspect.getclosurevars(lesson["runs"][name]).nonlocals
    around["model"].set_weights(lesson["start"])
    for variable, value in zip(around["state"], around["unused"]):
        variable.assign(value)
    data = lesson["feed"](lesson["batches"])
    history = around["model"].fit(data, epochs=125, steps_per_epoch=1, shuffle=False, verbose=0).history
    found[name] = {"losses": lesson["kept"][name][0].tolist(), **history}
print(json.dumps(found, default=float))
"""


def test_the_histories_of_keras_hold_losses_and_accuracies():
    pytest.importorskip("tensorflow")
    done = subprocess.run([sys.executable, "-c", HISTORIES], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    for name, history in json.loads(done.stdout).items():
        assert history["loss"] == history["losses"] and min(history["loss"]) > 0, name
        assert np.mean(history["accuracy"]) > 0.5 and max(history["accuracy"]) > 0.9, name
        # Of 32 digits some are right: no mean of several batches.
        assert np.abs(32 * np.array(history["accuracy"]) % 1).max() < 1e-9, name


def test_the_doors_are_those_that_the_pages_name():
    page = lessons.load("05_custom_training_numpy", until="constants", also=["cost-table"])
    cost = {(wish, tool): (step, loop, doors) for wish, tool, _, _, step, loop, doors in page["cost"]}
    keras = {wish: row for (wish, tool), row in cost.items() if tool == "Keras"}
    assert not any(loop for _, loop, _ in keras.values()), "`fit` survives them all"
    assert [wish for wish, (step, *_) in keras.items() if step] == ["two optimizers"]
    assert keras["gradient penalty"][2] == ["Penalised.compute_loss", "model"]
    assert keras["label smoothing"][2] == keras["accumulation"][2] == ["model.compile"]
    pytorch = {wish: row for (wish, tool), row in cost.items() if tool == "PyTorch"}
    assert [wish for wish, (_, loop, _) in pytorch.items() if loop] == ["accumulation"]
    assert "Stairs.backward" in pytorch["straight-through"][2]
    assert pytorch["two optimizers"][2] == ["optimizer"], "groups of parameters leave the step alone"
    assert keras["focal loss"][2] == ["model.compile"] and pytorch["focal loss"][2] == ["loss_fn"]
    assert not any(loop for (_, tool), (_, loop, _) in cost.items() if tool == "NumPy")
    assert printed("05_custom_training_numpy", "cost-table") == printed(
        "05_custom_training_keras", "cost-table"
    )


def test_a_line_break_costs_nothing():
    (source,) = (
        cell.source for cell in lessons.cells("05_custom_training_pytorch") if cell.id == "smoothing"
    )
    old = counting.program_cells("03_mlp_pytorch")["Loss"]["loss-define"]
    new = source.split("tell")[0]
    assert counting.nodes_changed(old, new) == 2
    assert (
        counting.nodes_changed(old, new.replace("(label", "(\n    label").replace("=SMOOTH", "=\n    SMOOTH"))
        == 2
    )


def test_the_switch_of_a_layer_is_asked_when_keras_compiles():
    for tool, still in (
        ("numpy", "gradient 0"),
        ("keras", "not compiled again"),
        ("pytorch", "gradient set to 0"),  # not by default
    ):
        rows = dict(
            re.findall(
                r"^(.+?) +W1 has moved by up to (\S+)$",
                printed(f"05_custom_training_{tool}", "freezing-run"),
                re.M,
            )
        )
        assert len(rows) == 2 and float(rows.pop(still)) > 1e-4
        assert [float(moved) for moved in rows.values()] == [0.0]


def test_a_step_without_metrics_reports_nothing_true():
    reported, accuracy, metrics, error = printed("05_custom_training_keras", "forgotten-metrics").splitlines()
    assert reported == "reported: {'loss': [0.0]}" and float(accuracy.split()[-1]) > 0.7
    assert metrics == "metrics=['accuracy']:" and "metric has not yet been built" in error


def test_the_rule_of_the_stairs_is_no_derivative_of_the_stairs():
    said = printed("05_custom_training_pytorch", "stairs-detached")
    assert "stairs, right derivative? False" in said
    # The same gradient test, on a rule that is right. And where the two forms of the rule differ: at a bound.
    assert printed("05_custom_training_pytorch", "softplus") == "softplus, right derivative? True\n"
    assert "at 1: 0.0 2.0" in said


def test_nothing_is_left_of_an_earlier_change():
    # Each change begins from lesson 3's program: none of it is changed.
    page = lessons.load("05_custom_training_numpy", until="image-fool")
    lesson = page["lesson"]
    assert all(
        value.__globals__ is lesson
        for value in lesson.values()
        if inspect.isfunction(value) and value.__module__ == "03_mlp_numpy"
    )
    plain = page["kept"]["lesson 3"][0]
    again = page["trainer"]()(page["start"], page["batches"])[0]
    np.testing.assert_array_equal(plain, again)
    np.testing.assert_allclose(plain, records.load("03_mlp_numpy")["losses"][:125], rtol=1e-12)
