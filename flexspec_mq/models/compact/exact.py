"""A target with Llama's layers on a CPU: few operations a layer, and the bits of transformers' own code.

Every step rounds where transformers rounds, so a row of logits is what `PackedModel` gives for the same products.
What is saved is everything around it: joined matrices, weights in the order in which the processor's kernel reads
them, and some forty operations a layer where transformers' modules take six times as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.compact.rack import Owners, Rack, compare_racks
from flexspec_mq.models.compact.rotary import Turns
from flexspec_mq.models.heads.head import FullHead
from flexspec_mq.models.invariance.attention import Heads, Packed, Segment
from flexspec_mq.models.invariance.batch import Batch
from flexspec_mq.models.kv import SessionKV

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flexspec_mq.models.compact.matrices import Matrix
    from flexspec_mq.models.compact.model import Layer
    from flexspec_mq.models.compact.rack import Make
    from flexspec_mq.models.compact.shape import Shape
    from flexspec_mq.models.heads.head import Head
    from flexspec_mq.models.invariance.product_probe import Product, Products
    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput


@dataclass(frozen=True, slots=True)
class Norms:
    """Weights of a layer's RMS norms, in the dtype of the model.

    Attributes:
        attention: before the attention, [width].
        mlp: before the MLP, [width].
        queries: of each head of queries, [head size]; None where the model has none.
        keys: of each head of keys.
    """

    attention: torch.Tensor
    mlp: torch.Tensor
    queries: torch.Tensor | None = None
    keys: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class ExactLayer:
    """One decoder layer."""

    matrices: Layer
    norms: Norms


@dataclass(frozen=True, slots=True)
class ExactEnds:
    """What is before the first layer and behind the last.

    Attributes:
        embedding: [vocabulary, width].
        norm: weights of the last norm, [width].
        head: to the logits.
    """

    embedding: torch.Tensor
    norm: torch.Tensor
    head: Matrix


@dataclass(frozen=True, slots=True)
class Making:
    """How matrices of heads are prepared.

    Attributes:
        layer: joins the matrices of a layer of a full head and takes its norms.
        matrix: an LM head.
        addition: a factor of a low-rank addition.
    """

    layer: Callable[[FullHead, int], ExactLayer]
    matrix: Callable[[torch.Tensor], Matrix]
    addition: Make


@dataclass(frozen=True, slots=True)
class Racks:
    """Low-rank additions of all heads to one layer's matrices."""

    project: Rack
    merge: Rack
    widen: Rack
    narrow: Rack

    @classmethod
    def of(cls, shape: Shape, make: Make, like: torch.Tensor) -> Racks:
        """Empty ones."""
        queries, keys = shape.queries * shape.head, shape.keys * shape.head
        return cls(
            project=Rack(shape.width, (queries, keys, keys), make, like),
            merge=Rack(queries, (shape.width,), make, like),
            widen=Rack(shape.width, (shape.inner, shape.inner), make, like),
            narrow=Rack(shape.inner, (shape.width,), make, like),
        )

    def by_parts(self) -> tuple[tuple[Rack, tuple[str, ...]], ...]:
        """Each, and the modules whose outputs lie behind one another in it."""
        return (
            (self.project, ("q", "k", "v")),
            (self.merge, ("o",)),
            (self.widen, ("gate", "up")),
            (self.narrow, ("down",)),
        )


@dataclass(frozen=True, slots=True)
class Held:
    """A head that a model holds.

    Attributes:
        norm: weights of the last norm; None is the base's.
        head: to the logits; None is the base's.
        layers: of its own, from `floor` on; empty for low-rank additions.
        floor: the lowest layer with weights of its own.
    """

    norm: torch.Tensor | None
    head: Matrix | None
    layers: tuple[ExactLayer, ...] = ()
    floor: int = 0


@dataclass(frozen=True, slots=True)
class _Lane:
    """Rows that go through the same layers.

    Attributes:
        state: [rows, width].
        inputs: whose rows they are, as places among the inputs of the forward.
        wanted: for each of them, rows of `state` whose logits are wanted.
    """

    state: torch.Tensor
    inputs: list[int]
    wanted: list[list[int]]


