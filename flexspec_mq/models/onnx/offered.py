"""A draft as one file, which a worker offers and a device writes its own graphs of, without torch.

The file is safetensors in one frame of zstd: weights in the few bits in which they run, the embedding in 8, which the
LM head shares, and the files of the tokenizer. It tells the sizes of the graphs that they belong to; the device writes
the operators itself, and takes no weight of another shape than its own graph wants.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import Progress, made_once, models_cache, whole_folder
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.onnx.folder import EMBEDDING, IDS, WRITER_VERSION, has_graphs
from flexspec_mq.models.onnx.offered_decoder import PARTS, DecoderFacts, OfferedDecoder, zeros
from flexspec_mq.models.rounding import round_to
from flexspec_mq.models.target_text import pack_tokenizer, unpacked_tokenizer

if TYPE_CHECKING:
    Floats = npt.NDArray[np.float32]

_MOST_UNPACKED = 2 << 30
"""Bytes of such a file, unpacked; and at most twice what it is packed."""
_LEVEL, _FRAME_HEADER = 3, 18
"""Level of zstd, and bytes of the longest header of a frame."""
_PIECE = 2048
"""Rows of the embedding that are written at a time."""
_WEIGHTS, _PACKED = "mixed", "draft.zst"
_CODES, _SCALES, _TOKENIZER, _FACTS = (
    "embedding.codes",
    "embedding.scales",
    "tokenizer.json",
    "flexspec_draft",
)
_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", MARKER)
_MOST_HEADER = 1_000_000
"""Bytes of the header, and of each file of texts."""
_Offset = Annotated[int, Meta(ge=0, le=_MOST_UNPACKED)]


class _Stored(msgspec.Struct):
    dtype: Literal["U8", "F32", "I32"]
    shape: Annotated[tuple[_Offset, ...], Meta(max_length=3)]
    data_offsets: tuple[_Offset, _Offset]


def pack(checkpoint: Path, out: Path) -> None:
    """Write the file that a worker offers of a draft.

    Raises:
        ModelError: its LM head is a matrix of its own, graphs cannot be written of it, or damaged weights.
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.onnx.decoder import Decoder
    from flexspec_mq.models.onnx.trimming import head_ids
    from flexspec_mq.models.onnx.write import backbone_of, write_text

    text = load_text(checkpoint)
    decoder = Decoder(checkpoint, text.config)
    if not decoder.tied:
        raise ModelError(
            f"{text.name} has an LM head of its own, and only drafts without one are offered",
            hint="`flexspec draft export --onnx` makes a folder of it, to copy; or start without --give-draft",
        )
    arrays = backbone_of(decoder, _WEIGHTS).weights()
    codes, scales, _ = round_to(8, decoder.floats("model.embed_tokens.weight"), decoder.width)
    arrays |= {_CODES: codes[:, 0], _SCALES: scales}
    if (ids := head_ids(checkpoint, decoder.vocab_size, text.eos, None)) is not None:
        arrays[IDS] = ids.astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        write_text(text, Path(folder))
        arrays[_TOKENIZER] = np.frombuffer(pack_tokenizer(Path(folder, _TOKENIZER).read_bytes()), np.uint8)
        for name in _FILES:
            found = (path for path in (Path(folder, name), checkpoint / name) if path.is_file())
            if (path := next(found, None)) is not None:
                arrays[name] = np.frombuffer(path.read_bytes(), np.uint8)
    sizes = {name: getattr(decoder, name) for name in DecoderFacts.__struct_fields__ if name != "parts"}
    parts = frozenset(part for part in PARTS if decoder.has(f"model.layers.0.{part}"))
    facts = msgspec.json.encode(DecoderFacts(**sizes, parts=parts), order="deterministic").decode()
    out.write_bytes(ZstdCompressor(_LEVEL).compress(save(arrays, {_FACTS: facts})))


def packed(checkpoint: Path | str, say: Progress) -> Path:
    """The file that a worker offers of a draft, in the cache; written if it is not there, which takes half a minute.

    Raises:
        ModelError: the draft has no checkpoint folder here, or one that cannot be offered.
    """
    from flexspec_mq.models.onnx.write import seen

    if isinstance(checkpoint, str) or has_graphs(checkpoint):
        raise ModelError(
            f"{checkpoint} is no checkpoint folder, of which a file for devices could be made",
            hint="name the folder that the draft was exported from with --draft",
        )
    key, size = seen(checkpoint)
    folder = models_cache() / f"offered-{key}-onnx{WRITER_VERSION}"

    def write() -> None:
        say(f"packing {checkpoint.name} for devices, once")
        with whole_folder(folder) as work:
            pack(checkpoint, work / _PACKED)

    made_once(folder, Path.is_dir, write, what=f"{checkpoint.name} for devices", size=size, say=say)
    return folder / _PACKED


