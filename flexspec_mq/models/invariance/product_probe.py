"""Do matrix products sum in one order, however many rows and zeros share them? Asked with sums that cancel.

In half precision two orders of a sum mostly round to the same bits, so ordinary numbers find another kernel once in
thousands of rows. Here every product is a sum of pairs a·w + (-a)·w in a random order: it should be 0, and what is
left of it is nothing but rounding, which another order changes nearly always.

Libraries choose kernels by a product's number of rows. In bfloat16 one row, or up to 32 where the processor has AMX,
take another one than many; in float32 up to 15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch.nn import functional

COUNTS = (*range(1, 11), 15, 16, 17, 24, 31, 32, 33, 36, 37, 48, 49, 63, 64, 65, 96, 128, 129)
"""Rows; those in between take the same kernels as far as we know, and so do those above."""
_FEW = 32
"""Rows: a product that is cut into pieces of fewer than these would be slow, and one that is padded to more."""
_FINEST_PADDING = 16
"""Positions; contexts that are padded less, or not at all, are compared in these steps."""
_WIDEST = 4096
"""Outputs up to which a choice is asked for; the proof then asks with all of them."""
_HEADS = 3
"""Heads of keys in the products of attention."""
_LEAST = 3
"""Rows of a product of attention: with two, one of 300 products of heads of 16 rounds otherwise, which sums that cancel
do not show."""
_SESSIONS = 5
"""Sessions whose contexts are copied together for one product."""

Kind = tuple[int, int, bool]
"""Width of the input, width of the output, whether there is a bias."""
Product = Callable[[torch.Tensor], torch.Tensor]
"""[rows, width of the input] → [rows, width of the output]."""


@dataclass(frozen=True, slots=True)
class Products:
    """The products with weights that a model is made of.

    Attributes:
        kinds: each once.
        make: from weights [out, in] and bias [out] to what multiplies with them.
    """

    kinds: tuple[Kind, ...]
    make: Callable[[torch.Tensor, torch.Tensor | None], Product]

    @classmethod
    def of_linear_layers(cls, model: torch.nn.Module) -> Products:
        """Products of a model's linear layers."""
        layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
        kinds = {(layer.in_features, layer.out_features, layer.bias is not None) for layer in layers}
        return cls(tuple(sorted(kinds)), _linear)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    return lambda x: functional.linear(x, weight, bias)


def row_range(products: Products, like: torch.Tensor) -> tuple[int, int | None] | None:
    """From how many rows to how many a product's bits do not depend on their number, on this machine.

    It is the range with the fewest rows that reaches `_FEW`, without an upper end where there is none. None if there is
    no such range: the proof tells then. `like` is a tensor on the device and in the dtype of the model.
    """
    return _row_range(products, like.dtype, like.device, torch.get_num_threads())


@lru_cache(maxsize=64)
@torch.inference_mode()
def _row_range(
    products: Products, dtype: torch.dtype, device: torch.device, _threads: int
) -> tuple[int, int | None] | None:
    like = torch.empty(0, dtype=dtype, device=device)
    edges: set[int] = set()
    for kind in _narrowed(products.kinds):
        weight, bias, x = _cancelling_product(kind, like, 0)
        product = products.make(weight, bias)
        edges |= set(_edges(product(x[:count]) for count in COUNTS))
    return _widest(edges)


def counts_within(least: int, most: int | None) -> list[int]:
    """Numbers of rows that are compared where a product has at least and at most so many."""
    return [count for count in COUNTS if count >= least and (most is None or count <= most)]


def _narrowed(kinds: Iterable[Kind]) -> Iterator[Kind]:
    return ((width, min(out, _WIDEST), biased) for width, out, biased in kinds)


def _widest(edges: set[int]) -> tuple[int, int | None] | None:
    """The first range of counts that is long enough; `edges` are counts behind which another kernel begins."""
    first = COUNTS[0]
    for count, following in pairwise(COUNTS):
        if count in edges:
            if count >= _FEW:
                return first, count
            first = following
    return (first, None) if first <= _FEW else None


