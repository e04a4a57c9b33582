"""Writing the checkpoint folder that a GGUF file stands for: once, in bfloat16, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.cache import Progress, made_once, models_cache, whole_folder
from flexspec_mq.models.checkpoint import first_line, quiet_transformers
from flexspec_mq.models.weights import WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gguf import GGUFReader, ReaderTensor
    from transformers import PreTrainedConfig

    Rows = npt.NDArray[np.intp] | None

CONVERTER_VERSION = 3
"""Part of the cache's key. Raise it whenever the conversion would write other files."""

_HEAD = 1 << 20
"""Bytes at the file's start that its key in the cache is made from, beside its size and time."""
_SLICE = 1 << 24
"""Values that are unpacked at a time."""
_LONGEST = 1 << 22
"""Items that an array of metadata may have: ten times the largest vocabulary."""
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def gguf_checkpoint(
    file: Path,
    say: Progress | None = None,
    *,
    folder: Path | None = None,
    hint: str = "it may be damaged or cut off: fetch it again",
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """The checkpoint folder of a GGUF file, in the cache of models, converted first if it is not there.

    Args:
        file: The file; if it is written anew, it has another folder.
        say: Told what takes longer than a second.
        folder: The folder, for files whose name and version say what they hold.
        hint: Advice about a damaged file.
        generation: Settings of generation_config.json that the file lacks.

    Raises:
        ModelError: The file is damaged or of a kind that is not known here, what converts it is not installed, or
            the cache cannot be written.
    """
    tell, place = say or (lambda _: None), folder or _folder(file)

    def make() -> None:
        missing = [name for name in ("torch", "transformers", "gguf") if util.find_spec(name) is None]
        if missing:
            raise ModelError(
                f"converting {file.name} needs {', '.join(missing)}",
                hint=f"install them, {how_to_install('models,gguf')}; or copy here what another machine made of the "
                "file: its folder in the cache of models, or a draft by `flexspec draft export --onnx`",
            )
        tell(f"converting {file.name}, once: reading it")
        with whole_folder(place) as work:
            try:
                with quiet_transformers():
                    _convert(file, work, tell, generation or {})
            except ModelError as error:
                raise ModelError(f"cannot use {file}: {error.message}", hint=error.hint) from error
            except OSError:
                raise
            # Three libraries meet what a damaged file says, each with errors of its own.
            except Exception as error:
                what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
                raise ModelError(f"cannot read {file}: {what}", hint=hint) from error

    size = 4 * file.stat().st_size
    return made_once(place, Path.is_dir, make, what=f"the checkpoint of {file.name}", size=size, say=tell)


def _folder(file: Path) -> Path:
    """The folder in the cache.

    Raises:
        ModelError: It is no GGUF file, or cannot be read.
    """
    try:
        facts = file.stat()
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error}", hint="check its path and permissions") from error
    if not head.startswith(b"GGUF"):
        raise ModelError(
            f"{file} is neither a checkpoint folder nor a GGUF file",
            hint="name a GGUF file, or the folder that holds config.json, the weights and the tokenizer",
        )
    key = hashlib.blake2b(head + f"{facts.st_size} {facts.st_mtime_ns}".encode(), digest_size=6)
    return models_cache() / f"{file.stem}-{key.hexdigest()}-c{CONVERTER_VERSION}"


def _convert(file: Path, out: Path, tell: Progress, generation: Mapping[str, Any]) -> None:
    from flexspec_mq.models.gguf.architecture import ROPE_TENSORS, read_config
    from flexspec_mq.models.gguf.tokenizer import ending_ids, read_tokenizer

    reader = _open(file)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    if facts.get("split.count", 1) > 1:
        raise ModelError(
            f"it is one of {facts['split.count']} parts",
            hint="join them with llama.cpp's `llama-gguf-split --merge FIRST WHOLE`",
        )
    if facts.get("general.type", "model") != "model":
        raise ModelError(f"it holds no model but: {facts['general.type']}", hint="take the model's own file")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    factors = {name: _values(tensors.pop(name), slice(None)) for name in ROPE_TENSORS & tensors.keys()}
    config = read_config(facts, {name: _shape(tensor) for name, tensor in tensors.items()}, factors)
    tokenizer = read_tokenizer(facts)
    named = _named(facts["general.architecture"], config, tensors)
    _write_weights(out / WEIGHTS, named, facts["general.architecture"], config, file.name, tell)
    config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    sampling = {
        theirs: facts[f"general.sampling.{key}"]
        for key, theirs in _SAMPLING.items()
        if f"general.sampling.{key}" in facts
    }
    stated = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ending_ids(facts),
        "pad_token_id": config.pad_token_id,
        **({"do_sample": True} if sampling else {}),
        **sampling,
        **generation,
    }
    (out / "generation_config.json").write_text(json.dumps(stated, indent=2) + "\n", "utf-8")


