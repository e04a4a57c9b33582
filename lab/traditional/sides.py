"""Traditional speculation as strategies of ``flexspec bench``: a process at each end, asked as edge nodes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FingerprintError
from lab.bench.meter import Costs, LinkMeter

if TYPE_CHECKING:
    from lab.testbed.deployment import LocalDeployment
    from lab.testbed.process import Process

_TARGET, _DEVICE = "lab.traditional.target", "lab.traditional.device"
_ANSWER = 3600.0
"""Seconds. Where the signal is weak, the probabilities of one round take many."""


@dataclass(frozen=True, slots=True)
class Traditional:
    """Which sides are wanted, and of which models.

    Attributes:
        schemes: names of `SCHEMES`.
        edge: flags of ``flexspec-edge serve`` that say which draft, and what runs it.
        worker: flags of ``flexspec-cloud`` that say which target, and what runs it.
        guesses: drafted a round.
    """

    schemes: Sequence[str]
    edge: Sequence[str]
    worker: Sequence[str]
    guesses: int


class TraditionalSide:
    """Both sides of a scheme.

    Args:
        scheme: name of the scheme.
        device: the process that writes.
        target: the process that decides.
        link: between the two.
        guesses: drafted a round.
    """

    def __init__(
        self,
        scheme: str,
        device: Process,
        target: Process,
        link: LinkMeter,
        *,
        guesses: int,
    ) -> None:
        self._scheme = scheme
        self._device = device
        self._target = target
        self._link = link
        self._guesses = guesses

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], Costs]:
        """Have a text written; see `lab.bench.testbed.Side`."""
        order = {
            "scheme": self._scheme,
            "prompt": body["messages"][0]["content"],
            "tokens": body["max_tokens"],
            "guesses": self._guesses,
            **{name: body[name] for name in ("temperature", "top_k", "top_p", "seed")},
        }
        before = await self._spent()
        self._link.begin(at)
        await self._device.send(order)
        found = await self._device.event(lambda event: "text" in event, _ANSWER)
        up, down = self._link.end()
        after = await self._spent()
        forwards, cpu = (after[name] - before[name] for name in ("forwards", "cpu_s"))
        return found, Costs(up, down, int(forwards), cpu)

    async def _spent(self) -> dict[str, float]:
        await self._target.send(b"")
        found: dict[str, float] = await self._target.event(lambda event: "forwards" in event, _ANSWER)
        return found


async def start(here: LocalDeployment, wanted: Traditional, delay_ms: float) -> dict[str, TraditionalSide]:
    """Start both processes; the sides by name.

    Args:
        here: deployment with a broker that takes `lab.traditional.channel.PACKET_BYTES`.
        wanted: which sides.
        delay_ms: time by which each forward of the target takes longer.

    Raises:
        FingerprintError: draft and target have different tokenizers.
        FlexSpecError: a process did not start; says why.
    """
    program = (_TARGET, str(delay_ms))
    worker = await here.worker("t-worker", *wanted.worker, program=program)
    target = worker.ready
    flags = (*here.at_broker, "--edge", "t-edge", *wanted.edge)
    command = python(_DEVICE, *flags)
    device = await here.start("t-edge", "device", command)
    ready = await device.event(lambda event: "ready" in event)
    if ready["vocabulary"] != target["vocabulary"]:
        raise FingerprintError("draft and target have different tokenizers")
    return {
        name: TraditionalSide(name, device, worker.process, LinkMeter(here.link), guesses=wanted.guesses)
        for name in wanted.schemes
    }
