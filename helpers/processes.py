"""Starts Python programs beside this one, which end with their block, with this process, or in time."""

import os
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress


@contextmanager
def beside(*arguments, seconds, **options):
    """Run `python ARGUMENTS`, -m MODULE or -c PROGRAM first, in a block; yield it, a Popen with `options`.

    Without input. When the block, so many `seconds` or this process ends, it and all it started are killed.
    """
    command = [sys.executable, "-m", "helpers.processes", str(seconds), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with suppress(OSError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            process.wait()  # Popen's own end doesn't, after an interrupt: a zombie would stay


if __name__ == "__main__":

    def end(*_):
        os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)

    _, limit, kind, program, *rest = sys.argv
    parent, sys.argv = os.dup(0), [program, *rest]  # a pipe, which closes when whoever has its other end dies
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for wait in (lambda: os.read(parent, 1), lambda: threading.Event().wait(float(limit))):
        threading.Thread(target=lambda wait=wait: end(wait()), daemon=True).start()
    run = runpy.run_module if kind == "-m" else lambda source, run_name: exec(source, {"__name__": run_name})
    run(program, run_name="__main__")
