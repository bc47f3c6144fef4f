"""Lesson 02: its record of operations, and its checks, which notice a broken derivative."""

import numpy as np
import pytest

from helpers import lessons, records

LESSONS = ("02_gradient",)
TOOLS = ["numpy", "keras", "pytorch"]
NAMES = {"settings", "value", "slope", "path", "nabla", "hessian", "softplus"}
# The cells that make up the reverse-mode code, as a reader would count them.
CODE = (
    "record-value record-operations record-operators record-list walk-define arrays-broadcast "
    "network-operations network-operators"
).split()


@pytest.fixture(scope="module")
def lesson():
    return lessons.load("02_gradient_numpy", until="network-operators", skip=["network-lesson"])


def test_the_code_stays_below_eighty_lines_of_72_characters():
    sources = {cell.id: cell.source for cell in lessons.cells("02_gradient_numpy")}
    lines = [line for name in CODE for line in sources[name].splitlines() if line.strip()]
    assert len(lines) < 80, len(lines)


def random_expression(rng, count, steps):
    """Return a function of `count` leaves and a dict of functions that combines the leaves at random."""
    plan = [(rng.integers(9), *rng.integers(count + step - 1, size=2)) for step in range(steps)]

    def expression(leaves, tool):
        values, weights = list(leaves[:-1]), leaves[-1]
        for kind, i, j in plan:
            a, b = values[i], values[j]
            values.append(
                [
                    lambda a, b: a + b,
                    lambda a, b: a - b,
                    lambda a, b: a * b,
                    lambda a, b: a / (b * b + 1),
                    lambda a, b: a**3 * -0.1 + 2,
                    lambda a, b: tool["exp"](-(a * a)) + b,
                    lambda a, b: tool["log"](a * a + 1) * b,
                    lambda a, b: tool["relu"](a) - (b * b + 2) ** -1,
                    lambda a, b: (tool["ones"] * -a) @ weights + b,  # (4, 3) @ (3, 3)
                ][kind](a, b)
            )
        return tool["sum"](sum(values[count - 1 :]))

    return expression


@pytest.mark.parametrize("seed", range(25))
def test_random_expressions_agree_with_pytorch(lesson, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in ((4, 3), (1, 3), (3,), (4, 1), (), (3, 3))]
    expression = random_expression(rng, len(arrays), steps=8)

    ours = {name: lesson[name] for name in ("exp", "log", "relu")}
    ours |= {"sum": lambda a: lesson["sum_to"](a, ()), "ones": np.ones((4, 3))}
    values = [lesson["Value"](array) for array in arrays]
    result = expression(values, ours)

    theirs = {name: getattr(torch, name) for name in ("exp", "log", "relu", "sum")}
    theirs["ones"] = torch.ones(4, 3, dtype=torch.float64)
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = expression(tensors, theirs)
    np.testing.assert_allclose(result.data, expected.item(), rtol=1e-12)

    first = torch.autograd.grad(expected, tensors, create_graph=True, allow_unused=True)
    for value, derivative in zip(values, first, strict=True):
        found = lesson["gradient"](result, value)
        assert (found is None) == (derivative is None)
        if found is not None:
            assert found.data.shape == derivative.shape
            scale = max(1, derivative.abs().max().item())
            np.testing.assert_allclose(found.data, derivative.detach(), rtol=1e-11, atol=1e-12 * scale)


def test_scalars_and_second_derivatives_agree_with_pytorch(lesson):
    torch = pytest.importorskip("torch")

    def function(x, y, exp, log):
        return (x * y - 2) ** 3 / (1 + exp(x)) + log(x) * y**2 - y**-1 + (-x + 3) / 7 + (1 - y) * (2 / x)

    x, y = (lesson["Value"](number) for number in (0.7, 1.3))
    result = function(x, y, lesson["exp"], lesson["log"])
    tensors = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (0.7, 1.3)]
    expected = function(*tensors, torch.exp, torch.log)
    slopes = torch.autograd.grad(expected, tensors, create_graph=True)
    for value, slope in zip((x, y), slopes, strict=True):
        ours = lesson["gradient"](result, value)
        np.testing.assert_allclose(ours.data, slope.item(), rtol=1e-12)
        for other, second in zip((x, y), torch.autograd.grad(slope, tensors, retain_graph=True), strict=True):
            np.testing.assert_allclose(lesson["gradient"](ours, other).data, second.item(), rtol=1e-12)


