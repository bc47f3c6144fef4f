"""Counts, at the end of a run, how many of the deliberately broken lines the checks have caught."""

import re
import tempfile
from collections import Counter

import pytest

BROKEN = re.compile(r"::test_a_broken_line_is_caught\[(\w+(?: \w+)*),")


def pytest_terminal_summary(terminalreporter):
    """Print caught/total, and the same for each kind of change; nothing when no line was broken."""
    total, caught = Counter(), Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            match = BROKEN.search(getattr(report, "nodeid", ""))
            # A test that can't be set up has no call: it counts as not caught.
            if match and (report.when == "call" or outcome == "error"):
                total[match[1]] += 1
                caught[match[1]] += outcome == "passed"
    if total:
        kinds = ", ".join(f"{kind} {caught[kind]}/{total[kind]}" for kind in total)
        terminalreporter.write_line(f"broken lines caught: {caught.total()}/{total.total()} ({kinds})")


@pytest.fixture
def no_leftovers(tmp_path_factory, monkeypatch):
    """Give a test, and what it starts, a folder for temporary files that has to be empty afterwards."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("TMPDIR", "TEMP", "TMP", "JUPYTER_RUNTIME_DIR"):  # the last one for the kernels' addresses
        monkeypatch.setenv(name, str(folder))
    yield
    assert [*folder.iterdir()] == []
