"""What a worker tells of itself, and who has sent it something."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from schemas.messages import PROTOCOL_VERSION
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from typing import Literal

    from cloud_worker.settings import WorkerSettings
    from cloud_worker.verifier import Facts


def status_of(
    settings: WorkerSettings,
    facts: Facts,
    state: Literal["online", "draining", "gone"],
    *,
    epoch: int,
    load: int,
) -> WorkerStatus:
    """The status document of a worker, as of now.

    Args:
        settings: of the worker.
        facts: of its verifier.
        state: what it is about to be.
        epoch: of this process.
        load: live sessions.
    """
    return WorkerStatus(
        state=state,
        epoch=epoch,
        at=time.time(),
        worker=settings.worker,
        version=settings.version,
        protocol=PROTOCOL_VERSION,
        fingerprint=facts.fingerprint.hex(),
        exactness=facts.exactness,
        flip_rate=facts.flip_rate,
        device=facts.device,
        dtype=facts.dtype,
        load=load,
        capacity=settings.capacity,
        lease=settings.lease,
    )


def sender_of(topic: str) -> str | None:
    """The edge that published on `topic`; None if nobody with a legal name can have done so."""
    edge = topics.edge_of(topic)
    if edge is None:
        return None
    try:
        return topics.checked("edge", edge)
    except UsageError:
        return None
