"""Loading a target or a draft: a folder, a hub name or the default model, with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import apart
from flexspec_mq.errors import ModelError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.byte_text.ids import BYTE_CONTEXT, ROWS, ByteEnd
from flexspec_mq.models.byte_text.tokenizer import ByteTokenizer, fingerprint
from flexspec_mq.models.checkpoint import (
    Config,
    first_line,
    need_libraries,
    quiet_transformers,
    read_checkpoint,
)
from flexspec_mq.models.default import DEFAULT_MODEL_NAME, default_model_path
from flexspec_mq.models.fingerprint import TokenizerContents
from flexspec_mq.models.gguf.convert import gguf_checkpoint
from flexspec_mq.models.tokenizer import Tokenizer
from schemas.messages import LEFT_OPEN, PartialSampling
from schemas.status import TokenizerStatus

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


DTYPES = ("bfloat16", "float16", "float32")
UNSTATED_CONTEXT = 131_072
"""Positions granted where a configuration states no limit: as many as a prompt on the wire may have."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedText:
    """All that is to be known of a causal LM without its weights: enough to speak of its texts.

    Attributes:
        source: folder of configuration and tokenizer, which has the weights as well unless a GGUF file has them; or a
            name on the hub; or that of a tokenizer which a worker gave.
        config: sizes and kinds of the model.
        generation: settings of ``generation_config.json``, which its makers recommend for writing; may be empty.
        fingerprint: fingerprint of the tokenizer's contents, 16 bytes.
        tokenizer_status: the tokenizer in short, to say how another one differs.
        eos: ids that end a text, ascending; the model's generation settings first, then its configuration,
            then its tokenizer decide.
        vocab_size: width of the logits; may exceed the tokenizer's vocabulary.
        max_context: positions, prompt and new tokens together.
        name: name for people.
    """

    source: Path | str
    config: Config
    generation: Config
    tokenizer: Tokenizer
    fingerprint: bytes
    tokenizer_status: TokenizerStatus
    eos: tuple[int, ...]
    vocab_size: int
    max_context: int
    name: str

    @property
    def served(self) -> bool:
        """Whether a server writes its texts that tells no token ids."""
        return isinstance(self.tokenizer, ByteTokenizer)

    def grammars(self) -> CompiledGrammars | None:
        """Make room for grammars of its texts; None where nothing reads them, or there is no tokenizer.json."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not engine_name():
            return None
        return CompiledGrammars(backend.to_str, self.vocab_size, self.eos)


@cache
def byte_text() -> LoadedText:
    """The text side of any server that tells no token ids."""
    known, eos = fingerprint(), tuple(map(int, ByteEnd))
    return LoadedText(
        source="bytes",
        config={},
        generation={},
        tokenizer=ByteTokenizer(),
        fingerprint=known,
        tokenizer_status=TokenizerStatus(tokens=ROWS, vocabulary=known.hex(), eos=eos, rows=ROWS),
        eos=eos,
        vocab_size=ROWS,
        max_context=BYTE_CONTEXT,
        name="a server that tells no token ids",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(LoadedText):
    """A causal LM ready to run, without gradients, and its tokenizer."""

    model: PreTrainedModel


def recommended(generation: Mapping[str, Any]) -> PartialSampling:
    """Read a ``generation_config.json``; empty where it does not sample, or samples as nobody can."""
    if generation.get("do_sample") is not False:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(dict(generation), PartialSampling)
    return LEFT_OPEN


def find_model(
    name_or_path: str | Path | None, *, progress: Progress | None = None, weights: bool = True
) -> Path | str:
    """Find out what a user means by a model: a checkpoint folder, a GGUF file, or a name on the model hub.

    None and ``default`` are the default model. It and a GGUF file are converted first if need be. A folder that
    exists wins over a hub name that reads the same.

    Args:
        name_or_path: The words of a user.
        progress: Is told, in a few words, what takes longer than a second.
        weights: Whether those of a GGUF file are wanted, or its configuration and tokenizer alone.

    Raises:
        ModelError: A path to something else, a folder that is no checkpoint, a text that is neither path nor hub name,
            or a name on the hub where nothing is installed that asks it.
    """
    if name_or_path is None or str(name_or_path) == "default":
        return default_model_path(progress)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return gguf_checkpoint(path, progress, weights=weights)
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ModelError(
            f"{path} is no checkpoint folder: it has no config.json",
            hint="name the folder that holds config.json, the weights and the tokenizer",
        )
    if isinstance(name_or_path, str) and _HUB_NAME.fullmatch(name_or_path):
        need_libraries(f"there is no folder {path}, and a model of that name on the hub")
        return name_or_path
    raise ModelError(
        f"there is no folder {path}", hint="name a checkpoint folder, a model on the hub, or 'default'"
    )


def load_target(
    name_or_path: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: str = "bfloat16",
    attn_implementation: str = "sdpa",
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a causal LM and its tokenizer. A local folder is loaded without any use of the network.

    Args:
        name_or_path: See `resolve`.
        device: As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: Type of numbers, one of `DTYPES`.
        attn_implementation: Passed on to transformers.
        progress: Is told, in a few words, what takes longer than a second.

    Raises:
        ModelError: No such model, not a causal LM, damaged or incomplete weights, a dtype or device that is
            not to be had here, or a hub that does not answer.
    """
    source = find_model(name_or_path, progress=progress)
    need_libraries()
    weights_dtype, where = torch_dtype(dtype), torch_device(device)
    text = load_text(name_or_path, progress=progress)
    model = _load_weights(source, weights_dtype, attn_implementation)
    try:
        model = model.to(where).eval().requires_grad_(False)
    except RuntimeError as error:
        raise ModelError(
            f"the model does not fit on {where}: {first_line(error)}",
            hint="use a smaller dtype or another device",
        ) from error
    known = {field.name: getattr(text, field.name) for field in fields(text)}
    return LoadedModel(model=model, **(known | {"source": source}))


