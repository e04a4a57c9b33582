"""Memory of the KV cache: its limit holds at every moment, and what is worth least goes first."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.engine import memory
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.kv_cache import KVCache
from cloud_worker.engine.memory import limit_kernels
from flexspec_mq.models.kv import GRAIN, SessionKV
from tests.cloud_worker.test_engine import item, model_of, write_all

MEET_SHAPES = """
import torch
from cloud_worker.engine.memory import limit_kernels
from flexspec_mq.models.memory import trim
from pathlib import Path

def resident():
    trim()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

limit_kernels()
torch.set_num_threads(1)
with torch.inference_mode():
    for number in range(700):
        if number == 300:
            before = resident()
        rows, context = 1 + number % 70, 64 * (1 + number // 70)
        torch.bmm(torch.ones(1, rows, 64).bfloat16(), torch.ones(1, 64, context).bfloat16())
print(resident() - before)
"""
"""Prints by how many bytes the second 400 shapes of products make a process larger."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of a process")
def test_a_process_stays_as_large_however_many_shapes_it_meets() -> None:
    # Where products are oneDNN's, 200 shapes take 115 MB without a limit.
    kept = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", MEET_SHAPES], check=True, capture_output=True, text=True, env=kept
    )
    assert int(done.stdout) < 30 << 20


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "9")
    limit_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ["LRU_CACHE_CAPACITY"] == "9"


def test_the_default_is_a_quarter_of_what_is_available_now() -> None:
    free = memory.available("cpu")
    assert free is not None
    limit = memory.default_limit("cpu")
    assert limit is not None
    assert 0.15 * free < limit < 0.35 * free


