"""The parts of `evolution`: heads that are published, moments of kills, words of a watch, slow workers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from flexspec_mq.evolution.analysis import DEFAULT_RULE, Decision, Sample, judge
from flexspec_mq.evolution.canaries import load_with_head
from flexspec_mq.evolution.canaries import share as share_of
from flexspec_mq.heads.manifest import CANARY_SHARE, MANIFEST, Canary, digest, read_head
from flexspec_mq.models.default import default_model_path
from lab.benchmarks import evolution
from lab.benchmarks.exact.reference import Reference
from lab.benchmarks.updates.canaries import (
    MOST_GOOD,
    Head,
    bad_heads,
    base_again,
    good_heads,
    reverse,
    scaled,
)
from lab.benchmarks.updates.place import EXAMPLES, HEADS
from lab.benchmarks.updates.watched import outcome, slowed
from lab.testbed.process import Process


def share(reference: Reference, canaries: Sequence[Canary]) -> float:
    """Of the canaries' tokens behind the first, those that are the likeliest behind the ones before."""
    same = total = 0
    for one in canaries:
        cache, _ = reference.read([one.prompt] * reference.copies)
        rows = reference.extend(cache, [one.text[:-1]] * reference.copies)[0]
        same += sum(ours == theirs for ours, theirs in zip(rows.argmax(-1), one.text[1:], strict=True))
        total += len(one.text) - 1
    return same / total


@pytest.mark.model
@pytest.mark.usefixtures("one_thread")
def test_a_reference_with_a_head_writes_what_the_head_was_published_for() -> None:
    assert len(HEADS) == 4
    head = EXAMPLES / "style"
    canaries = read_head(head).canaries
    base = str(default_model_path())
    assert share(Reference(base, "bfloat16", str(head)), canaries) >= 0.9
    assert share(Reference(base, "bfloat16"), canaries) < 0.8


@pytest.mark.model
@pytest.mark.usefixtures("one_thread")
def test_canaries_are_heads_that_a_worker_takes(tmp_path: Path) -> None:
    path = default_model_path()
    (tmp_path / "base").mkdir()
    base = replace(read_head(EXAMPLES / "style"), kind="base", files=())
    (tmp_path / "base" / MANIFEST).write_bytes(base.encode())
    base_again(tmp_path / "again")
    base_again(tmp_path / "once more", shorter=2)
    scaled(tmp_path / "half", EXAMPLES / "style", 0.5)
    reverse(tmp_path / "reversed", 24)
    digests = {digest((one / MANIFEST).read_bytes()) for one in tmp_path.iterdir()}
    assert len(digests) == 5
    plain = load_with_head(path, None, kind="base", dtype="bfloat16")
    for name, kind in (("half", "lora"), ("reversed", "full")):
        made = read_head(tmp_path / name)
        assert made.kind == kind
        with_head = load_with_head(path, tmp_path / name, kind=kind, dtype="bfloat16")
        assert share_of(with_head, made.canaries) >= CANARY_SHARE
        assert share_of(plain, made.canaries) < CANARY_SHARE
    assert share_of(plain, read_head(tmp_path / "half").canaries) > share_of(
        plain, read_head(EXAMPLES / "style").canaries
    )


def test_versions_have_names_of_their_own() -> None:
    heads = [*bad_heads(), *good_heads(MOST_GOOD)]
    assert len({one.name for one in heads}) == len(heads) == len(bad_heads()) + MOST_GOOD
    assert MOST_GOOD >= evolution.Sizes().good >= 20
    assert [one.bad for one in heads] == [True] * len(bad_heads()) + [False] * MOST_GOOD


def test_what_a_watch_says_is_understood() -> None:
    stable, slow = [Sample(1, 50, 100, 0, 0.05)] * 40, [Sample(1, 50, 100, 0, 0.15)] * 40
    head = Head("slow", base_again, bad=True)
    verdict = judge(DEFAULT_RULE, stable, slow)
    assert verdict.decision is Decision.ABORT
    found = outcome(head, f"aborted slow: {verdict.why}; epoch 1", 50, [[0.4, 0.5, 0.6], None])
    assert (found.outcome, found.answers, found.slower) == ("aborted", 40, 3.0)
    assert found.acceptance == (0.5, 0.0)
    verdict = judge(DEFAULT_RULE, stable * 3, stable * 3)
    assert verdict.decision is Decision.PROMOTE
    found = outcome(head, f"promoted slow {verdict.why}; epoch 2", 130, [None, None])
    assert (found.outcome, found.answers, found.slower) == ("promoted", 120, 1.0)
    refused = outcome(head, "aborted slow: worker w1 refuses it: no such file; epoch 3", 0, [None, None])
    assert (refused.outcome, refused.answers, refused.slower) == ("aborted", 0, None)
    assert outcome(head, "", 160, [None, None]).outcome == "undecided"


@pytest.mark.alone
def test_a_slowed_worker_runs_for_a_part_of_the_time() -> None:
    """Beside one that is not slowed: what they have of two cores is for them to share."""
    spin = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]

    async def cpu_seconds() -> tuple[float, float, str]:
        slow, free = [await Process.start(name, spin) for name in ("slowed", "free")]
        try:
            for process in (slow, free):
                await process.line()
            before = [_spent(process.pid) for process in (slow, free)]
            slowing = asyncio.create_task(slowed(slow))
            await asyncio.sleep(3.0)
            slowing.cancel()
            await asyncio.wait((slowing,))
            spent = [
                _spent(process.pid) - earlier for process, earlier in zip((slow, free), before, strict=True)
            ]
            return spent[0], spent[1], _stat(slow.pid)[0]
        finally:
            await slow.kill()
            await free.kill()

    spent, beside, state = asyncio.run(cpu_seconds())
    # A fifth of it, and some more as the loop that stops it waits for a core itself.
    assert 0 < spent < 0.6 * beside
    assert state != "T", "it is not left stopped"


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()


def _spent(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / 100


def test_the_rule_is_judged_on_simulated_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert evolution.main(["--quick", "--sections", "rule"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["rule"]["canaries"]
    assert {one["at_once"] for one in found} == {1, 10}
    for one in found:
        if one["kind"] == "as good as the stable one":
            assert one["aborted"] == 0
        elif one["at_once"] == 1:
            assert one["aborted"] == one["canaries"] == 30
        else:
            assert 20 <= one["aborted"] <= 30


@pytest.mark.parametrize("flags", [["--canaries", "99"], ["--updates", "-1"]])
def test_numbers_that_cannot_be_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evolution.main(flags) == 2
    assert " ".join(flags) in capsys.readouterr().err
