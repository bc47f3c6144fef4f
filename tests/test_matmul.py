"""Lesson 01: the three tools give the same products, and a changed line shows."""

import numpy as np
import pytest

from helpers import lessons, records

LESSONS = ("01_matmul",)
TOOLS = ("numpy", "keras", "pytorch")
# One changed line each, and the entry of the record that gives it away.
MUTATIONS = [
    ("numpy", "A[i][k] * B[k][j]", "A[i][k] * B[j][k]", "by_hand"),
    ("numpy", "C = A @ B", "C = A * B", "product"),
    ("numpy", "batched = S @ T", "batched = np.dot(S, T)", "batched"),
    ("numpy", 'M.astype("float32") @', "M @", "rounded32"),
    ("numpy", "guesses - truth", "guesses - truth[:, None]", "mean_square"),
    ("numpy", "np.asarray(Z1).argmax(axis=1)", "np.asarray(Z1).argmin(axis=1)", "answers"),
    ("numpy", "np.ones_like(C) @ B.T", "np.ones_like(C) @ B", "dA"),
    ("numpy", "Z1 = X @ W1 + b1", "Z1 = X @ W1", "Z1"),
    ("keras", 'tf.cast(M, "float32")', 'tf.cast(M + 1, "float32")', "rounded32"),
    ("keras", "tf.reduce_mean(differences**2)", "tf.reduce_sum(differences**2)", "mean_square"),
    ("keras", "dA = tape.gradient(s, A_box)", "dA = tape.gradient(s, B_box)", "dA"),
    ("keras", "factor * (A @ B)", "factor * (B @ A)", "traced"),
    ("pytorch", "batched = S @ T", "batched = S.abs().neg() @ T", "batched"),
    ("pytorch", "(A_leaf @ B).sum()", "(A_leaf @ B.T).sum()", "dA"),
    ("pytorch", "torch.from_numpy(W1) +", "torch.from_numpy(W1).float().double() +", "Z1"),
]


@pytest.mark.parametrize("tool", TOOLS)
def test_recorded_runs_agree_relatively(tool):
    mine, reference = records.load(f"01_matmul_{tool}"), records.load("01_matmul_numpy")
    np.testing.assert_array_equal(mine["product"], [[19, 22], [43, 50]])
    assert mine.keys() == reference.keys()
    for key, array in reference.items():
        np.testing.assert_allclose(mine[key], array, rtol=records.AGREED, atol=0, err_msg=key)


@pytest.mark.parametrize("tool", TOOLS)
def test_recorded_runs_are_current(ran, tool):
    now, recorded = ran(f"01_matmul_{tool}").record, records.load(f"01_matmul_{tool}")
    assert now.keys() == recorded.keys()
    for key, array in recorded.items():
        assert records.difference(key, now[key], array) <= records.AGREED, key


def test_the_layer_answers_with_the_nearest_mean_image():
    lesson = lessons.load("01_matmul_numpy", until="data-batch")
    distances = np.linalg.norm(lesson["X"][:, :, None] - lesson["W1"], axis=1)
    np.testing.assert_array_equal(records.load("01_matmul_numpy")["answers"], distances.argmin(axis=1))


@pytest.mark.makers
@pytest.mark.parametrize(("tool", "old", "new", "key"), MUTATIONS, ids=[f"{m[0]}: {m[2]}" for m in MUTATIONS])
def test_a_changed_line_shows(tool, old, new, key):
    now = np.asarray(lessons.load(f"01_matmul_{tool}", replace={old: new})["record"][key])
    recorded = records.load("01_matmul_numpy")[key]
    assert now.shape != recorded.shape or records.difference(key, now, recorded) > records.AGREED
