"""Writing the checkpoint folder that a GGUF file stands for: once, in bfloat16, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.cache import Progress, made_once, models_cache, whole_folder
from flexspec_mq.models.checkpoint import first_line, quiet_transformers
from flexspec_mq.models.weights import WEIGHTS, TensorsWriter, weights_fingerprint

if TYPE_CHECKING:
    from gguf import ReaderTensor
    from transformers import PreTrainedConfig

    from flexspec_mq.models.gguf.tensors import GgufTensors

CONVERTER_VERSION = 3
"""Part of the cache's key. Raise it whenever the conversion would write other files."""

_HEAD = 1 << 20
"""Bytes at the file's start that its key in the cache is made from, beside its size and time."""
_DAMAGED = "it may be damaged or cut off: fetch it again"
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def gguf_checkpoint(
    file: Path,
    say: Progress | None = None,
    *,
    folder: Path | None = None,
    hint: str = _DAMAGED,
    generation: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Path:
    """The checkpoint folder of a GGUF file, in the cache of models, converted first if it is not there.

    Args:
        file: The file; if it is written anew, it has another folder.
        say: Told what takes longer than a second.
        folder: The folder, for files whose name and version say what they hold.
        hint: Advice about a damaged file.
        generation: Settings of generation_config.json that the file lacks.
        weights: Whether the folder has weights, in bfloat16, beside configuration and tokenizer.

    Raises:
        ModelError: The file is damaged or of a kind that is not known here, what converts it is not installed, or
            the cache cannot be written.
    """
    tell = say or (lambda _: None)
    place = folder or gguf_folder(file, "" if weights else "-text")

    def make() -> None:
        tell(f"converting {file.name}, once: reading it")
        with whole_folder(place) as work, _readable(file, hint), quiet_transformers():
            _convert(file, work, tell, generation or {}, weights=weights)

    size = 4 * file.stat().st_size if weights else 20_000_000
    return made_once(place, Path.is_dir, make, what=f"the checkpoint of {file.name}", size=size, say=tell)


def gguf_tensors(file: Path) -> GgufTensors:
    """The tensors of a GGUF file.

    Raises:
        ModelError: as `gguf_checkpoint`.
    """
    with _readable(file), quiet_transformers():
        return _read(file).tensors


@contextmanager
def _readable(file: Path, hint: str = _DAMAGED) -> Iterator[None]:
    missing = [name for name in ("torch", "transformers", "gguf") if util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"converting {file.name} needs {', '.join(missing)}",
            hint=f"install them, {how_to_install('models,gguf')}; or copy here what another machine made of the "
            "file: its folder in the cache of models, or a draft by `flexspec draft export --onnx`",
        )
    try:
        yield
    except ModelError as error:
        raise ModelError(f"cannot use {file}: {error.message}", hint=error.hint) from error
    except OSError:
        raise
    # Three libraries meet what a damaged file says, each with errors of its own.
    except Exception as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(f"cannot read {file}: {what}", hint=hint) from error


def gguf_folder(file: Path, kind: str, version: int = 0) -> Path:
    """The folder in the cache for what is made of a file.

    Args:
        file: The file; written anew, it has another folder.
        kind: Part of the folder's name.
        version: Version of what makes it of what is read here.

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
    return models_cache() / f"{file.stem}-{key.hexdigest()}{kind}-c{CONVERTER_VERSION + version}"


def remove_made(model: Path) -> list[Path]:
    """Remove from the cache what was made of a GGUF file, or of a checkpoint folder, and return what that was.

    Raises:
        ModelError: There is no such model, or nothing was made of it.
    """
    made_of = (
        weights_fingerprint(model) if model.is_dir() else gguf_folder(model, "").name.rpartition("-c")[0]
    )
    found = [folder for folder in models_cache().glob("*/") if folder.name.startswith(f"{made_of}-")]
    if not found:
        raise ModelError(f"nothing in {models_cache()} was made of {model}", hint="it may have changed since")
    for folder in found:
        shutil.rmtree(folder)
    return found


class _Gguf(NamedTuple):
    facts: Mapping[str, Any]
    config: PreTrainedConfig
    tensors: GgufTensors


def _read(file: Path) -> _Gguf:
    from flexspec_mq.models.gguf.architecture import ROPE_TENSORS, read_config
    from flexspec_mq.models.gguf.tensors import GgufTensors, open_gguf, shape_of, unpack

    reader = open_gguf(file)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    if facts.get("split.count", 1) > 1:
        raise ModelError(
            f"it is one of {facts['split.count']} parts",
            hint="join them with llama.cpp's `llama-gguf-split --merge FIRST WHOLE`",
        )
    if facts.get("general.type", "model") != "model":
        raise ModelError(f"it holds no model but: {facts['general.type']}", hint="take the model's own file")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    rope = {name: tensors.pop(name) for name in ROPE_TENSORS & tensors.keys()}
    factors = {name: unpack(tensor.data, tensor.tensor_type, name) for name, tensor in rope.items()}
    config = read_config(facts, {name: shape_of(tensor) for name, tensor in tensors.items()}, factors)
    arch = facts["general.architecture"]
    return _Gguf(facts, config, GgufTensors(config, arch, _named(arch, config, tensors)))


def _convert(file: Path, out: Path, tell: Progress, generation: Mapping[str, Any], *, weights: bool) -> None:
    from flexspec_mq.models.gguf.tokenizer import ending_ids, read_tokenizer

    facts, config, tensors = _read(file)
    if weights:
        _write_weights(out / WEIGHTS, tensors, file.name, tell)
    read_tokenizer(facts).save_pretrained(out)
    config.save_pretrained(out)
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

    from flexspec_mq.models.gguf.tensors import shape_of

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
        name for own, name in theirs.items() if shapes[own] != shape_of(tensors[name])
    }
    if odd:
        raise ModelError(
            f"{len(odd)} of its tensors are missing, of another shape or unknown, such as {min(odd)}",
            hint=f"its architecture says {arch}, and is not quite that; take the checkpoint folder instead",
        )
    return {own: tensors[name] for own, name in sorted(theirs.items())}


def _write_weights(path: Path, tensors: GgufTensors, name: str, tell: Progress) -> None:
    """Write a file of safetensors, of which no two tensors are in memory at a time."""
    import torch

    last = 0.0
    with TensorsWriter(path, {own: ("BF16", tensors.shape(own)) for own in tensors.names}) as out:
        for own in tensors.names:
            if time.monotonic() > last + 5:
                last = time.monotonic()
                tell(f"converting {name}, once: {out.written / out.size:.0%} of {out.size / 1e6:,.0f} MB")
            for values in tensors.slices(own):
                out.write(torch.from_numpy(values).to(torch.bfloat16))
