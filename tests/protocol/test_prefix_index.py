"""Texts that workers hold: the longest common beginning is found, and nothing grows without bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.types import Reuse, Written

IDS = st.lists(st.integers(0, 1), max_size=12).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(("a", "b")), IDS), max_size=8), IDS.filter(bool), st.integers(1, 4))
def test_the_longest_common_beginning_is_offered(
    texts: list[tuple[str, tuple[int, ...]]], prompt: tuple[int, ...], least: int
) -> None:
    index = PrefixIndex(least=least)
    for worker, tokens in texts:
        index.remember("v", Written(worker, tokens), 0.0)
    found = index.offer("v", prompt, 1.0)
    commons = [
        (max(n for n in range(len(prompt)) if tokens[:n] == prompt[:n]), worker) for worker, tokens in texts
    ]
    best = max((count for count, _ in commons), default=0)
    if best < least:
        assert found is None
    else:
        assert found is not None
        assert (found.count, found.worker) in commons
        assert found.count == best < len(prompt)


def test_the_newest_of_equals_is_offered() -> None:
    index = PrefixIndex(least=2)
    for worker in ("a", "b", "c"):
        index.remember("v", Written(worker, (1, 2, 3)), 0.0)
    assert index.offer("v", (1, 2, 3, 4), 0.0) == Reuse("c", 3)
    index.forget("c")
    assert index.offer("v", (1, 2, 3, 4), 0.0) == Reuse("b", 3)


def test_a_text_is_forgotten_after_a_while() -> None:
    index = PrefixIndex(least=1, life=10.0)
    index.remember("v", Written("a", (1, 2)), 0.0)
    index.remember("v", Written("b", (1, 2)), 5.0)
    assert index.offer("v", (1, 2, 3), 10.0) == Reuse("b", 2)
    assert index.offer("v", (1, 2, 3), 15.0) is None
    assert len(index) == 0


def test_texts_and_tokens_are_bounded_and_the_oldest_goes_first() -> None:
    index = PrefixIndex(least=1, most=3, most_tokens=10)
    for number in range(5):
        index.remember("v", Written("w", (number, number)), 0.0)
    assert len(index) == 3
    assert index.offer("v", (1, 1, 9), 0.0) is None
    index.remember("v", Written("w", (7,) * 8), 0.0)
    assert len(index) == 2
    index.remember("v", Written("w", (8,) * 11), 0.0)
    assert len(index) == 0
    assert PrefixIndex(most=0).offer("v", (1, 2), 0.0) is None
    index.remember("v", Written("w", (5, 5)), 0.0)
    assert index.offer("v", (5, 5, 5), 0.0) == Reuse("w", 2)


def test_a_text_of_one_version_is_no_use_to_another() -> None:
    index = PrefixIndex(least=1)
    index.remember("v1", Written("w", (1, 2, 3)), 0.0)
    assert index.offer("v2", (1, 2, 3, 4), 0.0) is None
    assert index.offer("v1", (1, 2, 3, 4), 0.0) == Reuse("w", 3)
