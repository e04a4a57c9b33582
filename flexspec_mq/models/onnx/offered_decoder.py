"""A decoder whose weights lie in a file in few bits: of them a device writes its graphs (`offered`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from flexspec_mq.errors import ModelError
from flexspec_mq.models.onnx.folder import Attention, Rotary

if TYPE_CHECKING:
    Floats = npt.NDArray[np.float32]

_Size = Annotated[int, Meta(ge=1, le=1 << 20)]
_Number = Annotated[float, Meta(ge=0, le=1e6)]


class DecoderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a decoder, as `Decoder` has them, and which of its parts there are in a layer."""

    width: _Size
    wide: _Size
    queries: Annotated[int, Meta(ge=1, le=1024)]
    keys: Annotated[int, Meta(ge=1, le=1024)]
    head: Annotated[int, Meta(ge=1, le=4096)]
    epsilon: _Number
    vocab_size: _Size
    scale: _Number
    softcap: _Number
    logits_softcap: _Number
    activation: Literal["silu", "gelu_pytorch_tanh"]
    embedding_scale: _Number
    layers: Annotated[tuple[Attention, ...], Meta(min_length=1, max_length=256)]
    rotary: Annotated[tuple[Rotary, ...], Meta(min_length=1, max_length=4)]
    parts: Annotated[frozenset[str], Meta(max_length=64)]


PARTS = (
    "post_feedforward_layernorm.weight",
    *(f"self_attn.{part}_norm.weight" for part in "qk"),
    *(f"{part}.bias" for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")),
)
"""Parts that some layers have and others do not."""


class OfferedDecoder:
    """A decoder of which the sizes are known, and whose weights lie in a file in few bits, as a graph wants them.

    Args:
        facts: sizes and parts.
        arrays: weights by their names in the graph.
    """

    def __init__(self, facts: DecoderFacts, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._facts, self._arrays = facts, arrays
        inner = facts.queries * facts.head
        self._shapes = {
            "self_attn.q_proj": (inner + 2 * facts.keys * facts.head, facts.width),
            "self_attn.o_proj": (facts.width, inner),
            "mlp.gate_proj": (2 * facts.wide, facts.width),
            "mlp.down_proj": (facts.width, facts.wide),
        }

    def __getattr__(self, name: str) -> Any:
        """A size, as `Decoder` has it."""
        return getattr(self._facts, name)

    def has(self, name: str) -> bool:
        """Whether a layer has a part."""
        return name.split(".", 3)[-1] in self._facts.parts

    def norm(self, name: str) -> Floats:
        """The shape of a norm."""
        return zeros(self._facts.head if "self_attn" in name else self._facts.width)

    def matrix(self, layer: str, names: Sequence[str], _joined: str = "") -> tuple[Floats, Floats | None]:
        """The shapes of a matrix and its bias."""
        shape = self._shapes[names[0]]
        return zeros(*shape), zeros(shape[0]) if self.has(f"{layer}{names[0]}.bias") else None

    def given(self, name: str, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Weights of the file.

        Raises:
            ModelError: there are none, or others than a graph of these sizes has.
        """
        array = self._arrays.get(name)
        if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ModelError(f"{name} is not as its sizes want it")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise ModelError(f"{name} is not finite")
        return array


def zeros(*shape: int) -> Floats:
    """A shape without contents."""
    return np.broadcast_to(np.float32(0), shape)
