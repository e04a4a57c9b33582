"""What stands in for the modules of a model of transformers whose rows may have heads."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.compact.matrices import Plain
from flexspec_mq.models.compact.rack import Owners, Rack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from flexspec_mq.models.invariance.shapes import Shapes


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a forward are whose.

    Attributes:
        lanes: rows, padding included, and the head whose weights they go through; empty is the base.
        spans: all rows, in order, cut where another head begins; padding is with those before it.
        owners: of rows with low-rank additions, which are in the first lane; None where there are none.
    """

    lanes: tuple[tuple[slice, str], ...]
    spans: tuple[tuple[slice, str], ...]
    owners: Owners | None

    @classmethod
    def of(
        cls,
        inputs: Sequence[tuple[str, int, int]],
        own: Collection[str],
        lanes: Sequence[slice],
        shapes: Shapes,
    ) -> Rows:
        """Join what inputs have.

        Args:
            inputs: of each its head, first row and number of rows, head by head.
            own: heads whose rows go through weights of their own.
            lanes: rows of the base and of heads with additions, if any, then of each head in `own`.
            shapes: of products.
        """
        found = []
        for name, same in groupby(inputs, key=lambda one: one[0]):
            mine = list(same)
            found.append((name, mine[0][1], mine[-1][1] + mine[-1][2]))
        starts = [0, *(start for _, start, _ in found[1:]), lanes[-1].stop]
        spans = [(slice(*ends), name) for ends, (name, _, _) in zip(pairwise(starts), found, strict=True)]
        added = [one for one in found if one[0] and one[0] not in own]
        named = {start: name for name, start, _ in found}
        return cls(
            tuple((lane, named[lane.start] if named[lane.start] in own else "") for lane in lanes),
            tuple(spans),
            Owners.of(added, lanes[0].stop, shapes) if added else None,
        )


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
        rack: additions of heads.
        others: weights and biases of heads that have their own.
    """

    def __init__(self, module: torch.nn.Linear, current: Current, like: torch.Tensor, *, last: bool) -> None:
        self._module = module
        self._current = current
        self._last = last
        self.rack = Rack(module.in_features, (module.out_features,), Plain, like)
        self.others: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[1, rows, width of the input] → [1, rows, width of the output]."""
        flat = x.flatten(0, -2)
        rows = self._current.last if self._last else self._current.body
        if rows is None:
            return self._multiply(flat, "").view(*x.shape[:-1], -1)
        out = _joined([self._multiply(flat[lane], name) for lane, name in rows.lanes])
        if rows.owners is not None:
            self.rack.add(out, flat, rows.owners, self._current.shapes)
        return out.view(*x.shape[:-1], -1)

    def _multiply(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.others.get(name, (self._module.weight, self._module.bias))
        return _joined([functional.linear(piece, weight, bias) for piece in self._current.shapes.pieces(x)])


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


def _joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
