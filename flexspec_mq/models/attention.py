"""Attention whose result for a query does not depend on what else shares the forward.

Each session's queries attend to that session's keys only. Three rules make a row's bits independent of its
neighbours: the context is padded to a multiple of `context_grain` and masked, so that the softmax always takes the
same path; products have at least `min_rows` rows, so that they never fall to a matrix-vector kernel; and the sum
over values runs in blocks of `value_block` positions at fixed borders, added in order, where masked positions add
exact zeros. Which numbers are needed depends on the dtype and the machine; `invariance` proves that they suffice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from flexspec_mq.models.kv import SessionKV

IMPLEMENTATION = "flexspec_packed"


@dataclass(frozen=True, slots=True)
class Shapes:
    """What keeps the kernels the same.

    Attributes:
        min_rows: least rows of a product.
        context_grain: contexts are padded to a multiple of this; at most the grain of the KV memory.
        value_block: positions whose values are summed by one product.
    """

    min_rows: int
    context_grain: int
    value_block: int

    @classmethod
    def for_dtype(cls, dtype: torch.dtype) -> Shapes:
        """The numbers that hold on the CPUs we know."""
        if dtype == torch.float32:
            return cls(min_rows=8, context_grain=64, value_block=64)
        return cls(min_rows=2, context_grain=64, value_block=1024)


@dataclass(slots=True)
class Segment:
    """One session's rows in a packed forward.

    Attributes:
        kv: where its keys and values go.
        start: first row in the packed input.
        count: number of rows.
        base: tokens that the session held before.
        mask: [count, padded context], 0 where a query may look and -inf elsewhere.
    """

    kv: SessionKV
    start: int
    count: int
    base: int
    mask: torch.Tensor


@dataclass(slots=True)
class Packed:
    """The segments of one forward; rows behind the last one are padding."""

    segments: list[Segment]
    shapes: Shapes


def causal_mask(base: int, count: int, shapes: Shapes, device: torch.device) -> torch.Tensor:
    """Additive mask for `count` queries that follow `base` tokens; float32 [count, padded context]."""
    padded = -(-(base + count) // shapes.context_grain) * shapes.context_grain
    seen = torch.arange(padded, device=device)
    last = torch.arange(base, base + count, device=device)
    mask = torch.zeros((count, padded), device=device)
    return mask.masked_fill_(seen[None, :] > last[:, None], float("-inf"))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    flexspec: Packed,
    sliding_window: int | None = None,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form that transformers calls.

    Args:
        module: the attention module; gives the layer's index.
        query: [1, heads, rows, head size], after the position embedding.
        key: [1, kv heads, rows, head size].
        value: as key.
        scaling: of the scores; default head size to the power -0.5.
        flexspec: the segments, passed through the model's keyword arguments.
        sliding_window: positions that a query sees, itself included.

    Returns:
        [1, rows, heads, head size], and None for the weights.
    """
    _, heads, rows, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    out = query.new_zeros((1, rows, heads, size))
    layer: int = module.layer_idx  # type: ignore[assignment]
    for segment in flexspec.segments:
        rows_here = slice(segment.start, segment.start + segment.count)
        keys, values = segment.kv.layer(layer)
        into = slice(segment.base, segment.base + segment.count)
        keys[:, into] = key[0, :, rows_here]
        values[:, into] = value[0, :, rows_here]
        mask = segment.mask
        if sliding_window is not None:
            mask = _windowed(mask, segment.base, sliding_window)
        out[0, rows_here] = attend(query[0, :, rows_here], keys, values, mask, scale, flexspec.shapes)
    return out, None


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    shapes: Shapes,
) -> torch.Tensor:
    """Attend with one session's queries [heads, count, size]; result [count, heads, size]."""
    heads, count, size = query.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    padded = mask.shape[1]
    rows = query.reshape(kv_heads, group * count, size)
    missing = shapes.min_rows - group * count
    if missing > 0:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    scores = torch.bmm(rows, keys[:, :padded].transpose(1, 2)) * scale
    used = scores[:, : group * count].reshape(kv_heads, group, count, padded).float() + mask
    weights = torch.softmax(used, dim=-1).to(query.dtype).flatten(1, 2)
    if missing > 0:
        weights = torch.nn.functional.pad(weights, (0, 0, 0, missing))
    block = shapes.value_block
    mixed = torch.bmm(weights[:, :, :block], values[:, : min(block, padded)])
    for begin in range(block, padded, block):
        end = min(begin + block, padded)
        mixed = mixed + torch.bmm(weights[:, :, begin:end], values[:, begin:end])
    mixed = mixed[:, : group * count].reshape(heads, count, size)
    return mixed.transpose(0, 1)


def _windowed(mask: torch.Tensor, base: int, window: int) -> torch.Tensor:
    """Hide what lies further back than the window."""
    count, padded = mask.shape
    seen = torch.arange(padded, device=mask.device)
    last = torch.arange(base, base + count, device=mask.device)
    return mask.masked_fill(seen[None, :] <= last[:, None] - window, float("-inf"))


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Each segment brings its own mask, so the model builds none."""
    return


def register() -> str:
    """Make the implementation known to transformers and return its name."""
    AttentionInterface.register(IMPLEMENTATION, packed_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
    return IMPLEMENTATION