def test_broadcasting_a_scalar_and_a_column(lesson):
    Value, gradient = lesson["Value"], lesson["gradient"]
    column, number, array = Value(np.ones((4, 1))), Value(2.0), np.arange(24.0).reshape(2, 4, 3)
    result = lesson["sum_to"](array * column + number, ())
    expected = array.sum(axis=(0, 2)).reshape(4, 1)
    np.testing.assert_array_equal(gradient(result, column).data, expected)
    assert gradient(result, number).data == 24


@pytest.mark.parametrize("tool", TOOLS)
def test_the_recorded_runs_are_current(ran, tool):
    now, recorded = ran(f"02_gradient_{tool}").record, records.load(f"02_gradient_{tool}")
    assert now.keys() == recorded.keys()
    for key, array in recorded.items():
        assert records.difference(key, now[key], array) <= records.AGREED, key


def test_the_recorded_runs_agree():
    runs = [records.load(f"02_gradient_{tool}") for tool in TOOLS]
    for run in runs:
        assert run.keys() == NAMES
        assert {array.dtype for array in run.values()} == {np.dtype("float64")}
        np.testing.assert_array_equal(run["path"], runs[0]["path"])  # to the last bit
        for name in NAMES:
            assert run[name].shape == runs[0][name].shape
            np.testing.assert_allclose(run[name], runs[0][name], rtol=1e-12)


def failing(tool, replace=None):
    """Return the names of the numeric checks that a notebook's results don't pass."""
    skip = ["network-lesson"]  # nothing after it needs its results
    found, names = lessons.load(f"02_gradient_{tool}", skip=skip, replace=replace), set()
    for name, (numeric, computed, limit) in found["numeric_pairs"](found["record"]).items():
        try:
            records.agreement(name, numeric, computed, limit)
        except AssertionError:
            names.add(name)
    return names


@pytest.mark.makers
@pytest.mark.parametrize("tool", TOOLS)
def test_the_numeric_checks_pass(tool):
    pytest.importorskip({"numpy": "numpy", "keras": "tensorflow", "pytorch": "torch"}[tool])
    assert failing(tool) == set()


@pytest.mark.makers
@pytest.mark.parametrize(
    ("tool", "old", "new", "caught"),
    [
        ("numpy", "g * n * a", "g * a", "slope, complex"),
        ("numpy", "g * n * a", "g * a", "slope, difference"),
        ("numpy", "(a, lambda g: g * b)", "(a, lambda g: g * a)", "gradient, complex"),
        ("numpy", "(b, lambda g: g * a)", "(b, lambda g: g)", "Hessian, difference"),
        ("numpy", "g * n * a ** (n - 1)", "g * n * Value(a.data) ** (n - 1) + a * 0", "Hessian, difference"),
        ("numpy", "share = found[parent.number] + share", "share = share", "slope, complex"),
        ("numpy", "g * slope", "g * z", "softplus, complex"),
        ("keras", "g * slope", "g * z", "softplus, complex"),
        (
            "keras",
            "outer.jacobian(slopes, point)",
            "2 * outer.jacobian(slopes, point)",
            "Hessian, difference",
        ),
        ("pytorch", "return g * slope", "return g", "softplus, complex"),
        (
            "pytorch",
            "func.grad(of_vector)(point)",
            "func.grad(of_vector)(point.flip(0))",
            "gradient, complex",
        ),
    ],
)
def test_the_numeric_checks_notice_a_broken_derivative(tool, old, new, caught):
    pytest.importorskip({"numpy": "numpy", "keras": "tensorflow", "pytorch": "torch"}[tool])
    assert caught in failing(tool, {old: new})
