"""Contents of a device's folder beside tokenizer, configuration and calibration."""

from importlib import util
from pathlib import Path
from typing import Annotated

import msgspec

from flexspec_mq.errors import ModelError
from flexspec_mq.models.checkpoint import GRAPHS
from flexspec_mq.models.default import default_draft_folder

FORMAT_VERSION = 2
MANIFEST = GRAPHS
BACKBONE, HEAD = "backbone.onnx", "head.onnx"
EMBEDDING = "embedding.bf16"
"""bfloat16 [vocabulary, width] and nothing else; rows are read from the file one by one as they are looked up."""
IDS = "head_ids.npy"
"""int32 [columns]: the token id of each column of the logits, ascending. Absent when they are all ids."""
KINDS = {"mixed": (8, 4), "int8": (8, 8), "int4": (4, 4), "float32": (32, 32)}
"""Bits of a weight in the attention, and in MLPs and LM head, by the kind of a folder's weights."""
GRAPHS_BYTES = 110_000_000
"""Room that the graphs need in the cache beside the default draft's checkpoint, rounded up."""
WRITER_VERSION = 4
"""Part of the name of the graphs' folder. Raise it whenever writing them would give others."""

_Count = Annotated[int, msgspec.Meta(gt=0)]


class Rotary(msgspec.Struct, frozen=True):
    """Rotary positions (Su et al., arXiv 2104.09864), as one kind of layer has them.

    Attributes:
        speeds: radians per position of each pair of numbers of a head; where there are fewer, its first part turns.
        scale: factor of cosines and sines.
    """

    speeds: tuple[float, ...]
    scale: float = 1.0


class Attention(msgspec.Struct, frozen=True):
    """Attention of one layer.

    Attributes:
        rotary: index of its rotary positions; None has none.
        window: tokens that a token sees, itself included; 0 is all.
    """

    rotary: Annotated[int, msgspec.Meta(ge=0)] | None
    window: Annotated[int, msgspec.Meta(ge=0)]


class OnnxManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that a runner must know of the graphs.

    Attributes:
        format_version: layout of the folder.
        weights: kind of the weights, for people.
        layers: how many.
        width: width of the hidden state.
        keys: KV heads.
        head: width of one head.
        vocab_size: rows of the embedding.
        columns: columns of the logits.
        rotary: kinds of rotary positions.
        embedding_scale: factor of the embeddings.
        files: bytes of each file that must be there.
    """

    format_version: int
    weights: str
    layers: _Count
    width: _Count
    keys: _Count
    head: _Count
    vocab_size: _Count
    columns: _Count
    rotary: tuple[Rotary, ...]
    embedding_scale: float
    files: dict[str, int]


def can_write() -> bool:
    """Whether what `write.write_onnx` needs is installed."""
    return all(util.find_spec(name) is not None for name in ("onnx", "torch", "transformers", "safetensors"))


def has_graphs(folder: Path) -> bool:
    """Whether a folder is meant for ONNX Runtime."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> OnnxManifest:
    """Read what a folder says about itself, after a look at whether all of it is there.

    Raises:
        ModelError: no such folder, one of another format, or files that are missing or cut off.
    """
    again = "export the draft again: flexspec draft export --onnx"
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=OnnxManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint=again) from error
    if manifest.format_version != FORMAT_VERSION:
        raise ModelError(
            f"{folder} has format {manifest.format_version}, this version reads {FORMAT_VERSION}",
            hint="upgrade flexspec-mq" if manifest.format_version > FORMAT_VERSION else again,
        )
    for name, size in manifest.files.items():
        try:
            there = (folder / name).stat().st_size
        except OSError as error:
            raise ModelError(
                f"{folder} lacks {name}", hint="copy the whole folder, or export it again"
            ) from error
        if there != size:
            raise ModelError(
                f"{folder / name} has {there:,} bytes instead of {size:,}",
                hint="it is cut off or belongs to another export: copy the whole folder again",
            )
    return manifest


def default_graphs_folder() -> Path:
    """Where `default_graphs` puts the default draft's graphs; it need not be there yet, and nothing is written.

    Raises:
        ModelError: there is no folder for it.
    """
    folder = default_draft_folder()
    return folder.with_name(f"{folder.name}-onnx{WRITER_VERSION}")