def write_offered(file: Path, out: Path) -> None:
    """Write a device's folder of a file that a worker gave; it appears whole or not at all. Takes some seconds.

    Args:
        file: the file, whose hash is the one that was told.
        out: the folder; one that is there is replaced.

    Raises:
        ModelError: the file is no draft, or what writes graphs is not installed.
        OSError: the folder cannot be written.
    """
    need_libraries("writing the graphs of a draft", "edge,draft,export", ("onnx", "onnxruntime"))
    from flexspec_mq.models.onnx.write import write_graphs

    with whole_folder(out, replace=True) as work, tempfile.TemporaryFile(dir=work.parent) as unpacked:
        try:
            with file.open("rb") as packed:
                _check_size(packed.read(_FRAME_HEADER), file.stat().st_size)
                packed.seek(0)
                shutil.copyfileobj(ZstdDecompressor().stream_reader(packed, closefd=False), unpacked)
            facts, arrays = _read(unpacked)
            _write(OfferedDecoder(facts, arrays), arrays, work, write_graphs)
        except (ZstdError, ValueError, KeyError, msgspec.MsgspecError, ModelError) as error:
            raise ModelError(
                f"the draft that a worker gave cannot be used: {error!s:.200}",
                hint="upgrade both to one version; a worker offers it anew with another --draft",
            ) from error


def _check_size(frame: bytes, packed: int) -> None:
    """Refuse a file that unpacks to more than it may; one that does not say to how much has 2**64 - 1 bytes.

    Raises:
        ModelError: it does.
    """
    if (size := get_frame_parameters(frame).content_size) > min(_MOST_UNPACKED, 2 * packed):
        raise ModelError(f"it unpacks to {size} bytes")


def _read(file: Any) -> tuple[DecoderFacts, dict[str, npt.NDArray[Any]]]:
    """Facts and mapped arrays of the unpacked file."""
    file.seek(0)
    if (size := int.from_bytes(file.read(8), "little")) > _MOST_HEADER:
        raise ValueError("it is no file of safetensors")
    header = msgspec.json.decode(file.read(size), type=dict[str, msgspec.Raw])
    stated = msgspec.json.decode(header.pop("__metadata__"), type=dict[str, str])
    mapped = np.memmap(file, np.uint8, "r")
    kinds = {"U8": np.uint8, "F32": np.float32, "I32": np.int32}
    arrays = {}
    for name, raw in header.items():
        one = msgspec.json.decode(raw, type=_Stored)
        begin, end = one.data_offsets
        piece = mapped[8 + size + begin : 8 + size + end]
        if piece.nbytes != end - begin:
            raise ValueError(f"{name} is cut off")
        arrays[name] = piece.view(kinds[one.dtype]).reshape(one.shape)
    return msgspec.json.decode(stated[_FACTS], type=DecoderFacts), arrays


def _write(
    decoder: OfferedDecoder,
    arrays: Mapping[str, npt.NDArray[Any]],
    work: Path,
    write_graphs: Callable[..., None],
) -> None:
    rows, width = decoder.vocab_size, decoder.width
    codes = decoder.given(_CODES, np.broadcast_to(np.uint8(0), (rows, width)))
    scales = decoder.given(_SCALES, zeros(rows, 1))

    def floats(some: Any) -> Floats:
        values: Floats = (codes[some].astype(np.float32) - 128) * scales[some]
        return values

    with (work / EMBEDDING).open("wb") as file:
        for begin in range(0, rows, _PIECE):
            bits = floats(slice(begin, begin + _PIECE)).view(np.uint32)
            ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tofile(file)
    ids = arrays.get(IDS)
    if ids is not None:
        ids = ids.astype(np.int64)
        if ids.ndim != 1 or not len(ids) or ids[0] < 0 or ids[-1] >= rows or (np.diff(ids) <= 0).any():
            raise ValueError("the ids of its LM head are not ascending ids of its vocabulary")
    for name in _FILES:
        if (found := arrays.get(name)) is not None:
            (work / name).write_bytes(found[:_MOST_HEADER].tobytes())
    (work / _TOKENIZER).write_text(unpacked_tokenizer(arrays[_TOKENIZER].tobytes(), checked=False), "utf-8")
    write_graphs(decoder, floats(slice(None) if ids is None else ids), ids, _WEIGHTS, work)
