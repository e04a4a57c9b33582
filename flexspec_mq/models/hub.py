"""Asking the model hub for a model before loading it, to tell a silent hub from a model that is not there."""

from __future__ import annotations

from flexspec_mq.errors import ModelError
from flexspec_mq.models.log_silencing import quiet_transformers


def ask_hub(name: str) -> None:
    """Fetch a model's configuration, or find it in the hub client's cache.

    Args:
        name: Of a model, such as ``owner/model``.

    Raises:
        ModelError: No such model, one that needs an account, or a hub that does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hint = "check the name; for a folder on this machine write its path, for example ./model"
    try:
        with quiet_transformers():
            hf_hub_download(name, "config.json")
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"there is no folder {name}, and the model hub does not answer",
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