def _edges(results: Iterable[torch.Tensor]) -> Iterator[int]:
    """The counts, in ascending order, whose rows have other bits in the result for the next count."""
    for before, after in pairwise(results):
        count = before.shape[-2]
        if not torch.equal(before, after[..., :count, :]):
            yield count


@torch.inference_mode()
def compare(
    products: Products, like: torch.Tensor, least: int, most: int | None, seed: int
) -> tuple[int, int]:
    """Compare products of few rows with those of the most, and rows with themselves at another place.

    Args:
        products: products of the model.
        like: a tensor on the device and in the dtype of the model.
        least: rows that a product has at least.
        most: rows that it has at most.
        seed: seed of the numbers.

    Returns:
        Rows compared, and rows with other bits.
    """
    rows = differing = 0
    counts = counts_within(least, most)
    for kind in products.kinds:
        weight, bias, x = _cancelling_product(kind, like, seed)
        product = products.make(weight, bias)
        together = product(x[: counts[-1]])
        moved = product(x[: counts[-1]].roll(1, 0)).roll(-1, 0)
        for outcome in (moved, *(product(x[:count]) for count in counts[:-1])):
            rows += len(outcome)
            differing += int((outcome != together[: len(outcome)]).any(dim=-1).sum())
    return rows, differing


@torch.inference_mode()
def same_bits(one: Products, other: Products, like: torch.Tensor, least: int, most: int | None) -> bool:
    """Whether two ways of multiplying give the same bits for all numbers of rows that are allowed."""
    counts = counts_within(least, most)
    for kind in _narrowed(one.kinds):
        weight, bias, x = _cancelling_product(kind, like, 1)
        first, second = one.make(weight, bias), other.make(weight, bias)
        if not all(torch.equal(first(x[:count]), second(x[:count])) for count in (counts[0], counts[-1])):
            return False
    return True


