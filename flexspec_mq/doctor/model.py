"""The model of a daemon: there, whole, and loaded as the daemon would."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.errors import FingerprintError, ModelError, UsageError
from flexspec_mq.models.default import default_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.doctor.findings import Findings

T = TypeVar("T")

PREPARE = "`flexspec model prepare` (once, some 20 s; the daemon would do it at its first start)"


def unprepared_default(findings: Findings, what: str) -> bool:
    """Whether the default model is needed and not to be had at once; that is then among the findings.

    Args:
        findings: to add to.
        what: that needs it, for people.
    """
    try:
        folder = default_model_folder()
    except ModelError as error:
        findings.fail("model", "model missing", f"{what}: {error.message}", error.hint)
        return True
    if folder.is_dir():
        return False
    findings.fail(
        "model",
        "model missing",
        f"{what}: the default model is not prepared yet: there is no {folder}",
        f"run {PREPARE}; is XDG_CACHE_HOME that of the daemon's user?",
    )
    return True


async def loaded(findings: Findings, what: str, load: Callable[[], T], named: Callable[[T], str]) -> T | None:
    """Load a model on a thread; None if that failed, which is then among the findings.

    Args:
        findings: to add to.
        what: is loaded, for people.
        load: as the daemon does it.
        named: describes what was loaded.
    """
    try:
        model = await on_thread(load)
    except FingerprintError as error:
        findings.fail("model", "wrong tokenizer", f"{what}: {error.message}", error.hint)
    except (ModelError, UsageError) as error:
        findings.fail("model", "model missing", f"{what}: {error.message}", error.hint)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001  whatever torch has to say; the other checks go on
        detail = f"{what} cannot be loaded: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        findings.fail("model", "model missing", detail, "see `flexspec model info FOLDER` for all of it")
    else:
        findings.ok("model", named(model))
        return model
    return None
