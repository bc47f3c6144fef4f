"""Measuring time fairly: calls take turns, two clocks run, and the spread is shown beside the median."""

import contextlib
import itertools
import json
import linecache
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from helpers import THREADS, lessons

ROUNDS = "THREE_WAYS_ROUNDS"  # at most so many: a test run sets two, since nobody reads its times


def _at_most(rounds):
    return min(rounds, int(os.environ.get(ROUNDS, rounds)))


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
    for _ in range(_at_most(rounds)):
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


def clocks() -> np.ndarray:
    """The two clocks, (2,), in seconds: the wall's, and the CPU's of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def turn(call: Callable[[], object], steps: int = 1, seconds: float = 0.03) -> Callable[[], np.ndarray]:
    """Return a function that times `call` by both clocks.

    Args:
        call: what is timed; it is called twice at once, and once before each turn, untimed.
        steps: how many steps one call makes.
        seconds: about how long a turn lasts, of 1 call at least and 100 at most.

    Returns:
        A function without arguments that returns the wall's and the CPU's seconds of a step, (2,).
    """
    call()
    begin = clocks()
    call()
    number = int(min(100, max(1, seconds / max(*(clocks() - begin), 1e-6))))

    def timed():
        call()  # whoever was here before has left other things in the caches
        begin, calls = clocks(), 0
        while calls < number and time.perf_counter() < begin[0] + 5 * seconds:  # or the machine is busy
            call()
            calls += 1
        return (clocks() - begin) / (calls * steps)

    return timed


def serve(turns: dict[str, dict[str, Callable[[], np.ndarray]]], note: object = None) -> None:
    """In a child process: say `note`, then time whatever the parent asks for, until it asks no more.

    Args:
        turns: by request, and by name, functions like those of `turn`.
        note: anything that JSON knows.
    """
    _say(note)
    for request in sys.stdin:
        _say({name: list(timed()) for name, timed in turns[request.rstrip("\n")].items()})


def _say(answer):
    print(f"\n{_MARK}{json.dumps(answer)}", flush=True)


PAUSE = 0.2  # seconds: the threads of the tool before go on looking for work for a while, and hold a core
_MARK = "=> "  # other lines are a library's chatter


class Child:
    """A Python process that serves; it has to be ended, with all that it has started.

    Args:
        program: Python source that calls `serve` at last.
        arguments: what the program finds in sys.argv.
        environment: what it finds in its environment beside what this process has there.
    """

    def __init__(self, program: str, *arguments: str, **environment: str):
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, encoding="utf-8")
        command = [sys.executable, "-c", program, *arguments]
        # In a session of its own: Ctrl-C is for the parent, which ends the child and its compilers.
        self.process = subprocess.Popen(
            command, env=os.environ | environment, start_new_session=True, **pipes
        )

    def answer(self) -> object:
        """Wait for what the child says next; raises RuntimeError, with its last words, if it has ended."""
        for line in self.process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        self.log.seek(0)
        raise RuntimeError(f"a process that was to be timed has ended:\n{self.log.read()[-2000:]}")

    def ask(self, request: str) -> dict[str, list[float]]:
        """Have a request timed, and return the wall's and the CPU's seconds of a step by name."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says more
            print(request, file=self.process.stdin, flush=True)
        return self.answer()

    def end(self) -> None:
        """Kill the process and those that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close(), self.log.close()


_PROGRAM = """
import json, sys
from helpers import timing
page, cell_id, tool, constants = json.loads(sys.argv[1])
timing.serve(*timing.programs(page, cell_id, **constants)["turns"](tool))
"""


def programs(page: str, cell_id: str, **constants: object) -> dict:
    """Run the programs in the text of a page's cell, which use `constants`; return their namespace."""
    source = "\n\n".join(lessons.texts(page, cell_id))
    linecache.cache["<programs>"] = (len(source), None, source.splitlines(keepends=True), "<programs>")
    namespace = {"__name__": "programs", **constants}
    exec(compile(source, "<programs>", "exec"), namespace)
    return namespace


def accelerators() -> dict[str, tuple[str, str]]:
    """What PyTorch and TensorFlow see beside the processor: by tool a device to ask for, and its name."""
    import tensorflow as tf
    import torch

    found = {}
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator().type
        found["pytorch"] = device, torch.cuda.get_device_name() if device == "cuda" else device
    for device in tf.config.list_physical_devices("GPU")[:1]:
        details = tf.config.experimental.get_device_details(device)
        found["keras"] = "GPU", details.get("device_name", device.name)
    return found


def sweeps(
    page: str, cell_id: str, plan: dict[str, tuple[int, dict[str, str], dict]], rounds: int
) -> tuple[dict[str, dict], dict[tuple, object]]:
    """Time the programs in the text of a cell, each tool in a process of its own, sweep after sweep.

    They define `turns(tool)`, which returns what `serve` takes. The processes get ready side by side. In a
    round, each size goes to each tool in turn.

    Args:
        page: the name of a notebook.
        plan: by sweep the number of threads, for each tool its DEVICE ("cpu": it sees no other), and the
            values of constants that the programs use; SIZES, the requests, is one of them.
        rounds: two or more, or there are no quartiles.

    Returns:
        By sweep, size and name the wall's and the CPU's seconds of a step, (rounds, 2); and by sweep and
        tool the notes.

    Raises:
        ValueError: fewer than two rounds.
        RuntimeError: a process has ended; the message holds its last words.
    """
    if rounds < 2:
        raise ValueError(f"quartiles take two rounds or more, not {rounds}")
    children, times = {}, {}
    with contextlib.ExitStack() as stack:
        # What torch.compile writes goes where nothing is left over from an earlier run; no compilers in the
        # background; and no trial of what the compiler can do, which takes seconds.
        cache = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        quick = dict(COMPILE_THREADS="1", VEC_ISA_OK="1", CACHE_DIR=cache)
        quick = {f"TORCHINDUCTOR_{name}": value for name, value in quick.items()}
        quick |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), cache)  # a process that is killed doesn't tidy up
        for sweep, (threads, devices, constants) in plan.items():
            for tool, device in devices.items():
                environment = quick | dict.fromkeys(THREADS, str(threads))
                environment |= {"CUDA_VISIBLE_DEVICES": "-1"} if device == "cpu" else {}
                what = json.dumps([page, cell_id, tool, constants | {"DEVICE": device}])
                children[sweep, tool] = child = Child(_PROGRAM, what, **environment)
                stack.callback(child.end)
        notes = {key: child.answer() for key, child in children.items()}
        for sweep, (threads, devices, constants) in plan.items():
            times[sweep] = found = {size: {} for size in constants["SIZES"]}
            for _, size, tool in itertools.product(range(_at_most(rounds)), found, devices):
                if threads > 1:
                    time.sleep(PAUSE)
                for name, pair in children[sweep, tool].ask(size).items():
                    found[size][name] = [*found[size].get(name, []), pair]
    for found in (each for sizes in times.values() for each in sizes.values()):
        found |= {name: np.array(pairs) for name, pairs in found.items()}
    return times, notes
