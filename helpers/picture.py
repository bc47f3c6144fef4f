"""Draws the README's picture from the notebooks and the recorded runs: who owns what, and what comes out."""

import os
import tempfile
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt

from helpers import ROOT, lessons, plotting, records

PATH = ROOT / "data" / "picture.png"
STAGES = ("batches", "loop", "forward", "loss", "gradient", "update", "metrics", "checkpoint")
SHADES = {"ours": "#404040", "shared": "#a0a0a0", "the tool's": "#e8e8e8"}


def owners(name):
    """Return a dict from stage to "ours", "shared" or "the tool's", read from a lesson's ledger table.

    Raises ValueError for a stage without an owner.
    """
    cell = next(cell for cell in lessons.cells(name) if cell.id == "ledger-table")
    rows = [line.strip("| ").split("|") for line in cell.source.splitlines() if line.count("|") >= 4]
    found = {row[0].strip(): next((o for o in SHADES if row[1].strip().startswith(o)), None) for row in rows}
    missing = [stage for stage in STAGES if not found.get(stage)]
    if missing:
        raise ValueError(f"the ledger of {name} names no owner for {', '.join(missing)}")
    return {stage: found[stage] for stage in STAGES}


def _draw_owners(ax):
    for column, (tool, title) in enumerate(records.TOOLS.items()):
        for row, owner in enumerate(owners(f"03_mlp_{tool}").values()):
            place = (column, -row)
            ax.add_patch(plt.Rectangle(place, 0.94, 0.88, color=SHADES[owner]))
            ink = "white" if owner == "ours" else "black"
            ax.text(column + 0.47, 0.44 - row, owner, ha="center", va="center", color=ink, fontsize=9)
        ax.text(column + 0.47, 1.05, title, ha="center", weight="bold", color=plotting.STYLES[title]["color"])
    ax.set(xlim=(0, 3), ylim=(1 - len(STAGES), 1.4), xticks=[])
    ax.set_yticks([0.44 - row for row in range(len(STAGES))], STAGES)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    ax.set_title("Whose code does it, ours or the tool's?", loc="left", pad=14)


def _draw_losses(ax):
    losses = {title: records.load(f"03_mlp_{tool}")["losses"] for tool, title in records.TOOLS.items()}
    for title, values in losses.items():
        plotting.curve(ax, values, title)
    plotting.loss_axes(ax)
    gap = max(records.difference("losses", a, b) for a, b in combinations(losses.values(), 2))
    steps = len(losses["NumPy"])
    ax.text(
        0.28, 0.62, f"three lines, {steps:,} steps:\nlargest relative gap {gap:.0e}", transform=ax.transAxes
    )
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.88))
    ax.set_title("And the numbers? The same", loc="left", pad=14)


def main():
    """Write data/picture.png, in one move."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(5, 6))
    _draw_owners(axes[0])
    _draw_losses(axes[1])
    with tempfile.TemporaryDirectory(dir=PATH.parent) as folder:
        draft = Path(folder) / PATH.name
        fig.savefig(draft, dpi=120)
        os.replace(draft, PATH)
    plt.close(fig)
    return 0
