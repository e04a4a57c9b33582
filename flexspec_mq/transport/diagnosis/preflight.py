"""Preflight, a look at the broker before a model is loaded: what no patience mends is said now, not a minute later."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.diagnosis.diagnose import Cause, diagnose
from flexspec_mq.transport.needs import FOR_SESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.transport.base import LinkSettings

_SECONDS = 2.0


def preflight(settings: LinkSettings, tell: Callable[[str], None], *, daemon: bool) -> None:
    """Look for what keeps us from the broker; blocks for 2 seconds at most, whatever the network does.

    A broker that is down passes: the link tries again. So does one that could not be looked at in time.

    Args:
        settings: Settings of the link.
        tell: told what is odd and may change.
        daemon: Whether we outlive the broker. Names come and go with the machines that have them, so an unknown name
            is told only; a command that answers and stops ends there.

    Raises:
        LinkRefused: the broker's certificate is for another host or not to be trusted, our TLS files cannot be
            used, it does not speak MQTT 5, refuses our login, or says that it cannot carry sessions; unless
            `daemon`, also that its name is not known.
    """
    found: list[Cause | None] = []
    quick = replace(settings, connect_timeout=min(_SECONDS, settings.connect_timeout), needs=FOR_SESSIONS)
    # A thread, since name resolution has no bound of its own; it ends with the process at the latest.
    look = threading.Thread(target=lambda: found.append(diagnose(quick)), daemon=True, name="preflight")
    look.start()
    look.join(_SECONDS)
    cause = found[0] if found else None
    if cause is None or (not cause.final and cause.fault == "broker down"):
        return
    if cause.final and (cause.reached or not daemon):
        raise LinkRefused(cause.detail, hint=cause.advice)
    tell(f"{cause.detail}; {cause.advice}")
