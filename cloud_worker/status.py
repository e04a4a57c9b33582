"""What a worker tells of itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from schemas.messages import PROTOCOL_VERSION
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from typing import Literal

    from cloud_worker.engine.interface import Facts
    from cloud_worker.settings import WorkerSettings


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
        facts: of its engine.
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
        temperature=facts.recommended.temperature,
        top_k=facts.recommended.top_k,
        top_p=facts.recommended.top_p,
    )
