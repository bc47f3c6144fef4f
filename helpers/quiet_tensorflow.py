"""Import this module before Keras or TensorFlow: they start quietly, Keras on TensorFlow, in one thread.

TensorFlow writes to file descriptor 2 before any setting of its own can silence it, so the descriptor
points to a temporary file while it starts. When the start fails, what was written is shown after all.
One thread, since products as small as the lessons' gain nothing from more. Where a variable of the
environment says otherwise, it stays so.
"""

import contextlib
import os
import sys
import tempfile

from helpers import THREADS

for name in THREADS:
    os.environ.setdefault(name, "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # after start-up: errors only
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave a GPU's memory to other processes, too


@contextlib.contextmanager
def _descriptor_2_held_back():
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with _descriptor_2_held_back():
    import tensorflow

    tensorflow.constant(0) + 1  # the first operation sets up the devices, which writes a few lines more
