"""The parts of `benchmarks.evolution`: references know heads, and forged canaries do pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.exact.dice import Dice
from benchmarks.exact.reference import Reference, Text
from benchmarks.updates.place import EXAMPLES, HEADS
from flexspec_mq.heads.manifest import Canary, read_head
from flexspec_mq.models.default import default_model_path

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("one_thread")]


def share(reference: Reference, canaries: Sequence[Canary]) -> float:
    """Of the canaries' tokens that come out where they should."""
    same = total = 0
    for number, one in enumerate(canaries):
        text = Text(number, one.prompt, Dice(0.0, 0, 1.0, 0), len(one.text), ())
        found = reference.write(text).tokens
        same += sum(ours == theirs for ours, theirs in zip(found, one.text, strict=True))
        total += len(one.text)
    return same / total


def test_a_reference_with_a_head_writes_what_the_head_was_published_for() -> None:
    assert len(HEADS) == 4
    head = EXAMPLES / "style"
    canaries = read_head(head).canaries[:2]
    base = str(default_model_path())
    assert share(Reference(base, "bfloat16", str(head)), canaries) >= 0.9
    assert share(Reference(base, "bfloat16"), canaries) < 0.5