def _open(file: Path) -> GGUFReader:
    """The file's metadata, and where its tensors lie.

    Raises:
        LookupError, ValueError, OverflowError: It is damaged.
    """
    import numpy as np
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


def _named(
    arch: str, config: PreTrainedConfig, tensors: Mapping[str, ReaderTensor]
) -> dict[str, ReaderTensor]:
    """The tensor of each of the model's parameters.

    Raises:
        ModelError: One is missing, left over, or of another shape.
    """
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    config.architectures = [type(model).__name__]
    config.dtype = "bfloat16"
    (kind,) = (kind for kind, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    theirs = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) or name for name in shapes}
    odd = set(theirs.values()) ^ tensors.keys() or {
        name for own, name in theirs.items() if shapes[own] != _shape(tensors[name])
    }
    if odd:
        raise ModelError(
            f"{len(odd)} of its tensors are missing, of another shape or unknown, such as {min(odd)}",
            hint=f"its architecture says {arch}, and is not quite that; take the checkpoint folder instead",
        )
    return {own: tensors[name] for own, name in sorted(theirs.items())}


def _write_weights(
    path: Path,
    named: Mapping[str, ReaderTensor],
    arch: str,
    config: PreTrainedConfig,
    name: str,
    tell: Progress,
) -> None:
    """Write a file of safetensors, of which no two tensors are in memory at a time."""
    import torch

    from flexspec_mq.models.gguf.architecture import PAIRED, SHIFTED

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for own, tensor in named.items():
        start, end = end, end + 2 * int(tensor.n_elements)
        header[own] = {"dtype": "BF16", "shape": _shape(tensor), "data_offsets": [start, end]}
    free = shutil.disk_usage(path.parent).free
    if free < end:
        raise ModelError(
            f"its weights take {end / 1e6:,.0f} MB in {path.parent.parent}, and {free / 1e6:,.0f} MB are free",
            hint="free some space, or set XDG_CACHE_HOME to a folder that has it",
        )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    last = 0.0
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for own, tensor in named.items():
            if time.monotonic() > last + 5:
                last = time.monotonic()
                tell(
                    f"converting {name}, once: {header[own]['data_offsets'][0] / end:.0%} of {end / 1e6:,.0f} MB"
                )
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            rows = _unpaired(tensor, heads.get(own.split(".")[-2])) if arch in PAIRED else None
            for values in _slices(tensor, rows):
                shifted = values - 1 if arch in SHIFTED and own.endswith("norm.weight") else values
                numbers = torch.from_numpy(shifted).to(torch.bfloat16)
                out.write(numbers.view(torch.uint8).numpy().data)


def _slices(tensor: ReaderTensor, rows: Rows) -> Iterator[npt.NDArray[np.float32]]:
    """A tensor's values in order, some rows at a time."""
    step = max(1, _SLICE // int(tensor.shape[0]))
    for start in range(0, len(tensor.data), step):
        part = slice(start, start + step)
        yield _values(tensor, part if rows is None else rows[part])


def _unpaired(tensor: ReaderTensor, heads: int | None) -> Rows:
    """Row of queries or keys in the file for each row of transformers, which has first all first halves of pairs."""
    import numpy as np

    if heads is None:
        return None
    return np.arange(len(tensor.data)).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _values(tensor: ReaderTensor, rows: Any) -> npt.NDArray[np.float32]:
    """Values of some rows.

    Raises:
        ModelError: Of a kind that gguf does not unpack.
        ValueError: Not all are numbers.
    """
    import numpy as np
    from gguf import quants

    try:
        values = quants.dequantize(tensor.data[rows], tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(
            f"gguf does not unpack {tensor.tensor_type.name}", hint="take a file in Q4_K_M, Q8_0 or BF16"
        ) from error
    if not np.isfinite(values).all():
        raise ValueError(f"{tensor.name} holds what is no number")
    return np.require(values, np.float32, ("C", "W"))


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))
