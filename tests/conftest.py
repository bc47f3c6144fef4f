"""Counts, at the end of a run, how many of the broken lines and planted faults were caught, by kind."""

import re
import tempfile
from collections import Counter

import pytest

CAUGHT = re.compile(r"::test_a_(\w+)_is_caught\[(\w+(?: \w+)*),")


def pytest_terminal_summary(terminalreporter):
    """Print caught/total, and the same for each kind; nothing when nothing was broken."""
    total, caught = Counter(), Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            match = CAUGHT.search(getattr(report, "nodeid", ""))
            # A test that can't be set up has no call: it counts as not caught.
            if match and (report.when == "call" or outcome == "error"):
                total[match.groups()] += 1
                caught[match.groups()] += outcome == "passed"
    for what in dict.fromkeys(what for what, _ in total):
        counts = {kind: (caught[one, kind], n) for (one, kind), n in total.items() if one == what}
        kinds = ", ".join(f"{kind} {found}/{n}" for kind, (found, n) in counts.items())
        found, n = map(sum, zip(*counts.values(), strict=True))
        terminalreporter.write_line(f"{what.replace('_', ' ')}s caught: {found}/{n} ({kinds})")


@pytest.fixture
def no_leftovers(tmp_path_factory, monkeypatch):
    """Give a test, and what it starts, a folder for temporary files that has to be empty afterwards."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("TMPDIR", "TEMP", "TMP", "JUPYTER_RUNTIME_DIR"):  # the last one for the kernels' addresses
        monkeypatch.setenv(name, str(folder))
    yield
    assert [*folder.iterdir()] == []
