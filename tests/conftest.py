"""Counts, at the end of a run, how many of the deliberately broken lines the checks have caught."""

import re
from collections import Counter

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
