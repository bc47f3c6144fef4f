"""Freed arrays stay with the process: only where glibc is, and without an error elsewhere."""

import platform
from types import SimpleNamespace

import pytest

from helpers import memory


@pytest.mark.parametrize(("library", "asked"), [("glibc", [(-3, 1000)]), ("", [])])
def test_only_glibc_is_asked(monkeypatch, library, asked):
    found = []
    fake = SimpleNamespace(mallopt=lambda *setting: found.append(setting))
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: fake)
    memory.keep(1000)
    assert found == asked


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_glibc_knows_the_setting():
    assert memory.ctypes.CDLL(None).mallopt(memory.MMAP_THRESHOLD, 2**25) == 1
