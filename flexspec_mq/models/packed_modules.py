"""What stands in for the modules of a model of transformers whose rows may have heads."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.compact.lora_bank import LoraBank
from flexspec_mq.models.compact.matrices import Plain
from flexspec_mq.models.compact.mixed import joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.models.compact.mixed import Rows
    from flexspec_mq.models.invariance.shapes import Shapes


@dataclass(slots=True)
class Current:
    """The forward that is being computed.

    Attributes:
        shapes: of products.
        body: whose its rows are; None where all are the base's.
        last: the same of the rows that the LM head sees.
    """

    shapes: Shapes
    body: Rows | None = None
    last: Rows | None = None


class Linear:
    """A linear layer in products of as many rows as keep their bits, with what heads add or put in its place.

    Attributes:
        bank: low-rank additions of heads.
        others: weights and biases of heads that have their own.
    """

    def __init__(self, module: torch.nn.Linear, current: Current, like: torch.Tensor, *, last: bool) -> None:
        self._module = module
        self._current = current
        self._last = last
        self.bank = LoraBank(module.in_features, (module.out_features,), Plain, like)
        self.others: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[1, rows, width of the input] → [1, rows, width of the output]."""
        flat = x.flatten(0, -2)
        rows = self._current.last if self._last else self._current.body
        if rows is None:
            return self._multiply(flat, "").view(*x.shape[:-1], -1)
        out = joined([self._multiply(flat[lane], name) for lane, name in rows.lanes])
        if rows.owners is not None:
            self.bank.add(out, flat, rows.owners)
        return out.view(*x.shape[:-1], -1)

    def _multiply(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.others.get(name, (self._module.weight, self._module.bias))
        return self._current.shapes.multiply(lambda piece: functional.linear(piece, weight, bias), x)


class Norm:
    """A norm whose weights are other ones for some heads' rows."""

    def __init__(self, module: torch.nn.Module, current: Current) -> None:
        self._base: Callable[[torch.Tensor], torch.Tensor] = module.forward
        self._module = module
        self._current = current
        self._others: dict[str, torch.nn.Module] = {}

    def hold(self, name: str, weight: torch.Tensor) -> None:
        """Take a head's weights."""
        other = copy(self._module)
        other.__dict__.pop("forward", None)
        other._parameters = dict(self._module._parameters)  # noqa: SLF001  a copy shares its module's
        other.weight = torch.nn.Parameter(weight, requires_grad=False)
        self._others[name] = other

    def drop(self, name: str) -> None:
        """Forget a head; it need not be known."""
        self._others.pop(name, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[1, rows, …] → the same shape."""
        rows = self._current.body
        if rows is None or not any(name in self._others for _, name in rows.spans):
            return self._base(x)
        parts = [self._others.get(name, self._base)(x[:, span]) for span, name in rows.spans]
        return torch.cat(parts, dim=1)