def test_the_kernel_says_what_a_machine_has(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       100 kB\nMemFree: 5 kB\nMemAvailable:    40 kB\n")
    assert memory._of_machine(info) == 40 * 1024
    info.write_text("MemTotal:       100 kB\n")
    assert memory._of_machine(info) is None
    assert memory._of_machine(tmp_path / "none") is None


def test_a_container_may_leave_less(tmp_path: Path) -> None:
    assert memory._of_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._of_container(tmp_path) == 700
    (tmp_path / "memory.max").write_text("200\n")
    assert memory._of_container(tmp_path) == 0


LIKE = torch.empty(0, dtype=torch.bfloat16)
BLOCK = GRAIN * SessionKV(2, 1, 4, LIKE).token_bytes
"""Bytes of a grain of tokens."""


class Watched(KVCache):
    """Caches that note the most bytes that were ever held at once, copies during growth included."""

    def __init__(self, limit: int | None) -> None:
        self.peak = 0
        watched = self

        class WatchedKV(SessionKV):
            def _allocate(self, capacity: int) -> torch.Tensor:
                made = super()._allocate(capacity)
                if hasattr(watched, "nbytes"):
                    watched.peak = max(watched.peak, watched.nbytes + made.numel() * made.element_size())
                return made

        super().__init__(lambda: WatchedKV(2, 1, 4, LIKE), limit)


def key(number: int) -> tuple[str, int]:
    return ("edge", number)


def held(caches: KVCache) -> int:
    return sum(kv.nbytes for kv in (*caches._live.values(), *caches._ended.values()))


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_the_limit_holds_at_every_moment_of_any_sequence(blocks: int, seed: int) -> None:
    rng = random.Random(seed)
    caches = Watched(blocks * BLOCK)
    for _ in range(150):
        one = key(rng.randrange(6))
        match rng.randrange(8):
            case 0:
                caches.free(one)
            case 1:
                caches.release(one)
            case 2:
                caches.transfer(one, key(rng.randrange(6)), rng.choice((None, 1, 3 * GRAIN)))
            case _:
                length = rng.randint(1, 10 * GRAIN)
                waiting = [key(n) for n in rng.sample(range(6), rng.randrange(7))]
                before = {name: kv.nbytes for name, kv in (*caches._live.items(), *caches._ended.items())}
                soon = rng.choice((0, length + rng.randrange(500)))
                kv = caches.take(one, length, length + rng.randrange(100), waiting, soon=soon)
                after = {name: kv.nbytes for name, kv in (*caches._live.items(), *caches._ended.items())}
                if kv is None:
                    assert {name: size for name, size in before.items() if size} == {
                        name: size for name, size in after.items() if size
                    }
                else:
                    assert kv.capacity >= length
                    kv.tokens = [0] * length
                first = waiting[: waiting.index(one)] if one in waiting else waiting
                assert all(before[name] == after.get(name) for name in first if name in before)
        assert caches.nbytes == held(caches)
        assert caches.peak <= blocks * BLOCK


@pytest.mark.parametrize("blocks", range(1, 9))
def test_a_session_that_fits_alone_always_gets_its_room(blocks: int) -> None:
    """Whatever lies around, and although its old memory and the new one do not fit side by side."""
    caches = Watched(blocks * BLOCK)
    whole = blocks * GRAIN
    for length in range(1, whole + 1, 7):
        caches.take(key(2), 1, whole, [key(1), key(2)])
        kv = caches.take(key(1), length, whole, [key(1), key(2)])
        assert kv is not None
        kv.tokens = [0] * length
    assert caches.take(key(1), whole, whole, [key(1)]) is not None
    assert caches.peak <= blocks * BLOCK


def test_what_is_worth_least_goes_first() -> None:
    caches = Watched(7 * BLOCK)
    for number in range(7):
        caches.take(key(number), 1, 1)
    caches.release(key(4))
    caches.release(key(3))
    caches.take(key(0), 1, 1)  # used later than 1 and 2
    waiting = [key(5), key(9), key(2), key(6)]
    gone = []
    for number, count in ((10, 1), (11, 1), (12, 1), (13, 1)):
        before = {*caches._live, *caches._ended}
        assert caches.take(key(number), count, count, [*waiting, key(number)]) is not None
        gone += [name[1] for name in before - {*caches._live, *caches._ended}]
    assert gone == [4, 3, 1, 0]
    assert (caches.dropped, caches.evicted) == (2, 2)
    # Then those of later work, the latest first; never those of earlier work.
    everyone = [key(number) for number in (5, 9, 2, 6, 10, 11, 12, 13)]
    assert caches.take(key(9), 6 * GRAIN, 6 * GRAIN, everyone) is not None
    assert set(caches._live) == {key(5), key(9)}
    assert caches.take(key(2), 1, 1, everyone) is None
    assert set(caches._live) == {key(5), key(9)}


def test_a_prompt_has_its_room_from_its_first_piece_on_where_nothing_must_go_for_it() -> None:
    caches = Watched(10 * BLOCK)
    kv = caches.take(key(1), 10, 500, soon=400)
    assert kv is not None
    assert kv.capacity == 7 * GRAIN
    caches.take(key(2), 1, 1)
    other = caches.take(key(3), 10, 500, soon=400)  # two grains are left
    assert other is not None
    assert other.capacity == GRAIN
    assert (caches.dropped, caches.evicted) == (0, 0)


def test_a_cache_moves_with_its_bytes() -> None:
    caches = Watched(None)
    for number, length in ((1, 5), (2, 500)):
        kv = caches.take(key(number), length, length)
        assert kv is not None
        kv.tokens = [number] * length
    caches.release(key(2))
    caches.transfer(key(2), key(1))
    caches.transfer(key(8), key(1))
    (kv,) = caches._live.values()
    assert kv is caches.get(key(1))
    assert kv.tokens == [2] * 500
    assert (len(caches), caches.nbytes) == (1, kv.nbytes)
    kv.span(0, 500)[:] = torch.arange(500).view(1, 1, 1, 500, 1)
    caches.transfer(key(1), key(3), 300)
    copy = caches.get(key(3))
    assert copy is not None
    assert (copy.tokens, copy.capacity) == ([2] * 300, 8 * GRAIN)
    assert torch.equal(copy.span(0, 300), kv.span(0, 300))
    assert (len(caches), caches.nbytes) == (2, kv.nbytes + copy.nbytes)


@settings(max_examples=2)
@given(st.integers(3, 9), st.integers(0, 2**32))
def test_a_short_memory_changes_no_token_and_stops_nobody(blocks: int, seed: int) -> None:
    """All sessions write to their end under a limit that holds hardly more than one of them."""
    rng = random.Random(seed)
    grain = GRAIN * model_of().new_kv().token_bytes
    engine = ModelEngine(model_of(), limit=blocks * grain, prefill=rng.choice((16, 64, 200)))
    caches = engine.scheduler.caches
    assert caches.room == blocks * GRAIN

    def within() -> None:
        assert caches.nbytes == held(caches) <= blocks * grain

    write_all(engine, rng, watch=within)
    assert caches.dropped + caches.evicted > 0 or blocks > 6


def test_an_item_that_cannot_fit_alone_is_an_error_and_no_endless_loop() -> None:
    grain = GRAIN * model_of().new_kv().token_bytes
    engine = ModelEngine(model_of(), limit=grain, prefill=64)
    engine.scheduler.add(item(4, 0))
    assert engine.step().decided == []  # what fits is read
    for _ in range(2):
        with pytest.raises(MemoryError, match="session edge/4 alone"):
            engine.step()


@pytest.mark.parametrize("ended", [False, True])
def test_a_cache_of_another_head_is_dropped_though_its_tokens_agree(ended: bool) -> None:
    caches = KVCache(lambda: SessionKV(2, 1, 4, LIKE))
    kv = caches.take(key(1), 5, 5)
    assert kv is not None
    kv.tokens, kv.head = [1, 2, 3, 4, 5], "mild"
    if ended:
        caches.release(key(1))
    assert caches.of_head(key(1), "mild") is kv
    assert caches.of_head(key(1), "") is None
    assert (len(caches), caches.nbytes) == (0, 0)
    assert caches.of_head(key(1), "mild") is None
