"""Shapes that products must have so that a row's bits do not depend on what shares the forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flexspec_mq.models.invariance.product_probe import Product, Products, attention_shapes, row_range

_CONTEXT_GRAIN = 64


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes that keep the kernels the same.

    Attributes:
        min_rows: least rows of a product with weights.
        max_rows: most rows of one; None is no bound. Products of more are cut into pieces.
        attention_rows: least rows of a product of attention.
        context_grain: contexts are padded to a multiple of this; at most the grain of the KV memory.
        value_block: positions whose values are summed by one product.
        reordered: weights lie in the order in which the processor's kernel reads them; else as in the checkpoint.
    """

    min_rows: int
    max_rows: int | None
    attention_rows: int
    context_grain: int
    value_block: int
    reordered: bool = False

    @classmethod
    def for_products(
        cls, products: Products, like: torch.Tensor, head_size: int, *, reordered: bool = False
    ) -> Shapes:
        """Shapes that a model's products need on this machine; the proof tells where nothing is enough.

        Args:
            products: products of the model.
            like: a tensor on its device and in its dtype.
            head_size: head size of its attention.
            reordered: see above.
        """
        least, most = row_range(products, like) or (1, None)
        at_most = _CONTEXT_GRAIN if like.dtype == torch.float32 else 1024
        rows, block = attention_shapes(like, head_size, at_most, _CONTEXT_GRAIN)
        return cls(least, most, rows, _CONTEXT_GRAIN, block, reordered)

    def padded(self, count: int) -> int:
        """Rows, at least `count`, of which each piece has enough."""
        count = max(count, self.min_rows)
        rest = count % self.max_rows if self.max_rows else 0
        return count + self.min_rows - rest if 0 < rest < self.min_rows else count

    def pieces(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cut rows, as many as `padded` says, into pieces for one product each."""
        if self.max_rows is None or len(x) <= self.max_rows:
            return (x,)
        return torch.split(x, self.max_rows)

    def multiply(self, product: Product, x: torch.Tensor) -> torch.Tensor:
        """Multiply rows, in pieces of as many as keep their bits."""
        pieces = [product(piece) for piece in self.pieces(x)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
