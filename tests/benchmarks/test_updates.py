"""The parts of `benchmarks.evolution`: references know heads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.exact.reference import Reference
from benchmarks.updates.place import EXAMPLES, HEADS
from flexspec_mq.heads.manifest import Canary, read_head
from flexspec_mq.models.default import default_model_path

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("one_thread")]


def share(reference: Reference, canaries: Sequence[Canary]) -> float:
    """Of the canaries' tokens behind the first, those that are the likeliest behind the ones before."""
    same = total = 0
    for one in canaries:
        cache, _ = reference.read([one.prompt] * reference.copies)
        rows = reference.extend(cache, [one.text[:-1]] * reference.copies)[0]
        same += sum(ours == theirs for ours, theirs in zip(rows.argmax(-1), one.text[1:], strict=True))
        total += len(one.text) - 1
    return same / total


def test_a_reference_with_a_head_writes_what_the_head_was_published_for() -> None:
    assert len(HEADS) == 4
    head = EXAMPLES / "style"
    canaries = read_head(head).canaries
    base = str(default_model_path())
    assert share(Reference(base, "bfloat16", str(head)), canaries) >= 0.9
    assert share(Reference(base, "bfloat16"), canaries) < 0.8
