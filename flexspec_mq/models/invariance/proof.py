"""The proof, on the model, device, dtype and thread count at hand, that verification is batch-invariant.

A sequence is read token by token. Then it is read in other shapes: in one piece, in odd pieces, as verification
of several tokens, and packed with other sessions. Every row of logits must have the same bits. Long contexts are
checked on the attention alone, with random tensors, because reading thousands of tokens would take minutes. The
matrix products are checked once more with sums that cancel, which show what rounding would hide (`product_probe`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from flexspec_mq.models.invariance.attention import Packed, Segment
from flexspec_mq.models.invariance.product_probe import compare, compare_attention
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling

if TYPE_CHECKING:
    from flexspec_mq.models.invariance.target import TargetModel

_PREFIX = 52
_SINGLE = 24
_HEAD_PREFIX = 20
_HEAD_SINGLE = 16
_LONGEST_BLOCK = 1024
"""Positions up to which padded sums are compared."""
_CONTEXTS = (17, 63, 64, 65, 200, 511, 512, 513, 1000, 1023, 1024, 1025, 2047, 3000)


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of the proof.

    Attributes:
        exact: all rows had the same bits.
        rows: rows compared.
        differing: rows with other bits.
        flip_rate: share of compared tokens, at temperatures 0 and 1, that another shape would have changed.
        seconds: seconds that the proof took.
    """

    exact: bool
    rows: int
    differing: int
    flip_rate: float
    seconds: float

    @property
    def word(self) -> Literal["exact", "exact up to ties"]:
        """As status documents say it."""
        return "exact" if self.exact else "exact up to ties"

    def __str__(self) -> str:
        """For people."""
        if self.exact:
            return f"exact: {self.rows} rows in other shapes had the same bits ({self.seconds:.1f} s)"
        return (
            f"exact up to ties: {self.differing} of {self.rows} rows had other bits in other shapes, and "
            f"{self.flip_rate:.2%} of the tokens changed ({self.seconds:.1f} s); "
            "texts may differ from the target's own where two tokens nearly tie"
        )


def prove(model: TargetModel, *, seed: int = 0, progress: Callable[[float], None] | None = None) -> Proof:
    """Compare shapes on random tokens.

    Args:
        model: as it will be used; run under the thread count it will be used with.
        seed: seed of the tokens and the odd pieces.
        progress: called with the share done, from 0 to 1.
    """
    began = time.perf_counter()
    rng = random.Random(seed)  # noqa: S311  nothing here is secret
    report = progress or (lambda _share: None)
    count = _PREFIX + _SINGLE
    readings = (
        _Reading(_PREFIX, [1] * _SINGLE),
        _Reading(0, [count]),
        _Reading(_PREFIX, [5] * _SINGLE),
        _Reading(_PREFIX, rng.choices((1, 2, 3, 7, 8, 9, 16, 17), k=_SINGLE)),
        _Reading(_PREFIX, rng.choices((1, 4, 5, 8), k=_SINGLE), ("", "", "")),
    )
    steps = _compare_readings(model, "", readings, rng)
    while True:
        try:
            report(0.9 * next(steps))
        except StopIteration as ended:
            rows, differing, flip_rate = ended.value
            break
    shapes, like, size = model.shapes, model.new_kv().span(0, 0), model.heads.size
    block = min(shapes.value_block, _LONGEST_BLOCK)
    checks = [
        (rows, differing),
        _long_contexts(model, seed),
        compare(model.products, like, shapes.min_rows, shapes.max_rows, seed),
        compare_attention(like, size, shapes.attention_rows, block, shapes.context_grain, seed),
    ]
    report(1.0)
    rows, bad = (sum(counts) for counts in zip(*checks, strict=True))
    return Proof(bad == 0, rows, bad, flip_rate, time.perf_counter() - began)


def proving_head(model: TargetModel, name: str, *, seed: int = 0) -> Generator[float, None, Proof]:
    """Compare a head's rows alone, in other shapes, and packed with rows of the base and of other heads.

    Attention and the base's products are `prove`'s; what the head adds is asked with sums that cancel besides.

    Args:
        model: model that holds it.
        name: name of the head.
        seed: seed of the tokens and the odd pieces.

    Yields:
        The share done, after each forward, so that other work can be done in between; it may hold and drop other
        heads.

    Returns:
        The proof; its seconds are those from begin to end.
    """
    began = time.perf_counter()
    rng = random.Random(seed)  # noqa: S311  nothing here is secret
    company = ("", *(other for other in model.held if other != name))[:4]
    ones, fives = [1] * _HEAD_SINGLE, [5] * _HEAD_SINGLE
    readings = (
        _Reading(_HEAD_PREFIX, ones),
        _Reading(_HEAD_PREFIX, [_HEAD_SINGLE]),
        _Reading(_HEAD_PREFIX, fives),
        _Reading(_HEAD_PREFIX, rng.choices((1, 2, 3, 7, 8, 9), k=_HEAD_SINGLE)),
        _Reading(_HEAD_PREFIX, fives, company),
        _Reading(_HEAD_PREFIX, ones, company),
    )
    rows, differing, flip_rate = yield from _compare_readings(model, name, readings, rng)
    more, others = model.compare_head(name)
    bad = differing + others
    return Proof(bad == 0, rows + more, bad, flip_rate, time.perf_counter() - began)


