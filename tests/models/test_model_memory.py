"""A KV cache grows and forgets without loss; memory that is asked into huge pages is whole afterwards."""

import platform
import resource
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.drafting import load
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.models.kv import GRAIN, SessionKV
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
    folder = save(tmp_path / "draft", tiny_llama(head_dim=16))
    load.load(DraftSettings(draft=str(folder)), print)
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


LIKE = torch.empty(0, dtype=torch.bfloat16)
IDS = st.lists(st.integers(0, 3), max_size=12)


def make() -> SessionKV:
    return SessionKV(layers=2, kv_heads=3, head_size=4, like=LIKE)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_there_is_room_up_to_the_grain_and_keys_lie_behind_one_another(lengths: list[int]) -> None:
    """KV memory of a padded context is read as a whole, so that no product has to copy it."""
    kv = make()
    assert (kv.length, kv.nbytes, kv.capacity) == (0, 0, 0)
    for length in lengths:
        before = kv.capacity
        kv.reserve(length)
        assert kv.capacity == max(-(-length // GRAIN) * GRAIN, before)
        assert kv.span(0, kv.capacity)[0, 0].is_contiguous()


def test_growth_keeps_what_is_held_and_what_is_new_is_finite() -> None:
    kv = make()
    kv.reserve(GRAIN)
    for layer in (0, 1):
        kv.span(0, kv.capacity)[layer, 0].fill_(1.0 + layer)
        kv.span(0, kv.capacity)[layer, 1].fill_(-1.0 - layer)
    kv.reserve(GRAIN + 1)
    for layer in (0, 1):
        keys, values = kv.span(0, kv.capacity)[layer]
        assert bool((keys[:, :GRAIN] == 1.0 + layer).all())
        assert bool((values[:, :GRAIN] == -1.0 - layer).all())
        assert bool(torch.isfinite(keys).all())


def test_roll_back_forgets_tokens_and_keeps_memory() -> None:
    kv = make()
    kv.reserve(100)
    kv.tokens += range(100)
    kv.roll_back(40)
    assert (kv.length, kv.tokens, kv.capacity) == (40, list(range(40)), 128)
    kv.roll_back(70)
    assert kv.length == 40


@given(IDS, IDS)
def test_match_keeps_the_longest_common_prefix(held: list[int], wanted: list[int]) -> None:
    kv = make()
    kv.tokens += held
    common = kv.match(tuple(wanted))
    assert kv.tokens == held[:common] == wanted[:common]
    assert common == min(len(held), len(wanted)) or held[common] != wanted[common]


def test_what_is_given_back_goes_back_to_the_system() -> None:
    kv = SessionKV(16, 4, 64, LIKE)
    kv.reserve(4096)  # 64 MB
    kv.span(0, 4096).fill_(1)
    full = resident()
    kv.give_back()
    assert full - resident() > 48_000_000