def load_text(name_or_path: str | Path | None = None, *, progress: Progress | None = None) -> LoadedText:
    """Load configuration and tokenizer of a causal LM, and leave its weights alone.

    Args:
        name_or_path: See `resolve`.
        progress: Is told, in a few words, what takes longer than a second.

    Raises:
        ModelError: No such model, not a causal LM, or a hub that does not answer.
    """
    source = find_model(name_or_path, progress=progress, weights=False)
    tell = progress or (lambda _: None)
    if isinstance(source, str):
        tell(f"asking the model hub for {source}")
        _ask_hub(source)
    tell(f"loading {_name(name_or_path, source)}")
    config, tokenizer = read_checkpoint(source)
    vocab_size = int(config["vocab_size"])
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model only {vocab_size}",
            hint="model and tokenizer do not belong together",
        )
    generation = _generation(source)
    eos = _eos(generation, config, tokenizer)
    contents = TokenizerContents.from_tokenizer(tokenizer)
    return LoadedText(
        source=source,
        config=config,
        generation=generation,
        tokenizer=tokenizer,
        fingerprint=contents.digest(),
        tokenizer_status=contents.status(eos, vocab_size),
        eos=eos,
        vocab_size=vocab_size,
        max_context=_max_context(config, tokenizer),
        name=_name(name_or_path, source),
    )


def _ask_hub(name: str) -> None:
    """Fetch a model's configuration unless it was before, to tell a silent hub from a model that is not there.

    Raises:
        ModelError: no such model, one that needs an account, or a hub that does not answer.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def fetch() -> None:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            with quiet_transformers():
                hf_hub_download(name, "config.json")

    hint = "check the name; for a folder on this machine write its path, for example ./model"
    try:
        # Its client tries again for 40 s, and a resolver of names for as long as it likes.
        apart(fetch).result(waiting.CONNECT)
    except (LocalEntryNotFoundError, TimeoutError) as error:
        raise ModelError(
            f"there is no folder {name}, and the model hub does not answer within {waiting.CONNECT:g} s",
            hint="check the connection, name a checkpoint folder, or use 'default'",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"neither a folder nor a public model on the hub: {name}", hint=hint) from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"{name} on the hub is no transformers checkpoint: it has no config.json", hint=hint
        ) from error
    except OSError as error:
        raise ModelError(
            f"the model hub refused {name}: {error}",
            hint="check the connection, name a checkpoint folder, or use 'default'",
        ) from error


def torch_dtype(name: str) -> torch.dtype:
    """The type of numbers of a name in `DTYPES`.

    Raises:
        ModelError: another name.
    """
    import torch

    if name not in DTYPES:
        raise ModelError(f"unknown dtype {name!r}", hint=f"choose one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def torch_device(name: str) -> torch.device:
    """The device of a name, such as ``cuda:0``.

    Raises:
        ModelError: there is no such device here, or it computes nothing.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"unknown device {name!r}", hint="for example cpu, cuda or cuda:0") from None
    try:
        torch.empty(1, device=device)
    # torch says with an AssertionError that it was built without a kind of device.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ModelError(
            f"device {name!r} cannot be used here: {first_line(error)}",
            hint="use cpu, or install a torch build for it",
        ) from error
    if device.type == "meta":
        raise ModelError("device 'meta' computes nothing", hint="for example cpu, cuda or cuda:0")
    return device


def _generation(source: Path | str) -> Config:
    """Settings that a model's makers recommend for writing; empty when they say nothing that can be read."""
    if isinstance(source, Path):
        try:
            return msgspec.json.decode((source / "generation_config.json").read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError):
            return {}
    from transformers import GenerationConfig

    try:
        with quiet_transformers():
            settings: Config = GenerationConfig.from_pretrained(source).to_dict()
    except OSError:
        return {}
    return settings


def _load_weights(source: Path | str, dtype: torch.dtype, attn_implementation: str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                local_files_only=isinstance(source, Path),
                attn_implementation=attn_implementation,
                output_loading_info=True,
            )
    except (ValueError, ImportError) as error:
        raise ModelError(
            f"transformers refuses {source} with attention {attn_implementation!r}: {first_line(error)}",
            hint="another attention implementation may fit, such as eager",
        ) from error
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the weights of {source}: {first_line(error)}",
            hint="a file may be cut off or damaged: fetch it again",
        ) from error
    model, report = loaded
    # transformers fills tensors that are not in the file with random numbers and only warns.
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise ModelError(
            f"{source} lacks {len(absent)} tensors of its model, such as {absent[0]}",
            hint="the weights are incomplete or belong to another config.json",
        )
    return model


def _eos(generation: Config, config: Config, tokenizer: Tokenizer) -> tuple[int, ...]:
    settings = (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id)
    for stated in settings:
        if stated is not None:
            return tuple(sorted({stated} if isinstance(stated, int) else set(stated)))
    return ()


def _max_context(config: Config, tokenizer: Tokenizer) -> int:
    stated = config.get("max_position_embeddings")
    if stated is None and tokenizer.model_max_length < UNSTATED_CONTEXT:
        stated = tokenizer.model_max_length
    return int(stated or UNSTATED_CONTEXT)


def _name(name_or_path: str | Path | None, source: Path | str) -> str:
    if name_or_path is None or str(name_or_path) == "default":
        return DEFAULT_MODEL_NAME
    if not isinstance(source, Path):
        return source
    file = Path(name_or_path).expanduser()
    return file.stem if file.is_file() else source.resolve().name
