"""A checkpoint's configuration and tokenizer, read without transformers where that gives the same.

Importing transformers takes longer than all else that a draft needs. It is not needed for a device's folder, nor for
one whose ``config.json`` is a Llama's with everything stated, beside a ``tokenizer.json`` that needs nothing added to
it. Whatever else is found, damage included, is left to transformers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import util
from logging import ERROR
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.tokenizer import ROLES, PlainTokenizer, Tokenizer

GRAPHS = "flexspec_onnx.json"
"""Manifest of a device's folder, whose configuration and tokenizer are written as transformers fills them in."""

Config = Mapping[str, Any]
"""A ``config.json`` as transformers fills it in: of a model of several parts, the part that writes text."""

_SETTINGS = {*ROLES, "backend", "clean_up_tokenization_spaces", "is_local", "local_files_only", "model_max_length",
             "tokenizer_class"}  # fmt: skip
"""Keys of tokenizer_config.json whose meaning is known here."""
_OTHER_FILES = (
    "added_tokens.json", "special_tokens_map.json", "tokenizer.model", "additional_chat_templates",
)  # fmt: skip
"""Files beside tokenizer.json that would change it."""
_NO_LIMIT = int(1e30)
"""Where transformers has no limit of its own on a text's length."""

_Count = Annotated[int, msgspec.Meta(gt=0)]


class _Llama(msgspec.Struct):
    """Fields that a ``config.json`` must state, and their types."""

    model_type: Literal["llama"]
    architectures: tuple[Literal["LlamaForCausalLM"]]
    vocab_size: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_hidden_layers: _Count
    num_attention_heads: _Count
    num_key_value_heads: _Count
    head_dim: _Count
    hidden_act: str
    max_position_embeddings: _Count
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope_parameters: dict[str, float | int | str]
    eos_token_id: int | list[int] | None
    rope_scaling: None = None
    rope_theta: None = None
    partial_rotary_factor: None = None
    quantization_config: None = None
    auto_map: None = None


class _Added(msgspec.Struct):
    content: str
    special: bool


class _TokenizerFile(msgspec.Struct):
    """Fields that a ``tokenizer.json`` must and must not have for transformers to leave it as it is."""

    added_tokens: list[_Added]
    post_processor: dict[str, Any]
    truncation: None = None
    padding: None = None


def read_checkpoint(source: Path | str) -> tuple[Config, Tokenizer]:
    """Configuration and tokenizer of a causal LM.

    Args:
        source: a folder, or a name on the model hub.

    Raises:
        ModelError: no causal LM, or files that are missing or damaged.
    """
    plain = read_plainly(source) if isinstance(source, Path) else None
    if plain is not None:
        return plain
    need_libraries()
    return _config(source), _tokenizer(source)


def need_libraries(
    what: str = "running a model",
    extra: str = "models",
    names: Sequence[str] = ("torch", "transformers", "safetensors"),
) -> None:
    """Refuse what takes libraries that are not installed.

    Args:
        what: takes them, for people.
        extra: brings them.
        names: names to import them by.

    Raises:
        ModelError: naming what is missing.
    """
    missing = [name for name in names if util.find_spec(name) is None]
    if missing:
        raise ModelError(f"{what} needs {', '.join(missing)}", hint=f"install them, {how_to_install(extra)}")


def read_plainly(folder: Path) -> tuple[Config, PlainTokenizer] | None:
    """Configuration and tokenizer of a checkpoint folder; None when it takes transformers to read them.

    Raises:
        ModelError: what reads tokenizers, or templates, is not installed.
    """
    try:
        config = (folder / "config.json").read_bytes()
        exported = (folder / GRAPHS).is_file()
        if not exported and not _is_whole(msgspec.json.decode(config, type=_Llama)):
            return None
        tokenizer = _plain_tokenizer(folder, exported=exported)
    except (OSError, ValueError, TypeError):
        return None
    except ImportError as error:
        raise ModelError(
            f"texts of {folder} need {error.name}", hint=f"install it, {how_to_install('edge')}"
        ) from error
    return None if tokenizer is None else (json.loads(config), tokenizer)


def _is_whole(stated: _Llama) -> bool:
    return (
        stated.hidden_size % stated.num_attention_heads == 0
        and {"rope_type", "rope_theta"} <= stated.rope_parameters.keys()
    )


def _plain_tokenizer(folder: Path, *, exported: bool) -> PlainTokenizer | None:
    """None for one that transformers would change after it has read it; it has done so to an exported one.

    Raises:
        OSError, TypeError, ValueError: A file is missing, damaged, or has what is not known here.
    """
    settings = dict(json.loads((folder / "tokenizer_config.json").read_text("utf-8")))
    special = {role: settings[role] for role in ROLES if settings.get(role) is not None}
    text = (folder / "tokenizer.json").read_text("utf-8")
    path = folder / "chat_template.jinja"
    template = path.read_text("utf-8") if path.exists() else None
    if not exported:
        added = msgspec.json.decode(text, type=_TokenizerFile).added_tokens
        plain = (
            settings.keys() <= _SETTINGS
            and settings.get("tokenizer_class") == "TokenizersBackend"
            and not any((folder / name).exists() for name in _OTHER_FILES)
            and {*map(str, special.values())} <= {token.content for token in added if token.special}
        )
        if not plain:
            return None
    from jinja2 import TemplateError
    from tokenizers import Tokenizer

    longest = int(settings.get("model_max_length", _NO_LIMIT))
    try:
        return PlainTokenizer(Tokenizer.from_str(text), special, template, longest)
    except TemplateError:
        return None
    except Exception as error:
        # The tokenizers library has no error class: it raises Exception itself for what it cannot parse.
        raise ValueError(str(error)) from error


def _config(source: Path | str) -> Config:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source, local_files_only=isinstance(source, Path))
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(
            f"cannot read the configuration of {source}: {first_line(error)}",
            hint="only architectures that transformers itself knows can be loaded",
        ) from error
    if not _is_causal_lm(config):
        kind = ", ".join(config.architectures or [config.model_type])
        raise ModelError(
            f"{source} is no causal language model but {kind}",
            hint="a target must predict the next token, like Llama, Qwen or SmolLM2",
        )
    text = config.get_text_config()
    # Some families have other names for what all have, such as GPT-2's n_positions.
    return {**text.to_dict(), **{name: getattr(text, name, None) for name in text.attribute_map}}


def _is_causal_lm(config: Any) -> bool:
    """By the class that was saved; without one, by kind, and kinds that also fill in blanks (BERT) fail."""
    from transformers.models.auto import modeling_auto as auto

    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.model_type not in causal or config.is_encoder_decoder:
        return False
    if not config.architectures:
        return config.model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    known = {name for names in causal.values() for name in ([names] if isinstance(names, str) else names)}
    return any(architecture in known for architecture in config.architectures)


def _tokenizer(source: Path | str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
                source, local_files_only=isinstance(source, Path)
            )
    except Exception as error:
        # The tokenizers library has no error class: it raises Exception itself for what it cannot parse.
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError, KeyError, TypeError)):
            raise
        raise ModelError(
            f"cannot load the tokenizer of {source}: {first_line(error)}",
            hint="the folder needs tokenizer.json (or its older forms) beside the weights",
        ) from error
    return tokenizer


def first_line(error: BaseException) -> str:
    """First line of an error; libraries' messages go on for pages."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the remarks and bars of transformers and the hub client, and Python's warnings, in the block.

    Errors reach users as our own typed ones; the remarks are for developers of transformers.

    These settings are global: blocks must not overlap on several threads.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    with_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    hub_logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if with_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
