"""What a tool costs to have is read off its own installation."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import footprint


def test_what_packages_ask_for_counts_with_them():
    beneath = footprint.with_requirements(["scikit-learn"])
    assert {"scikit-learn", "scipy", "numpy", "joblib", "threadpoolctl"} <= beneath
    assert footprint.with_requirements(["numpy"]) == {"numpy"}
    assert footprint.with_requirements(["no-such-package"]) == set()


def test_megabytes_are_those_of_the_files():
    (location,) = [
        line.removeprefix("Location: ")
        for line in subprocess.run(
            [sys.executable, "-m", "pip", "show", "tabulate"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if line.startswith("Location: ")
    ]
    size = sum(file.stat().st_size for file in Path(location, "tabulate").rglob("*.py"))
    assert (
        1 < footprint.megabytes(["tabulate"]) * 1e6 / size < 5
    )  # its bytecode and its records are there, too


def test_a_process_imports_and_nothing_else_is_counted():
    packages, disk, seconds, memory = footprint.of("tabulate")
    assert (packages, disk) == (1, footprint.megabytes(["tabulate"]))
    assert seconds > 0 and 5 < memory < 500


def test_what_cannot_be_imported_is_said():
    with pytest.raises(RuntimeError, match=r"(?s)no_such can't be imported.*ModuleNotFoundError"):
        footprint.of("no_such")
