"""Traditional speculation as strategies of ``flexspec bench``: a process at each end, asked as edge nodes are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FingerprintError
from lab.bench.meter import LinkBytes, LinkMeter
from lab.testbed.deployment import LocalDeployment
from lab.testbed.process import Process

GUESSES = 5
"""Tokens drafted a round, as FlexSpec (arXiv 2601.00644) has its fixed draft do."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to speculate.

    Attributes:
        distributions: whole ones are sent with the guesses.
    """

    distributions: bool = False

    def says_the_targets_text(self, temperature: float) -> bool:
        """Whether its text is, token for token, the one that the target alone writes with the same seed.

        Rejection sampling draws from the target's distribution with other noise, so it writes another text.
        """
        return temperature == 0.0 or not self.distributions


SCHEMES = {"traditional": Scheme(distributions=True), "traditional-ids": Scheme()}


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


@dataclass(frozen=True, slots=True)
class TraditionalSide:
    """Both sides of a scheme.

    Attributes:
        scheme: name of the scheme.
        device: the process that writes.
        link: between it and the target.
        guesses: drafted a round.
    """

    scheme: str
    device: Process
    link: LinkMeter
    guesses: int

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], LinkBytes]:
        """Have a text written; see `lab.bench.testbed.ApiSide`."""
        self.link.begin(at)
        await self.device.send(
            {
                "scheme": self.scheme,
                "prompt": body["messages"][0]["content"],
                "tokens": body["max_tokens"],
                "guesses": self.guesses,
                "sampling": [body[name] for name in ("temperature", "top_k", "top_p", "seed")],
            }
        )
        found = await self.device.event(lambda event: "text" in event, _ANSWER)
        return found, await self.link.end()


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
    flags = (*here.at_broker, "--edge", "t-edge", *wanted.edge)
    device = await here.start("t-edge", "device", python(_DEVICE, *flags))
    ready = await device.event(lambda event: "ready" in event)
    if ready["vocabulary"] != worker.ready["vocabulary"]:
        raise FingerprintError("draft and target have different tokenizers")
    link = LinkMeter(here.link)
    return {name: TraditionalSide(name, device, link, wanted.guesses) for name in wanted.schemes}
