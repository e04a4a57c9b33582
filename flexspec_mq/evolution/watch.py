"""``flexspec head watch``: signs the catalogue anew before it expires, and promotes or aborts canaries by itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.naming import stable
from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused, UsageError
from flexspec_mq.evolution.analysis import Decision, Rule, Verdict, judge
from schemas.catalogue import VersionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flexspec_mq.catalogue.signing import PrivateKey
    from flexspec_mq.evolution.catalogue_client import Board
    from flexspec_mq.evolution.overview import Statuses
    from schemas.catalogue import Catalogue, CatalogueVersion

_log = logging.getLogger(__name__)

RENEW_AFTER = 2 / 3
"""Of a catalogue's lifetime."""
_REPAIR_EVERY = 60.0
"""Seconds, at least, between two catalogues that replace one that is no good."""
_SERVES = ("ready", "draining")
_TELL_EVERY = 60.0
"""Seconds between two words on a canary that nothing is decided about."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next catalogue, and why."""

    catalogue: Catalogue
    why: str


@dataclass
class Judge:
    """Decides on canaries, and remembers which are canaries and since which sample. No I/O.

    Attributes:
        rule: what is asked of a canary.
        statuses: what workers and edges say.
    """

    rule: Rule
    statuses: Statuses
    _canaries: dict[bytes, int] | None = None

    def verdicts(self, catalogue: Catalogue) -> Iterator[tuple[CatalogueVersion, Verdict]]:
        """Of each canary, beside what the stable version has done since the canary is one.

        What it did before says little: with another load everything takes another time.
        """
        evidence = self.statuses.evidence
        canaries = [one for one in catalogue.versions if one.state is VersionState.CANARY]
        known = self._canaries
        begun = {}
        for digest in (one.digest for one in canaries):
            if known is not None and digest not in known:
                evidence.forget(digest)  # it begins anew
            begun[digest] = 0 if known is None else known.get(digest, evidence.taken)
        self._canaries = begun
        for canary in canaries:
            samples = evidence.of(stable(catalogue).digest, begun[canary.digest])
            verdict = self._refused(catalogue, canary) or judge(
                self.rule, samples, evidence.of(canary.digest)
            )
            yield canary, verdict

    def _refused(self, catalogue: Catalogue, canary: CatalogueVersion) -> Verdict | None:
        """No worker serves it, as all that have looked at it found it bad.

        A worker whose base no catalogue names takes itself for one of the family's, and refuses all heads of that. So
        its word on one counts only if it serves another: workers of the right base may not have spoken yet.
        """
        said = list(self.statuses.holders(canary.digest))
        if any(state != "refused" for _, state, _ in said):
            return None
        of_its_base = {
            worker
            for one in catalogue.versions
            if one.base == canary.base
            for worker, state, _ in self.statuses.holders(one.digest)
            if state in _SERVES
        }
        for worker, _, why in said:
            if canary.base or worker in of_its_base:
                return Verdict(Decision.ABORT, f"worker {worker} refuses it: {why}")
        return None


def step_for(catalogue: Catalogue, canary: CatalogueVersion, verdict: Verdict, now: float) -> Step | None:
    """What a verdict makes of a catalogue; None while it is to wait."""
    if verdict.decision is Decision.WAIT:
        return None
    if verdict.decision is Decision.PROMOTE:
        return Step(editing.promote(catalogue, now, canary.name), f"promoted {canary.name} {verdict.why}")
    return Step(editing.drain(catalogue, now, canary.name), f"aborted {canary.name}: {verdict.why}")


@dataclass
class Watcher:
    """Acts on a family.

    Args:
        board: of the family.
        signers: the online keys.
        judge: decides on canaries.
        say: given a line for people at each step.
    """

    board: Board
    signers: Sequence[PrivateKey]
    judge: Judge
    say: Callable[[str], None]
    _told: dict[str, float] = field(default_factory=dict)
    _repaired: float = -_REPAIR_EVERY

    async def run(self, pause: float = 1.0) -> None:
        """Look every `pause` seconds and act, until cancelled.

        Raises:
            UsageError: there is no catalogue, or the keys do not suffice any more.
            LinkError: the broker refuses us, or is gone for longer than the settings allow.
        """
        self.board.catalogue()
        while True:
            self.board.check()
            await self.act()
            await asyncio.sleep(pause)

    async def act(self) -> Step | None:
        """Take the next step, if one is due and the broker can be reached."""
        step = self._next()
        if step is None:
            return None
        try:
            await self.board.publish(step.catalogue, self.signers)
        except (LinkRefused, PublishRefused):
            raise
        except LinkError as error:  # also a lost race: what the other one wrote is judged next time
            _log.warning("%s; looking again", error.message)
            return None
        self.say(f"{step.why}; epoch {step.catalogue.epoch}")
        return step

    def _next(self) -> Step | None:
        now, catalogue = self.board.clock(), self.board.follower.catalogue
        if catalogue is None:
            raise UsageError("there is no catalogue any more", hint="look at `flexspec head list`")
        for canary, verdict in self.judge.verdicts(catalogue):
            if (step := step_for(catalogue, canary, verdict, now)) is not None:
                return step
            if now - self._told.get(canary.name, 0.0) >= _TELL_EVERY:
                self._told[canary.name] = now
                self.say(f"canary {canary.name} waits: {verdict.why}")
        if (why := self._why_renew(catalogue, now)) is not None:
            return Step(editing.renewed(catalogue, now), f"signed anew: {why}")
        return None

    def _why_renew(self, catalogue: Catalogue, now: float) -> str | None:
        serial = self.board.keys().serial
        if catalogue.key_set != serial:
            return f"there is key set {serial}"
        if now >= catalogue.epoch + RENEW_AFTER * catalogue.lifetime:
            return f"it would expire in {max(0.0, catalogue.epoch + catalogue.lifetime - now):.0f} s"
        fault = self.board.fault()
        if fault and now - self._repaired >= _REPAIR_EVERY:
            self._repaired = now
            return fault
        return None