class _Reading(NamedTuple):
    """Way of reading a text: its first tokens at once, the rest in pieces, between sessions of some heads."""

    prefix: int
    pieces: Sequence[int]
    company: Sequence[str] = ()


def _compare_readings(
    model: TargetModel, head: str, readings: Sequence[_Reading], rng: random.Random
) -> Generator[float, None, tuple[int, int, float]]:
    """Read a random text in several ways, the first of which reads its last tokens one by one and alone.

    Yields:
        The share done, after each forward.

    Returns:
        Rows compared, rows with other bits, and the share of tokens that these would change.
    """

    def random_tokens(count: int) -> list[int]:
        return [rng.randrange(model.vocab_size) for _ in range(count)]

    compared = len(readings[0].pieces)
    ids = random_tokens(readings[0].prefix + compared)
    results: list[torch.Tensor] = []
    for number, reading in enumerate(readings):
        others = [(model.new_kv(), other) for other in reading.company]
        for (kv, other), length in zip(others, (3, 40, 70, 9), strict=False):
            model.forward([ModelInput(kv, random_tokens(length), 0, other)])
        kv = model.new_kv()
        if reading.prefix:
            model.forward([ModelInput(kv, ids[: reading.prefix], 0, head)])
        rows: list[torch.Tensor] = []
        for piece in reading.pieces:
            if tokens := ids[kv.length : kv.length + piece]:
                rows.append(_packed_rows(model, ModelInput(kv, tokens, len(tokens), head), others))
                yield (number + kv.length / len(ids)) / len(readings)
                others = [(other, name) for other, name in others if not name or name in model.held]
        results.append(torch.cat(rows)[-compared:])
    alone, *rest = results
    differing = sum(int((rows != alone).any(dim=-1).sum()) for rows in rest)
    flips = [_flips(alone, rows) for rows in rest]
    return compared * len(rest), differing, sum(flips) / len(flips)


def _packed_rows(
    model: TargetModel, mine: ModelInput, others: Sequence[tuple[SessionKV, str]]
) -> torch.Tensor:
    """The rows of an input, read between others."""
    company = [ModelInput(kv, [7] * (1 + place), 1, head) for place, (kv, head) in enumerate(others)]
    before = company[: len(company) // 2]
    logits = model.forward([*before, mine, *company[len(before) :]])
    return logits[len(before) :][: mine.rows]


def _flips(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of tokens that differ between two readings, over greedy choice and temperature 1."""
    changed = [
        choose(a, params, position) != choose(b, params, position)
        for params in (Sampling(), Sampling(temperature=1.0, seed=1))
        for position, (a, b) in enumerate(zip(to_numpy(one), to_numpy(other), strict=True))
    ]
    return sum(changed) / len(changed)


def _long_contexts(model: TargetModel, seed: int) -> tuple[int, int]:
    """Rows compared and rows that differ, of attention over long contexts with random tensors."""
    heads = model.heads
    like = model.new_kv().span(0, 0)
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(like)

    kv = SessionKV(1, heads.keys, heads.size, like)
    kv.reserve(3072)
    kv.span(0, 3072).copy_(noise(1, 2, heads.keys, 3072, heads.size))
    query = noise(heads.queries, 16, heads.size)
    rows = differing = 0
    for context in _CONTEXTS:
        together = _attend_at(model, kv, query, context)
        for index in (0, 7, 15):
            alone = _attend_at(model, kv, query[:, index : index + 1], context + index)
            rows += 1
            differing += int(not torch.equal(alone[0], together[index]))
    return rows, differing


def _attend_at(model: TargetModel, kv: SessionKV, query: torch.Tensor, base: int) -> torch.Tensor:
    """Attend with queries that follow `base` tokens; their own keys and values are in `kv` already."""
    count = query.shape[1]
    packed = Packed([Segment(kv, 0, count, base)], count, model.heads, model.shapes, query)
    fresh = kv.span(base, base + count)[0].clone()
    mixed = packed.attend(0, query.transpose(0, 1), fresh, model.heads.size**-0.5)
    return mixed.view(count, model.heads.queries, model.heads.size)
