"""The parts of `evolution`: references with heads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from flexspec_mq.heads.manifest import Canary, read_head
from flexspec_mq.models.default import default_model_path
from lab.benchmarks import evolution
from lab.benchmarks.exact.reference import Reference
from lab.benchmarks.updates.place import EXAMPLES, HEADS


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


def test_a_number_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert evolution.main(["--updates", "-1"]) == 2
    assert "--updates -1" in capsys.readouterr().err
