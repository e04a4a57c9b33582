"""A target's weights in 8-bit integers as a file, written once: matrices in the kernel's order, norms as they are.

To unpack, spread, round and reorder 1.5 billion weights takes longer than all else that a worker does at its start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from flexspec_mq.models.cache import Progress, made_once, whole_folder
from flexspec_mq.models.compact.integers import Integers, KernelOrder, pack, packed_bytes, round_weights
from flexspec_mq.models.compact.tensors import (
    EMBEDDING,
    HEAD,
    MATRICES,
    NORM,
    ExactLayer,
    Source,
    check_names,
    exact_layer,
    layer_norms,
    layer_prefix,
)
from flexspec_mq.models.gguf.tensors import GgufTensors, PackedRows
from flexspec_mq.models.head import full_name, module_shapes
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import WEIGHTS, Tensors, TensorsWriter

VERSION = 2
"""Part of the folder's name. Raise it whenever other bytes would be written."""
_FACTS = "int8.json"
_LM_HEAD = "lm_head"
_WORDS_APART = 5.0
"""Seconds between two words on how far it is."""


class _Facts(msgspec.Struct):
    names: list[str]
    embedding: PackedRows | None
    """Where a GGUF file has the embedding's rows."""


class Int8File:
    """A target's weights in 8-bit integers.

    Args:
        folder: as `write_int8` made it.
        shape: shape of the model.
        order: this processor's, as the folder has it.

    Attributes:
        folder: the folder.
        names: names of the tensors that it was made from.
        embedding: where a GGUF file has the rows of the embedding; None where the target is a folder.

    Raises:
        ModelError: it is damaged.
    """

    def __init__(self, folder: Path, shape: Shape, order: KernelOrder) -> None:
        self.folder = folder
        self._tensors, self._order, self._shape = Tensors(folder), order, shape
        self._sizes = {matrix.name: matrix.size for matrix in _matrices(shape)}
        facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=_Facts)
        self.names, self.embedding = facts.names, facts.embedding

    def has_bias(self, matrix: str) -> bool:
        """Whether one of `MATRICES` has a bias."""
        return f"{layer_prefix(0)}{matrix}.bias" in self._tensors

    def read(self, like: torch.Tensor) -> tuple[list[ExactLayer], torch.Tensor, Integers]:
        """Read layers, weights of the last norm, [width], and LM head; norms in the dtype of `like`."""
        lm_head = self._matrix(_LM_HEAD)
        layers = [self._layer(index, like) for index in range(self._shape.layers)]
        norm = self._tensors.read(NORM, (self._shape.width,)).to(like, copy=True)
        self._order.forget()
        return layers, norm, lm_head

    def _layer(self, index: int, like: torch.Tensor) -> ExactLayer:
        matrices = (self._matrix(f"{layer_prefix(index)}{name}") for name in MATRICES)
        return exact_layer(matrices, self._tensors, index, self._shape, like)

    def _matrix(self, name: str) -> Integers:
        rows, width = self._sizes[name]
        codes = self._tensors.read(f"{name}.codes", (self._order.nbytes(rows, width),))
        bias = f"{name}.bias"
        return Integers(
            width,
            self._order.read(rows, width, codes),
            self._tensors.read(f"{name}.scales", (rows,)),
            self._tensors.read(bias, (rows,)).clone() if bias in self._tensors else None,
        )


def int8_file(
    read: Callable[[], Source], shape: Shape, place: Callable[[str], Path], name: str, say: Progress
) -> Int8File:
    """A target's weights in 8-bit integers, written to a folder unless they are there.

    Args:
        read: opens the target's weights.
        shape: shape of the model.
        place: the folder, by a word for the order of this processor.
        name: name of the target, for people.
        say: told what takes longer than a second.

    Raises:
        UnknownModel: the target has tensors that this engine does not know.
        ModelError: a tensor is missing or unreadable, or the folder cannot be written.
    """
    order = KernelOrder()
    folder = place(order.digest(sorted({matrix.size for matrix in _matrices(shape)})))

    def write() -> None:
        with whole_folder(folder) as work:
            _write(
                work, read(), shape, order, lambda share: say(f"rounding {name} to 8 bits, once: {share:.0%}")
            )

    made_once(folder, Path.is_dir, write, what=f"{name} in 8 bits", size=shape.weights, say=say)
    return Int8File(folder, shape, order)