def _cancelling_product(
    kind: Kind, like: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Weights, bias, and as many rows as the largest count."""
    width, out, biased = kind
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(width // 2 * 2, generator=generator)
    # A few hundred rows of weights, repeated: the kernel depends on how many there are, not on what they hold.
    few = cancelling(min(out, 256), width, 1.0, order, generator).to(like)
    weight = few.repeat(-(-out // len(few)), 1)[:out].contiguous()
    bias = like.new_zeros(out) if biased else None
    return weight, bias, cancelling(COUNTS[-1], width, -1.0, order, generator).to(like)


def cancelling(
    count: int, width: int, sign: float, order: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Rows of pairs: the product of two such rows of other signs is nothing but rounding; float32 [count, width]."""
    numbers = torch.randn((count, width // 2), generator=generator)
    pairs = torch.cat((numbers, sign * numbers), dim=1)[:, order]
    return functional.pad(pairs, (0, width - pairs.shape[1]))


def attention_shapes(like: torch.Tensor, size: int, at_most: int, grain: int) -> tuple[int, int]:
    """Rows that a product of attention needs, and positions that one may sum, so that neither changes a bit.

    Args:
        like: a tensor on the device and in the dtype of the model.
        size: size of a head.
        at_most: positions, where nothing changes; they are halved until that holds.
        grain: contexts are padded to multiples of it; the fewest positions.
    """
    return _attention_shapes(like.dtype, like.device, torch.get_num_threads(), size, at_most, grain)


@lru_cache(maxsize=64)
def _attention_shapes(
    dtype: torch.dtype, device: torch.device, _threads: int, size: int, at_most: int, grain: int
) -> tuple[int, int]:
    like, block = torch.empty(0, dtype=dtype, device=device), at_most
    while True:
        results = _attention_results(like, size, block, grain, 0)
        rows = _widest({edge for group in results for edge in _edges(group)})
        if rows is not None and rows[1] is None:
            return max(rows[0], _LEAST), block
        if block <= grain:  # nothing is enough: the proof tells
            return 1, grain
        block = max(grain, block // 2)


def compare_attention(
    like: torch.Tensor, size: int, least: int, block: int, grain: int, seed: int
) -> tuple[int, int]:
    """Compare products of attention with few rows with those of many, and sums with the same and zeros behind them.

    Args:
        like: a tensor on the device and in the dtype of the model.
        size: size of a head.
        least: rows that a product has at least.
        block: positions that one product sums at most.
        grain: contexts are padded to multiples of it.
        seed: seed of the numbers.

    Returns:
        Rows compared, and rows with other bits.
    """
    rows = differing = 0
    for results in _attention_results(like, size, block, grain, seed):
        *others, last = [result for result in results if result.shape[-2] >= least]
        for result in others:
            rows += result.shape[-2]
            other = (result != last[:, : result.shape[-2]]).any(dim=-1)
            differing += int(other.any(dim=0).sum())
    return rows, differing


@torch.inference_mode()
def _attention_results(
    like: torch.Tensor, size: int, block: int, grain: int, seed: int
) -> Iterator[list[torch.Tensor]]:
    """Groups of products [heads, count, …] whose rows should all have the bits of the group's last."""
    generator = torch.Generator().manual_seed(seed)
    grain = max(grain, _FINEST_PADDING)
    yield from _padded_sums(like, size, block, grain, generator)
    yield from _attention_products(like, size, block, grain, generator)


def _attention_products(
    like: torch.Tensor, size: int, block: int, grain: int, generator: torch.Generator
) -> Iterator[list[torch.Tensor]]:
    """Scores and mixed values for each count of rows, of keys and values as they lie in memory.

    They lie with room behind each head's, and without: a library copies the first ones, and not the others.
    """
    longest = max(block, 2 * grain)
    memory = like.new_zeros((2, _HEADS, longest + grain, size))
    for positions in sorted({grain, max(grain, block // 2), min(block, longest)}):
        order = torch.randperm(size // 2 * 2, generator=generator)
        memory[0, :, :longest] = cancelling(longest, size, 1.0, order, generator).to(like)
        queries = _heads(cancelling(COUNTS[-1], size, -1.0, order, generator).to(like))
        keys = memory[0].transpose(1, 2)
        # However long the padded context is, the scores of its first positions are the same.
        longer = torch.bmm(queries, keys[:, :, :longest])[:, :, :positions]
        yield [*_by_count(queries, keys[:, :, :positions]), longer]
        for sessions in (1, _SESSIONS):
            tight = memory[0, :, :positions].repeat(sessions, 1, 1).transpose(1, 2)
            yield [*_by_count(queries.repeat(sessions, 1, 1), tight), longer]
        order = torch.randperm(positions, generator=generator)
        memory[1, :, :positions] = cancelling(size, positions, 1.0, order, generator).T.to(like)
        weights = _heads(cancelling(COUNTS[-1], positions, -1.0, order, generator).to(like))
        values = memory[1, :, :positions]
        outcome = _by_count(weights, values)
        yield outcome
        for sessions in (1, _SESSIONS):
            tight = values.repeat(sessions, 1, 1)
            yield [*_by_count(weights.repeat(sessions, 1, 1), tight), outcome[-1]]


def _by_count(rows: torch.Tensor, others: torch.Tensor) -> list[torch.Tensor]:
    """Products for each count of rows, of the last session that shares them."""
    return [torch.bmm(rows[:, :count].contiguous(), others)[-_HEADS:] for count in COUNTS]


def _heads(rows: torch.Tensor) -> torch.Tensor:
    """The same rows for each head."""
    return rows.expand(_HEADS, *rows.shape).contiguous()


def _padded_sums(
    like: torch.Tensor, size: int, block: int, grain: int, generator: torch.Generator
) -> Iterator[list[torch.Tensor]]:
    """Sums over some positions, and the same sums over more positions, the rest of which are zeros.

    Attention does this with its weights and values when a context is padded: a kernel that cuts a sum into pieces by
    its length gives other bits then.
    """
    count = 65
    for positions in range(grain, block, grain):
        order = torch.randperm(positions, generator=generator)
        weights = like.new_zeros((1, count, block))
        weights[0, :, :positions] = cancelling(count, positions, -1.0, order, generator).to(like)
        values = like.new_zeros((1, block, size))
        values[0, :positions] = cancelling(size, positions, 1.0, order, generator).T.to(like)
        lengths = range(positions, block + 1, grain)
        yield [torch.bmm(weights[:, :, :length], values[:, :length]) for length in lengths]
