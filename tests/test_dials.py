"""Every dial of lesson 20 makes a gap, and NumPy, changed to match, closes it, or it is said why not."""

import pytest

LESSONS = ("20_equality",)
DIALS = (
    "Initial weights: Glorot, zero bias",
    "Initial weights: uniform, with bias",
    "Shuffling",
    "Adam: value of epsilon",
    "Adam: place of epsilon",
    "Adam: betas through float32",
    "Momentum: rate inside the velocity",
    "RMSprop: rho and epsilon",
    "Loss reduction: sum",
    "Last partial batch: mean of means",
    "fit's running mean, not evaluate",
    "Loss on probabilities: clipping",
    "Double softmax",
    "ReLU at exactly 0, as maximum",
    "float32",
    "Batch norm: momentum",
    "Batch norm: epsilon",
    "Batch norm: running variance",
    "Inputs of another type",
    "Keras on PyTorch: float32 products",
)
# These can't be closed: a unit in the last place of a float32 is larger than the promise.
IN_32_BITS = ("float32", "Keras on PyTorch: float32 products")


@pytest.fixture(scope="module")
def page(ran):
    return ran("20_equality")


@pytest.fixture(scope="module")
def rows(page):
    """The verdict table, as this run has made it."""
    lines = page.outputs["table"][0].data["text/markdown"].splitlines()[2:]
    return {line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in lines}


def test_every_dial_is_turned(rows):
    assert tuple(rows) == DIALS


@pytest.mark.parametrize("dial", DIALS)
def test_dial_makes_a_gap_and_numpy_closes_it(rows, dial):
    gap, whose, align, follows = rows[dial]
    assert whose and align
    if dial in IN_32_BITS:
        assert gap.startswith("within") and not follows.startswith("within")
    else:
        assert float(gap) > 1e-9
        assert follows.startswith("within ") and float(follows.split()[1]) <= 1e-12


def test_what_a_cell_says_of_a_tool(page):
    said = "".join(page.text(cell.id) for cell in page.notebook.cells if cell.cell_type == "code")
    for line in ("Keras's gradient is exactly zero: True", "PyTorch: raises RuntimeError"):
        assert f"{line}\n" in said
    for name, slope in {"keras.ops.relu": 0, "torch.relu": 0, "torch.maximum": 0.5, "tf.maximum": 1}.items():
        assert any(
            line.split()[:1] == [name] and float(line.split()[-1]) == slope for line in said.splitlines()
        )
