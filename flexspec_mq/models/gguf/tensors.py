"""Tensors of a GGUF file under the names that transformers has for them, unpacked a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flexspec_mq.errors import ModelError
from flexspec_mq.models.gguf.architecture import PAIRED, SHIFTED

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from gguf import GGUFReader, ReaderTensor
    from transformers import PreTrainedConfig

    Floats = npt.NDArray[np.float32]

_SLICE = 1 << 22
"""Values that are unpacked at a time."""
_LONGEST = 1 << 22
"""Items that an array of metadata may have: ten times the largest vocabulary."""


class GgufTensors:
    """Tensors by name, as `Tensors` has those of a checkpoint folder.

    Args:
        config: configuration of the model.
        arch: the file's name of its architecture.
        named: where each tensor lies, by transformers' name.
    """

    def __init__(self, config: PreTrainedConfig, arch: str, named: Mapping[str, ReaderTensor]) -> None:
        self._named, self._arch = named, arch
        self._heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}

    def __contains__(self, name: str) -> bool:
        return name in self._named

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors, ascending."""
        return self._named.keys()

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Unpack a tensor, on all cores.

        Raises:
            ModelError: of a kind that gguf does not unpack, or of another shape.
            ValueError: not all of it are numbers.
        """
        import torch

        tensor = self._named[name]
        out = np.empty(shape_of(tensor), np.float32)
        if shape is not None and out.shape != shape:
            raise ModelError(f"{name} has shape {list(out.shape)}, the model wants {list(shape)}")

        def fill(piece: _Piece) -> None:
            out[piece.start : piece.start + len(tensor.data[piece.rows])] = piece.values()

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(fill, self._pieces(name)))
        return torch.from_numpy(out)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return shape_of(self._named[name])

    def slices(self, name: str) -> Iterator[Floats]:
        """A tensor's values in order, some rows at a time."""
        for piece in self._pieces(name):
            yield piece.values()

    def rows(self, name: str) -> PackedRows:
        """Where the rows of a tensor lie in the file, to be unpacked when they are asked for."""
        tensor = self._named[name]
        return PackedRows(int(tensor.data_offset), tensor.tensor_type.name, shape_of(tensor))

    def _pieces(self, name: str) -> Iterator[_Piece]:
        tensor, order = self._named[name], None
        heads = self._heads.get(name.split(".")[-2]) if self._arch in PAIRED else None
        if heads is not None:
            # transformers has first all first halves of pairs, then all second ones.
            order = np.arange(len(tensor.data)).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
        shift = int(self._arch in SHIFTED and name.endswith("norm.weight"))
        step = max(1, _SLICE // int(tensor.shape[0]))
        for start in range(0, len(tensor.data), step):
            part = slice(start, start + step)
            yield _Piece(tensor, start, part if order is None else order[part], shift)


class _Piece(NamedTuple):
    """Some rows of a tensor, the first of which is the `start`th, and what is taken from each value."""

    tensor: ReaderTensor
    start: int
    rows: Any
    shift: int

    def values(self) -> Floats:
        values = unpack(self.tensor.data[self.rows], self.tensor.tensor_type, self.tensor.name)
        return values - self.shift if self.shift else values


class PackedRows(NamedTuple):
    """Rows of a tensor as they lie in a file.

    Attributes:
        offset: bytes before them.
        kind: llama.cpp's name of their type.
        shape: rows, and values of one.
    """

    offset: int
    kind: str
    shape: tuple[int, ...]

    def reader(self, file: Path) -> Callable[[list[int]], Floats]:
        """Unpack rows of a file by their numbers; the file stays mapped, of which only what is read takes memory."""
        from gguf import GGMLQuantizationType, quants

        kind = GGMLQuantizationType[self.kind]
        size = quants.quant_shape_to_byte_shape(self.shape, kind)
        mapped = np.memmap(file, np.uint8, "r", self.offset, tuple(size))
        return lambda rows: unpack(mapped[rows], kind, file.name)


def unpack(data: npt.NDArray[Any], kind: Any, name: str) -> Floats:
    """Values of rows.

    Raises:
        ModelError: of a kind that gguf does not unpack.
        ValueError: not all are numbers.
    """
    from gguf import quants

    try:
        values = quants.dequantize(data, kind)
    except NotImplementedError as error:
        raise ModelError(
            f"gguf does not unpack {kind.name}", hint="take a file in Q4_K_M, Q8_0 or BF16"
        ) from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds what is no number")
    return np.require(values, np.float32, ("C", "W"))


def shape_of(tensor: ReaderTensor) -> tuple[int, ...]:
    """Rows first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def open_gguf(file: Path) -> GGUFReader:
    """The file's metadata, and where its tensors lie.

    Raises:
        LookupError, ValueError, OverflowError: It is damaged.
    """
    from gguf import GGUFReader, GGUFValueType

    class Bounded(GGUFReader):
        """A reader that goes on neither behind the file's end nor for ever, and takes less than half of the time."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            del override_order
            if self.byte_order == "S" or offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends too early, or is for big-endian machines")
            return np.frombuffer(self.data, dtype, int(count), int(offset))

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == GGUFValueType.ARRAY and self._get(orig_offs + 4, np.uint64)[0] > _LONGEST:
                raise ValueError("its metadata have an array without end")
            return super()._get_field_parts(orig_offs, raw_type)

    return Bounded(file)