class ExactModel:
    """A causal language model that reads several sessions in one forward, as `PackedModel` does.

    Attributes:
        shape: sizes.
        vocab_size: width of the logits.
        heads: of its attention.
        products: with weights.
        shapes: of products.
    """

    def __init__(
        self,
        shape: Shape,
        layers: Sequence[ExactLayer],
        ends: ExactEnds,
        products: Products,
        shapes: Shapes,
        making: Making,
    ) -> None:
        self.shape = shape
        self.vocab_size = shape.vocab_size
        self.heads = Heads(shape.queries, shape.keys, shape.head)
        self.products = products
        self.shapes = shapes
        self._layers = layers
        self._ends = ends
        self._making = making
        self._like = ends.norm.new_empty(0)
        self._held: dict[str, Held] = {}
        self._racks: dict[int, Racks] = {}
        self._last_rack = Rack(shape.width, (shape.vocab_size,), making.addition, self._like)
        scale = self.heads.size**-0.5
        # Scores are scaled after their products. A power of two rounds nothing, so the queries' factors may have it.
        folded = scale if math.frexp(scale)[0] == 0.5 else 1.0
        self._scale = scale / folded
        self._turns = Turns(shape.rotary, (shape.queries, shape.keys), self._like, scale=folded)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a forward reads, the embedding and heads left out."""
        return sum(layer.matrices.nbytes for layer in self._layers) + self._ends.head.nbytes

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the heads that it holds."""
        return tuple(self._held)

    def new_kv(self) -> SessionKV:
        """Empty keys and values for a new session."""
        return SessionKV(len(self._layers), self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def hold(self, name: str, head: Head) -> None:
        """Take a head; what is held already keeps its bits.

        Args:
            name: that inputs give.
            head: that was read for this model.

        Raises:
            HeadError: the name is taken.
        """
        if not name or name in self._held:
            raise HeadError(
                f"a head named {name!r} is held already", hint="drop it first, or take another name"
            )
        if isinstance(head, FullHead):
            layers = tuple(self._making.layer(head, index) for index in range(head.floor, len(self._layers)))
            self._held[name] = Held(self._own(head.norm), self._matrix(head.lm_head), layers, head.floor)
            return
        try:
            for index, modules in head.layers.items():
                if index not in self._racks:
                    self._racks[index] = Racks.of(self.shape, self._making.addition, self._like)
                for rack, parts in self._racks[index].by_parts():
                    found = {place: modules[part] for place, part in enumerate(parts) if part in modules}
                    if found:
                        rack.hold(name, found)
            whole = None
            if isinstance(head.lm_head, torch.Tensor):
                whole = head.lm_head
            elif head.lm_head is not None:
                self._last_rack.hold(name, {0: head.lm_head})
            self._held[name] = Held(self._own(head.norm), self._matrix(whole))
        except BaseException:
            self._forget(name)
            raise

    def drop(self, name: str) -> None:
        """Forget a head; no session may use it any more.

        Raises:
            HeadError: it is not held.
        """
        self._of(name)
        self._forget(name)

    @torch.inference_mode()
    def _forget(self, name: str) -> None:
        self._held.pop(name, None)
        every = [rack for racks in self._racks.values() for rack, _ in racks.by_parts()]
        for rack in (*every, self._last_rack):
            rack.drop(name)

    def compare_head(self, name: str) -> tuple[int, int]:
        """Compare its additions' products at all places, with sums that cancel.

        Returns:
            Rows compared, and rows with other bits.
        """
        self._of(name)
        every = [rack for racks in self._racks.values() for rack, _ in racks.by_parts()]
        return compare_racks([rack for rack in (*every, self._last_rack) if name in rack.owners], self.shapes)

    def _own(self, norm: torch.Tensor | None) -> torch.Tensor | None:
        return None if norm is None else norm.to(self._like, copy=True)

    def _matrix(self, weight: torch.Tensor | None) -> Matrix | None:
        return None if weight is None else self._making.matrix(weight)

    def _of(self, name: str) -> Held:
        found = self._held.get(name)
        if found is None:
            raise HeadError(f"no head named {name!r} is held", hint="hold it before sessions use it")
        return found

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, vocabulary], input by input.

        Raises:
            HeadError: an input names a head that is not held.
        """
        if any(model_input.head for model_input in inputs):
            return self._mixed(inputs)
        batch = Batch.of(inputs, self.shapes)
        state = functional.embedding(torch.tensor(batch.ids), self._ends.embedding)
        state = self._through(
            range(len(self._layers)),
            state,
            self._turns.at(batch.positions),
            self._packed(batch.segments, state),
        )
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        if not batch.wanted:
            return torch.empty((0, self.shape.vocab_size))
        last = self._normed(state[batch.wanted], self._ends.norm)
        return self._in_pieces(self._ends.head, last)[: batch.rows].float()

    def _packed(self, segments: Sequence[Segment], state: torch.Tensor) -> Packed:
        every = self.heads.queries + 2 * self.heads.keys
        return Packed(segments, len(state), self.heads, self.shapes, self._like, stride=every)

    def _through(
        self,
        indices: range,
        state: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        packed: Packed,
        *,
        held: Held | None = None,
        owners: Owners | None = None,
    ) -> torch.Tensor:
        """Through some layers.

        Args:
            indices: of the layers.
            state: [rows, width].
            turns: factors of the rows' positions.
            packed: the rows' segments.
            held: whose layers these are; None is the base.
            owners: of rows with low-rank additions.
        """
        heads, rows = self.heads, len(state)
        cosines, sines = turns
        every = heads.queries + 2 * heads.keys
        for index in indices:
            layer = self._layers[index] if held is None else held.layers[index - held.floor]
            racks = None if owners is None else self._racks.get(index)
            matrices, norms = layer.matrices, layer.norms
            normed = self._normed(state, norms.attention)
            projected = self._in_pieces(matrices.project, normed)
            if racks is not None and owners is not None:
                racks.project.add(projected, normed, owners, self.shapes)
            projected = projected.view(rows, every, heads.size)
            if norms.queries is not None and norms.keys is not None:
                projected = self._heads_normed(projected, norms.queries, norms.keys)
            halves = projected.view(rows, every, 2, heads.size // 2)
            turned = (halves * cosines).add_(halves.flip(2).mul_(sines)).view(rows, every, heads.size)
            fresh = turned[:, heads.queries :].view(rows, 2, heads.keys, heads.size).permute(1, 2, 0, 3)
            mixed = packed.attend(index, turned, fresh, self._scale)
            merged = self._in_pieces(matrices.merge, mixed)
            if racks is not None and owners is not None:
                racks.merge.add(merged, mixed, owners, self.shapes)
            state = state + merged
            normed = self._normed(state, norms.mlp)
            if racks is not None and owners is not None:
                state = state + self._mlp_with(matrices, racks, normed, owners)
            else:
                state = state + self._in_pieces(partial(_mlp, matrices), normed)
        return state

    def _mlp_with(self, matrices: Layer, racks: Racks, x: torch.Tensor, owners: Owners) -> torch.Tensor:
        wide = self._in_pieces(matrices.widen, x)
        racks.widen.add(wide, x, owners, self.shapes)
        gate, up = wide.chunk(2, dim=1)
        between = functional.silu(gate).mul_(up)
        out = self._in_pieces(matrices.narrow, between)
        racks.narrow.add(out, between, owners, self.shapes)
        return out

    def _mixed(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """A forward in which some rows have heads.

        Rows of the base come first, then those with low-rank additions, head by head: one lane. Each head with
        layers of its own has another. Below the lowest of these layers all lanes go together.
        """
        names = ["", *self._held]
        for model_input in inputs:
            if model_input.head not in names:
                self._of(model_input.head)
        own = {name for name, held in self._held.items() if held.layers}
        order = sorted(
            range(len(inputs)), key=lambda place: (inputs[place].head in own, names.index(inputs[place].head))
        )
        lanes = [
            list(places)
            for _, places in groupby(
                order, key=lambda place: inputs[place].head if inputs[place].head in own else ""
            )
        ]
        batch = Batch.of([inputs[place] for place in order], self.shapes, [len(lane) for lane in lanes])
        segments = dict(zip(order, batch.segments, strict=True))
        count = len(self._layers)
        floors = [self._held[inputs[lane[0]].head].floor for lane in lanes if inputs[lane[0]].head in own]
        split = min(floors, default=count)
        state = functional.embedding(torch.tensor(batch.ids), self._ends.embedding)
        turns = self._turns.at(batch.positions)
        owners = None
        if inputs[lanes[0][0]].head not in own:
            spans = _spans(inputs, lanes[0], segments)
            owners = Owners.of(spans, batch.lanes[0].stop, self.shapes) if spans else None
        state = self._through(range(split), state, turns, self._packed(batch.segments, state), owners=owners)
        ended = []
        for lane, rows in zip(lanes, batch.lanes, strict=True):
            mine = state[rows]
            moved = {
                place: replace(segments[place], start=segments[place].start - rows.start) for place in lane
            }
            if split < count:
                held = self._held.get(inputs[lane[0]].head) if inputs[lane[0]].head in own else None
                mine = self._upper(
                    split, mine, (turns[0][rows], turns[1][rows]), list(moved.values()), held, owners
                )
            wanted = [
                list(range(segment.start + segment.count - inputs[place].rows, segment.start + segment.count))
                for place, segment in moved.items()
            ]
            ended.append(_Lane(mine, lane, wanted))
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return self._logits(inputs, ended)

    def _upper(
        self,
        split: int,
        state: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        segments: Sequence[Segment],
        held: Held | None,
        owners: Owners | None,
    ) -> torch.Tensor:
        """One lane's rows through the layers from `split` on."""
        packed, count = self._packed(segments, state), len(self._layers)
        if held is None:
            return self._through(range(split, count), state, turns, packed, owners=owners)
        state = self._through(range(split, held.floor), state, turns, packed)
        return self._through(range(held.floor, count), state, turns, packed, held=held)

    def _logits(self, inputs: Sequence[ModelInput], lanes: Sequence[_Lane]) -> torch.Tensor:
        """Logits of all wanted rows, input by input."""
        found: dict[int, torch.Tensor] = {}
        order: list[int] = []
        pieces: list[torch.Tensor] = []
        for lane in lanes:
            wanted = dict(zip(lane.inputs, lane.wanted, strict=True))
            for name, together in groupby(lane.inputs, key=lambda place: self._matrix_of(inputs[place].head)):
                places = [place for place in together if inputs[place].rows]
                if not places:
                    continue
                rows = [row for place in places for row in wanted[place]]
                whole = self._ended(
                    lane.state, rows, name, [(inputs[place].head, len(wanted[place])) for place in places]
                )
                pieces.append(whole)
                order += places
                parts = torch.split(whole, [len(wanted[place]) for place in places])
                found.update(zip(places, parts, strict=True))
        if not pieces:
            return torch.empty((0, self.shape.vocab_size))
        if len(pieces) == 1 and order == sorted(order):
            return pieces[0]
        return torch.cat([found[place] for place in sorted(order)])

    def _matrix_of(self, name: str) -> str:
        """The head whose LM head it uses."""
        held = self._held.get(name)
        return name if held is not None and held.head is not None else ""

    def _ended(
        self, state: torch.Tensor, rows: list[int], matrix: str, counts: Sequence[tuple[str, int]]
    ) -> torch.Tensor:
        """Logits of rows that share an LM head.

        Args:
            state: of a lane.
            rows: of it.
            matrix: the head whose LM head it is; empty is the base's.
            counts: heads and how many of the rows they have, in order.
        """
        padded = rows + rows[:1] * (self.shapes.padded(len(rows)) - len(rows))
        norms = [(self._norm_of(name), count) for name, count in counts]
        weight = norms[0][0]
        if any(norm is not weight for norm, _ in norms):
            every = [norm.expand(count, -1) for norm, count in norms]
            weight = torch.cat((*every, weight.expand(len(padded) - len(rows), -1)))
        last = self._normed(state[padded], weight)
        head = self._held[matrix].head if matrix else None
        logits = self._in_pieces(self._ends.head if head is None else head, last)
        spans, at = [], 0
        for name, count in counts:
            if name in self._last_rack.owners:
                spans.append((name, at, at + count))
            at += count
        if spans:
            self._last_rack.add(logits, last, Owners.of(spans, len(padded), self.shapes), self.shapes)
        return logits[: len(rows)].float()

    def _norm_of(self, name: str) -> torch.Tensor:
        held = self._held.get(name)
        return self._ends.norm if held is None or held.norm is None else held.norm

    def _in_pieces(self, product: Product, x: torch.Tensor) -> torch.Tensor:
        """Products, in pieces of as many rows as keep their bits."""
        pieces = [product(piece) for piece in self.shapes.pieces(x)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm over the last dimension, rounded before the weights multiply, as transformers does."""
        wide = x.float()
        squares = (wide * wide).sum(dim=-1, keepdim=True).div_(x.shape[-1])
        return (wide * squares.add_(self.shape.epsilon).rsqrt_()).to(x.dtype).mul_(weight)

    def _heads_normed(
        self, projected: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Norm each head of queries and of keys; values stay as they are."""
        counts = [self.heads.queries, self.heads.keys, self.heads.keys]
        query, key, value = projected.split_with_sizes(counts, dim=1)
        return torch.cat((self._normed(query, queries), self._normed(key, keys), value), dim=1)


def _mlp(matrices: Layer, x: torch.Tensor) -> torch.Tensor:
    gate, up = matrices.widen(x).chunk(2, dim=1)
    return matrices.narrow(functional.silu(gate).mul_(up))


def _spans(
    inputs: Sequence[ModelInput], lane: Sequence[int], segments: Mapping[int, Segment]
) -> list[tuple[str, int, int]]:
    """Rows of each head with low-rank additions, of inputs that lie head by head."""
    found = []
    for name, places in groupby(lane, key=lambda place: inputs[place].head):
        if name:
            mine = [segments[place] for place in places]
            found.append((name, mine[0].start, mine[-1].start + mine[-1].count))
    return found
