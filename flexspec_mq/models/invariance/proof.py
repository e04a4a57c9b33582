"""The proof, on the model, device, dtype and thread count at hand, that verification is shape-invariant.

A sequence is read token by token. Then it is read in other shapes: in one piece, in odd pieces, as verification
of several tokens, and packed with other sessions. Every row of logits must have the same bits. Long contexts are
checked on the attention alone, with random tensors, because reading thousands of tokens would take minutes. The
matrix products are checked once more with sums that cancel, which show what rounding would hide (`product_probe`).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from flexspec_mq.models.invariance.attention import Packed, Segment
from flexspec_mq.models.invariance.product_probe import compare, compare_attention, compare_padded
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

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
    ids = [rng.randrange(model.vocab_size) for _ in range(_PREFIX + _SINGLE)]
    base = model.new_kv()
    model.forward([ModelInput(base, ids[:_PREFIX], 1)])
    alone = []
    for index in range(_PREFIX, len(ids)):
        alone.append(model.forward([ModelInput(base, ids[index : index + 1], 1)]))
        report(0.6 * len(alone) / _SINGLE)
    single = torch.cat(alone)
    others = list(_other_shapes(model, ids, rng))
    report(0.9)
    rows = sum(len(other) for other in others)
    differing = sum(int((other != single).any(dim=-1).sum()) for other in others)
    flips = [_flips(single, other) for other in others]
    shapes, like = model.shapes, base.span(0, 0)
    size, grain = model.heads.size, shapes.context_grain
    block = min(shapes.value_block, _LONGEST_BLOCK)
    checks = [
        (rows, differing),
        _long_contexts(model, seed),
        compare(model.products, like, shapes.min_rows, shapes.max_rows, seed),
        compare_attention(like, size, shapes.attention_rows, block, grain, seed),
        compare_padded(like, size, block, grain, seed),
    ]
    report(1.0)
    rows, bad = (sum(counts) for counts in zip(*checks, strict=True))
    return Proof(bad == 0, rows, bad, sum(flips) / len(flips), time.perf_counter() - began)


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
        What was found.
    """
    seconds = 0.0
    began = time.perf_counter()
    rng = random.Random(seed)  # noqa: S311  nothing here is secret
    ids = [rng.randrange(model.vocab_size) for _ in range(_HEAD_PREFIX + _HEAD_SINGLE)]
    company = ["", *(other for other in model.held if other != name)][:4]
    odd = [rng.choice((1, 2, 3, 7, 8, 9)) for _ in ids]
    readings = (
        ([1] * _HEAD_SINGLE, ()),
        ([_HEAD_SINGLE], ()),
        ([5] * _HEAD_SINGLE, ()),
        (odd, ()),
        ([5] * _HEAD_SINGLE, company),
        ([1] * _HEAD_SINGLE, company),
    )
    results: list[torch.Tensor] = []
    for number, (pieces, heads) in enumerate(readings):
        others = []
        for length, head in zip((3, 40, 70, 9), heads, strict=False):
            kv = model.new_kv()
            model.forward([ModelInput(kv, [rng.randrange(model.vocab_size) for _ in range(length)], 0, head)])
            others.append((kv, head))
        kv = model.new_kv()
        model.forward([ModelInput(kv, ids[:_HEAD_PREFIX], 0, name)])
        rows: list[torch.Tensor] = []
        for piece in pieces:
            tokens = ids[kv.length : kv.length + piece]
            if not tokens:
                break
            rows.append(_packed_rows(model, ModelInput(kv, tokens, len(tokens), name), others))
            seconds += time.perf_counter() - began
            yield (number + kv.length / len(ids)) / (len(readings) + 1)
            began = time.perf_counter()
            others = [(other, head) for other, head in others if not head or head in model.held]
        results.append(torch.cat(rows))
    single, *rest = results
    differing = sum(int((other != single).any(dim=-1).sum()) for other in rest)
    flips = [_flips(single, other) for other in rest]
    rows_asked, bad = model.compare_head(name)
    count, bad = rows_asked + sum(map(len, rest)), bad + differing
    return Proof(bad == 0, count, bad, sum(flips) / len(flips), seconds + time.perf_counter() - began)


def _packed_rows(
    model: TargetModel, mine: ModelInput, others: Sequence[tuple[SessionKV, str]]
) -> torch.Tensor:
    """The rows of an input, read between others."""
    company = [ModelInput(kv, [7] * (1 + place), 1, head) for place, (kv, head) in enumerate(others)]
    before = company[: len(company) // 2]
    logits = model.forward([*before, mine, *company[len(before) :]])
    return logits[len(before) :][: mine.rows]


def _other_shapes(model: TargetModel, ids: list[int], rng: random.Random) -> list[torch.Tensor]:
    """Logits of the last `_SINGLE` positions, read in one piece, in odd pieces, and packed with others."""
    readings = [model.forward([ModelInput(model.new_kv(), ids, _SINGLE)])]
    odd = [rng.choice((1, 2, 3, 7, 8, 9, 16, 17)) for _ in ids]
    readings += [_in_pieces(model, ids, pieces, []) for pieces in ([5] * len(ids), odd)]
    others = [model.new_kv() for _ in range(3)]
    for length, kv in zip((3, 40, 70), others, strict=True):
        model.forward([ModelInput(kv, [rng.randrange(model.vocab_size) for _ in range(length)], 0)])
    readings.append(_in_pieces(model, ids, [rng.choice((1, 4, 5, 8)) for _ in ids], others))
    return readings


def _in_pieces(
    model: TargetModel, ids: list[int], pieces: Sequence[int], others: Sequence[SessionKV]
) -> torch.Tensor:
    kv = model.new_kv()
    model.forward([ModelInput(kv, ids[:_PREFIX], 0)])
    rows: list[torch.Tensor] = []
    for piece in pieces:
        tokens = ids[kv.length : kv.length + piece]
        if not tokens:
            break
        company = [(other, "") for other in others]
        rows.append(_packed_rows(model, ModelInput(kv, tokens, len(tokens)), company))
    return torch.cat(rows)


def _flips(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of tokens that differ between two readings, over greedy choice and temperature 1."""
    changed = [
        choose(a, params, position) != choose(b, params, position)
        for params in (SamplingParams(), SamplingParams(temperature=1.0, seed=1))
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