def _write(
    work: Path, tensors: Source, shape: Shape, order: KernelOrder, say: Callable[[float], None]
) -> None:
    check_names(tensors, shape)
    matrices = [*_matrices(shape)]
    threads, cores, said = torch.get_num_threads(), len(os.sched_getaffinity(0)), 0.0
    with (
        TensorsWriter(work / WEIGHTS, _layout(tensors, shape, order)) as out,
        # A matrix on each core, as most of it are small operations; so threads of torch's would only wait.
        ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            running = [pool.submit(_packed, tensors, matrix) for matrix in matrices[:cores]]
            for following in [*matrices[cores:], *[None] * cores][: len(matrices)]:
                for each in running.pop(0).result():
                    out.write(each)
                if following is not None:
                    running.append(pool.submit(_packed, tensors, following))
                if time.monotonic() > said + _WORDS_APART:
                    said = time.monotonic()
                    say(out.written / out.size)
        finally:
            torch.set_num_threads(threads)
        for name, width in _norms(shape):
            out.write(tensors.read(name, (width,)).float())
    rows = tensors.rows(EMBEDDING) if isinstance(tensors, GgufTensors) else None
    (work / _FACTS).write_bytes(msgspec.json.encode(_Facts(list(tensors.names), rows)))


def _packed(tensors: Source, matrix: _Matrix) -> list[torch.Tensor]:
    """Bytes, scales and bias of a matrix."""
    rows, width = matrix.size
    codes, scales, begin = torch.empty((rows, width), dtype=torch.int8), torch.empty(rows), 0
    for name, size in matrix.parts:
        for some in _slices(tensors, f"{name}.weight", size):
            end = begin + len(some)
            codes[begin:end], scales[begin:end] = round_weights(some)
            begin = end
    packed = torch.cat([packed_bytes(part) for part in pack(codes)])
    if not matrix.biased(tensors):
        return [packed, scales]
    biases = [
        tensors.read(f"{name}.bias", size[:1]).float() if f"{name}.bias" in tensors else torch.zeros(size[0])
        for name, size in matrix.parts
    ]
    return [packed, scales, torch.cat(biases)]


def _slices(tensors: Source, name: str, size: tuple[int, int]) -> Iterable[torch.Tensor]:
    """A tensor's rows in order, some at a time."""
    if isinstance(tensors, GgufTensors):
        return map(torch.from_numpy, tensors.slices(name))
    return (tensors.read(name, size),)


class _Matrix(NamedTuple):
    """A matrix of the file: its name, and names and sizes of the linear layers that it is joined from."""

    name: str
    parts: list[tuple[str, tuple[int, int]]]

    @property
    def size(self) -> tuple[int, int]:
        return sum(rows for _, (rows, _) in self.parts), self.parts[0][1][1]

    def biased(self, tensors: Source) -> bool:
        return any(f"{name}.bias" in tensors for name, _ in self.parts)


def _matrices(shape: Shape) -> Iterator[_Matrix]:
    """All of them, the largest one first."""
    head = EMBEDDING if shape.tied else HEAD
    yield _Matrix(_LM_HEAD, [(head.removesuffix(".weight"), (shape.vocab_size, shape.width))])
    sizes = module_shapes(shape)
    for index in range(shape.layers):
        for name, parts in MATRICES.items():
            prefix = layer_prefix(index)
            yield _Matrix(f"{prefix}{name}", [(f"{prefix}{full_name(part)}", sizes[part]) for part in parts])


def _layout(tensors: Source, shape: Shape, order: KernelOrder) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of the file, in order."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for matrix in _matrices(shape):
        rows, width = matrix.size
        layout[f"{matrix.name}.codes"] = "U8", (order.nbytes(rows, width),)
        layout[f"{matrix.name}.scales"] = "F32", (rows,)
        if matrix.biased(tensors):
            layout[f"{matrix.name}.bias"] = "F32", (rows,)
    return layout | {name: ("F32", (width,)) for name, width in _norms(shape)}


def _norms(shape: Shape) -> Iterator[tuple[str, int]]:
    """Name and width of each norm."""
    for index in range(shape.layers):
        for norm, width in layer_norms(shape):
            yield f"{layer_prefix(index)}{norm}", width
    yield NORM, shape.width
