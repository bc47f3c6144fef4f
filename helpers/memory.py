"""Speed on Linux: arrays that are freed stay with the process, instead of going back to the system."""

import ctypes
import platform

MMAP_THRESHOLD = -3  # glibc's number for it, in malloc.h


def keep(size: int = 2**25) -> None:
    """Let glibc keep freed arrays up to `size` bytes for the next ones; elsewhere do nothing.

    Once TensorFlow has trained, it may happen that each larger array of NumPy's comes from the system and
    goes back to it at once, and that each of its pages is cleared anew. No number depends on that, but loops
    over arrays of a megabyte were seen to take twice as long.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, size)
