"""Speed on Linux: arrays that are freed stay with the process, instead of going back to the system."""

import ctypes
import platform

MMAP_THRESHOLD = -3  # glibc's number for it, in malloc.h


def keep(size: int = 2**25) -> bool:
    """Let glibc keep freed arrays up to `size` bytes for the next ones; return whether it does.

    When TensorFlow has trained, each larger array of NumPy's comes from the system and goes back to it at
    once, and each of its pages is cleared anew. No number changes, but a loop over arrays of a megabyte
    takes up to twice as long. Where there is no glibc, nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, size))
