"""Hostile bytes for every decoder of ours and for both machines of the protocol: no crash, no hang, and a price.

Payloads are changed blindly, by structure (fields of session messages, words of documents), and by pieces of each
other. ``FLEXSPEC_FUZZ=1000000`` has so many of them read, within bounds of processor time; otherwise it is a few
thousand, without a clock.
"""

import os
import time
from collections.abc import Callable

import pytest

from lab.fuzz import machines
from lab.fuzz.decoders import Bound, Decoder, decoders
from lab.fuzz.mutate import BYTES
from lab.fuzz.run import FuzzRun, corpus

DECODERS = decoders()
LONG = int(os.environ.get("FLEXSPEC_FUZZ", "0"))
OF_MACHINES = 0.2
"""Share of the payloads of a long run that the machines get."""
pytestmark = pytest.mark.timeout(3600 if LONG else 600)


def no_time() -> int:
    """Nothing costs anything: short runs do not measure."""
    return 0


CLOCK = time.thread_time_ns if LONG else no_time


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_mutants_and_the_corpus_are_read_or_refused(decoder: Decoder) -> None:
    run = FuzzRun([decoder], CLOCK)
    run.fuzz(round(LONG * (1 - OF_MACHINES) / len(DECODERS)) or 1000, 5)
    assert not run.failures, run.failures[:3]
    assert run.kinds.total() >= 1000
    assert {kind for _, kind in run.kinds} - {"refused"}, "nothing was read"


def test_both_machines_keep_their_texts_and_bounds_on_a_hostile_network() -> None:
    run = FuzzRun([], CLOCK)
    run.converse(round(LONG * OF_MACHINES) or 8000, 3)
    assert not run.failures, run.failures[:3]
    received = {who for who, count in run.kinds.items() if count > 20}
    wanted = {"Open", "Draft", "Poll", "Close", "refused"}
    assert {(machines.WORKER, kind) for kind in wanted} <= received
    assert {(machines.SESSION, kind) for kind in ("Verdict", "Error", "refused")} <= received


def test_a_case_is_the_same_each_time() -> None:
    assert machines.run(7, no_time) == machines.run(7, no_time)


def ticking(*spans: int) -> Callable[[], int]:
    """A clock by which reading takes these nanoseconds, one after the other."""
    times = [0]
    for span in spans:
        times += [times[-1] + span, times[-1] + span]
    return iter(times).__next__


def test_a_crash_and_a_price_above_the_least_of_six_readings_are_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reads(clock: Callable[[], int], read: Callable[[bytes], str]) -> list[str]:
        run = FuzzRun([Decoder("x", read, [], BYTES, Bound(10, 1))], clock)
        run.read("x", b"12345", read)
        return [failure.what for failure in run.failures]

    def crash(data: bytes) -> str:
        raise KeyError(data[0])

    assert reads(no_time, crash) == ["crash: KeyError(49)"]
    slow = ticking(30_000, 25_000, 40_000, 26_000, 27_000, 28_000)
    assert reads(slow, lambda _: "kind") == ["25 us for 5 bytes, more than 15"]
    unlucky = ticking(30_000, 14_000, 40_000, 26_000, 27_000, 28_000)
    assert reads(unlucky, lambda _: "kind") == []

    def broken(case: int, _clock: object) -> machines.Received:
        raise AssertionError(f"broken {case}")

    monkeypatch.setattr(machines, "run", broken)
    run = FuzzRun([], no_time)
    run.converse(1000, 2)
    assert run.failures[0].what == "case 2000000: AssertionError('broken 2000000')"


def test_the_corpus_is_of_targets_that_there_are() -> None:
    assert set(corpus()) <= set(FuzzRun(DECODERS).bounds)
