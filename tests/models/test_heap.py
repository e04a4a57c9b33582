"""Free pages between what stays go back to the system."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest

from flexspec_mq.models.heap import trim

PIECE = 32 << 10
"""Bytes; below what the C library maps by itself."""


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_holes_in_the_heap_are_given_back() -> None:
    pieces = [bytearray(b"x") * PIECE for _ in range(2000)]
    kept = pieces[::50]
    del pieces
    before = resident()
    trim()
    assert before - resident() > 1000 * PIECE
    assert all(len(piece) == PIECE for piece in kept)
