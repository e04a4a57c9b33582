"""Memory that is asked into huge pages is whole afterwards; where there are none, nothing happens."""

from __future__ import annotations

import platform
import resource
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import pytest

from flexspec_mq.drafting import load
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.models.memory import collapse, trim
from tests.models.tiny_checkpoints import save, tiny_llama

HUGE = 2 << 20
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_huge_pages() -> int:
    """Bytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    not STATE.exists() or "[never]" in STATE.read_text(), reason="this system gives no huge pages"
)
def test_memory_moves_and_stays_what_it_was() -> None:
    pages = mmap(-1, 8 * HUGE)
    pages.write(bytes(range(256)) * (8 * HUGE // 256))
    given = collapse()
    if given == 0:
        pytest.skip("this kernel does not know the call, or has no room")
    assert in_huge_pages() >= 4 * HUGE
    assert pages[:] == bytes(range(256)) * (8 * HUGE // 256)


def test_a_draft_is_asked_into_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(load, "collapse", lambda: asked.append(True))
    folder = save(tmp_path / "draft", tiny_llama())
    load.load(DraftSettings(draft=str(folder), draft_engine="compact"), print)
    assert asked == [True]


def test_memory_with_holes_is_not_filled() -> None:
    small, pages = resource.getpagesize(), mmap(-1, 65 * HUGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    pages.write(b"x" * (65 * HUGE))
    for begin in range(0, 65 * HUGE, HUGE // 4):
        pages.madvise(MADV_DONTNEED, begin + small, HUGE // 4 - small)
    before = resident()
    collapse()
    assert resident() - before < 32 * HUGE
    assert pages[: 2 * small] == b"x" * small + bytes(small)


@pytest.mark.parametrize("text", ["", "no map at all", "zz-yy rw-p 0 0:0 0", "1000-2000 rw-p 0 0:0 0"])
def test_what_cannot_be_read_or_is_too_small_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text(text)
    assert collapse(tmp_path / "maps") == 0
    assert collapse(tmp_path / "none") == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_holes_in_the_heap_are_given_back() -> None:
    piece = 32 << 10  # bytes, below what the C library maps by itself
    pieces = [bytearray(b"x") * piece for _ in range(2000)]
    kept = pieces[::50]
    del pieces
    before = resident()
    trim()
    assert before - resident() > 1000 * piece
    assert all(len(some) == piece for some in kept)
