"""Freed arrays stay with the process: only where glibc is, and without an error elsewhere."""

import platform
import sys

import pytest

from helpers import memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_glibc_takes_the_setting():
    assert memory.keep() == (platform.libc_ver()[0] == "glibc")


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # a call would raise
    assert memory.keep() is False
