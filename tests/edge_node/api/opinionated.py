"""A target whose makers recommend something, and that writes other texts where it is sampled otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from cloud_worker.engine.interface import Facts, Recommended
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.worker.types import WorkItem
from lab.simulator.world import EOS, FINGERPRINT
from schemas.messages import Identity
from tests.daemons import TARGET, FakeEngine
from tests.edge_node.api.served import ids_of, shown


class Opinionated(FakeEngine):
    """Recommends; draws other tokens at each temperature.

    Attributes:
        asked: temperature, top-k and top-p of each step's items.
    """

    def __init__(self, recommended: Recommended) -> None:
        super().__init__(self._note)
        self._recommended = recommended
        self.asked: set[tuple[float, int, float]] = set()

    def decide(self, item: WorkItem) -> tuple[int, ...]:
        return TARGET.forward(replace(item, identity=_drawn(item.identity)))

    def _note(self, items: Sequence[WorkItem]) -> None:
        self.asked |= {(round(i.identity.temperature, 6), i.identity.top_k, i.identity.top_p) for i in items}

    @property
    def facts(self) -> Facts:
        return replace(super().facts, recommended=self._recommended)


def _drawn(identity: Identity) -> Identity:
    return msgspec.structs.replace(identity, seed=identity.seed + round(1000 * identity.temperature))


def text_at(temperature: float, seed: int, limit: int, prompt: str = "hello") -> str:
    """The text that an `Opinionated` target alone writes to a chat, without an end before the limit."""
    identity = _drawn(Identity(1, FINGERPRINT, temperature, 0, 1.0, seed, (EOS,), True, limit))
    asked = SessionRequest(session=1, version="base", identity=identity, prompt=ids_of(prompt))
    return shown(TARGET.text(asked)[0])
