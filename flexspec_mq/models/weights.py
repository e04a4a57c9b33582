"""Weights of a checkpoint: tensors of safetensors files, read one at a time, and their fingerprint without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from flexspec_mq.errors import ModelError
from flexspec_mq.models.checkpoint import first_line

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
_TYPES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""torch's names of types by those of safetensors."""
_MOST_HEADER, _PIECE = 100_000_000, 1 << 20
"""Bytes: the longest header that safetensors itself reads, and what is read at once."""


class Tensors:
    """Tensors of a checkpoint by name, from one file or several.

    Raises:
        ModelError: the folder has no safetensors weights that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / f"{WEIGHTS}.index.json"
        with self._readable():
            if index.exists():
                self._where: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
            else:
                self._where = dict.fromkeys(_header(folder / WEIGHTS)[0], WEIGHTS)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors, ascending."""
        return sorted(self._where)

    def fingerprint(self) -> str:
        """Fingerprint of all tensors by their names, as `fingerprint_of`.

        Raises:
            ModelError: they cannot be read.
        """
        whole = hashlib.blake2b(digest_size=16)
        with self._readable():
            headers = {file: _header(self._folder / file) for file in set(self._where.values())}
            for name in self.names:
                facts, begin = headers[self._where[name]]
                first, end = facts[name]["data_offsets"]
                whole.update(f"{name} torch.{_TYPES[facts[name]['dtype']]} {facts[name]['shape']}\n".encode())
                for piece in _pieces(self._folder / self._where[name], begin + first, end - first):
                    whole.update(piece)
        return whole.hexdigest()

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Map a tensor's file; the mapping ends with the tensor, which must be copied to be kept.

        Raises:
            ModelError: it is missing, of another shape, or unreadable.
        """
        from safetensors import safe_open

        if name not in self._where:
            raise ModelError(
                f"{self._folder} lacks tensors of its model, such as {name}",
                hint="the weights are incomplete or belong to another config.json",
            )
        with (
            self._readable(),
            safe_open(self._folder / self._where[name], framework="pt") as opened,
        ):
            tensor: torch.Tensor = opened.get_tensor(name)
        if shape is not None and tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._folder}: {name} has shape {list(tensor.shape)}, its config.json wants {list(shape)}",
                hint="the weights belong to another config.json",
            )
        return tensor

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of safetensors, which a fingerprint does without, and of damaged headers
            raise ModelError(
                f"cannot load the weights of {self._folder}: {first_line(error)}",
                hint=f"expected a checkpoint folder with {WEIGHTS}; a file may be missing, cut off or damaged: "
                "fetch it again",
            ) from error


class TensorsWriter:
    """Writes one file of safetensors, tensor by tensor, of which nobody needs to hold two.

    Args:
        path: the file.
        tensors: type, as safetensors names it, and shape of each, in the order in which they are written.

    Raises:
        ModelError: the disk has no room for them.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> None:
        import torch

        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (kind, shape) in tensors.items():
            start, end = end, end + prod(shape) * getattr(torch, _TYPES[kind]).itemsize
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        free = shutil.disk_usage(path.parent).free
        if free < end:
            raise ModelError(
                f"its weights take {end / 1e6:,.0f} MB in {path.parent.parent}, and {free / 1e6:,.0f} MB are free",
                hint="free some space, or set XDG_CACHE_HOME to a folder that has it",
            )
        self.size, self.written = end, 0
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> Self:
        """Write all of them in this context."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file."""
        self._file.close()
        assert kind is not None or self.written == self.size  # noqa: S101  all that was named was written

    def write(self, values: torch.Tensor) -> None:
        """Append values of the tensor whose turn it is, all or some."""
        import torch

        self.written += self._file.write(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def weights_fingerprint(folder: Path) -> str:
    """Fingerprint of all tensors of a checkpoint.

    Raises:
        ModelError: the folder has no safetensors weights that can be read.
    """
    return Tensors(folder).fingerprint()


def fingerprint_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """BLAKE2b over names, dtypes, shapes and bytes of tensors, 32 hex digits; their order counts."""
    import torch

    whole = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Types, shapes and offsets of a safetensors file's tensors, and the byte at which these begin to count."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST_HEADER:
            raise ValueError(f"{path} is no safetensors file")
        facts = msgspec.json.decode(file.read(size), type=dict[str, dict[str, Any]])
    facts.pop("__metadata__", None)
    return facts, 8 + size


def _pieces(path: Path, begin: int, size: int) -> Iterator[bytes]:
    """Bytes of a file, a bounded piece at a time."""
    with path.open("rb") as file:
        file.seek(begin)
        while size > 0:
            if not (piece := file.read(min(size, _PIECE))):
                raise ValueError(f"{path.name} is cut off")
            size -= len(piece)
            yield piece
