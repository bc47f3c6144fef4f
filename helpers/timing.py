"""Measuring time fairly: calls take turns in one run, and the spread is shown beside the median."""

import statistics
import time
from collections.abc import Callable


def interleaved(
    calls: dict[str, Callable[[], object]], rounds: int = 15, number: int | None = 50
) -> dict[str, list[float]]:
    """Time several calls in turn (A B C, A B C, ...), so that a busy moment strikes all of them.

    Args:
        calls: the calls to time, by name; each is called once beforehand, untimed.
        rounds: how many times each takes its turn.
        number: calls in a turn; a turn's time is divided by it. With None a turn is one call, which
            times itself and returns its seconds.

    Returns:
        For each name its `rounds` times, in seconds a call.
    """
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if number is None:
                seconds[name].append(call())
                continue
            start = time.perf_counter()
            for _ in range(number):
                call()
            seconds[name].append((time.perf_counter() - start) / number)
    return seconds


def median(seconds: list[float]) -> float:
    """The median of a list of times, in the list's own unit."""
    return statistics.median(seconds)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def table(seconds: dict[str, list[float]], relative_to: str | None = None) -> None:
    """Print each median in microseconds, its quartiles, and its ratio to one row (by default the first).

    Args:
        seconds: times by name, in seconds, as `interleaved` returns them; at least two a name.
        relative_to: the name of the row that counts as 1.

    Raises:
        KeyError: `relative_to` is not among the names.
    """
    base = median(seconds[relative_to or next(iter(seconds))])
    width = max(map(len, seconds))
    print(f"{'':{width}}  {'median':>9}  {'quartiles':>17}   ratio")
    for name, values in seconds.items():
        low, middle, high = (_short(1e6 * quartile) for quartile in statistics.quantiles(values, n=4))
        ratio = median(values) / base
        print(f"{name:{width}}  {middle:>6} us  {low:>6} to {high:>6}  {ratio:6.2f}")
