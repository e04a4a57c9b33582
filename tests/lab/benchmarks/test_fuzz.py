"""Hostile bytes, a short run of them; that faults and costs are found; and mutants of whatever hypothesis makes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.codec import Codec
from lab.benchmarks.fuzz import __main__ as command
from lab.benchmarks.fuzz import corpus, machines
from lab.benchmarks.fuzz.cost import Bound, FuzzCosts
from lab.benchmarks.fuzz.decoders import Decoder, decoders
from lab.benchmarks.fuzz.mutate import BYTES, MESSAGES, mutant
from schemas.messages import Message
from tests.codec.strategies import messages

DECODERS = decoders()
MACHINES = {machines.WORKER: Bound(1, 1), machines.SESSION: Bound(1, 1)}


def no_time() -> int:
    """Nothing costs anything: tests do not measure."""
    return 0


def costs(*found: Decoder) -> FuzzCosts:
    return FuzzCosts({one.name: one.bound for one in found} | MACHINES, no_time)


@pytest.mark.parametrize("one", DECODERS, ids=lambda one: one.name)
def test_a_thousand_mutants_and_the_corpus_are_read_or_refused(one: Decoder) -> None:
    seen = costs(one)
    command.replay([one], corpus.load(), seen)
    command.fuzz([one], 1000, 5, seen)
    assert not seen.failures, seen.failures[:3]
    assert seen.count >= 1000
    kinds = {kind for _, kind in seen.lines}
    assert kinds - {"refused"}, "nothing was read"


def test_both_machines_keep_their_texts_and_bounds_on_a_hostile_network() -> None:
    seen = costs()
    command.conversations(8000, 3, seen)
    assert not seen.failures, seen.failures[:3]
    received = {who for who, line in seen.lines.items() if line.count > 20}
    wanted = {"Open", "Draft", "Poll", "Close", "refused"}
    assert {(machines.WORKER, kind) for kind in wanted} <= received
    assert {(machines.SESSION, kind) for kind in ("Verdict", "Error", "refused")} <= received


def test_a_case_is_the_same_each_time() -> None:
    one, other = (machines.run(7, costs()) for _ in range(2))
    assert one == other


@given(message=messages, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_mutants_of_any_message(message: Message, seed: int) -> None:
    payload, rng = Codec().encode(message), random.Random(seed)
    seen = costs(*DECODERS)
    for one in DECODERS[:3]:
        seen.read(one.name, payload, one.read)
        for _ in range(5):
            seen.read(one.name, mutant(rng, payload, [payload], MESSAGES), one.read)
    assert not seen.failures, seen.failures[:3]


@given(seed=st.integers(0, 2**32 - 1), data=st.binary(max_size=200))
def test_any_bytes_can_be_changed(seed: int, data: bytes) -> None:
    rng = random.Random(seed)
    for mutators in (BYTES, MESSAGES, *(one.mutators for one in DECODERS)):
        assert isinstance(mutant(rng, data, [data, b"x"], mutators), bytes)


def ticking(*spans: int) -> Callable[[], int]:
    """A clock by which reading takes these nanoseconds, one after the other."""
    times = [0]
    for span in spans:
        times += [times[-1] + span, times[-1] + span]
    found = iter(times)
    return lambda: next(found)


def test_what_costs_too_much_is_read_again_and_counts_with_its_least_cost() -> None:
    slow = FuzzCosts({"x": Bound(10, 1)}, ticking(30_000, 25_000, 40_000, 26_000, 27_000, 28_000))
    slow.read("x", b"12345", lambda _: "kind")
    (failure,) = slow.failures
    assert failure.what == "25 us for 5 bytes, more than 15"
    assert slow.lines["x", "kind"].excess == pytest.approx(25 / 15)
    unlucky = FuzzCosts({"x": Bound(10, 1)}, ticking(30_000, 14_000, 40_000, 26_000, 27_000, 28_000))
    unlucky.read("x", b"12345", lambda _: "kind")
    assert not unlucky.failures
    assert unlucky.lines["x", "kind"].worst_us == 14


def test_a_crash_is_a_failure_with_its_payload() -> None:
    def crash(data: bytes) -> str:
        raise KeyError(data[0])

    seen = FuzzCosts({"x": Bound(10, 1)}, no_time)
    seen.read("x", b"\x07", crash)
    assert seen.failures == [("x", "crash: KeyError(7)", b"\x07")]


def test_a_machine_that_breaks_is_a_failure_and_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int, _costs: FuzzCosts) -> machines.Received:
        raise AssertionError(f"broken {seed}")

    monkeypatch.setattr(machines, "run", broken)
    seen = costs()
    command.conversations(1000, 2, seen)
    assert seen.failures[0].what == "case 2000000: AssertionError('broken 2000000')"


def test_the_corpus_is_of_targets_that_there_are() -> None:
    assert set(corpus.load()) <= {*(one.name for one in DECODERS), *MACHINES}


def test_the_command_tells_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--mutants", "300", "--only", "topic"]) == 0
    said = capsys.readouterr().out
    assert "0 failures" in said
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
