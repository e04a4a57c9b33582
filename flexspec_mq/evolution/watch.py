"""``flexspec head watch``: signs the catalogue anew before it expires, and promotes or aborts canaries by itself."""

import argparse
import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flexspec_mq import waiting
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.naming import stable
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.daemon.dated import ExpiryLog
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import Cancelled, LinkError, LinkRefused, PublishRefused, UsageError
from flexspec_mq.evolution.analysis import CanaryRule, Decision, Judgement, judge
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.evidence import Evidence
from flexspec_mq.evolution.overview import FILTERS, Statuses
from flexspec_mq.evolution.settings import head_options
from schemas.catalogue import Catalogue, CatalogueVersion, VersionState

_log = logging.getLogger(__name__)

RENEW_AFTER = 2 / 3
"""Share of a catalogue's lifetime."""
_TELL_EVERY = 60.0
"""Seconds between two words on a canary that nothing is decided about."""


def watch(args: argparse.Namespace) -> int:
    """``flexspec head watch``: returns the exit code, once somebody ends it."""
    head, rule = head_options(args), CanaryRule(keep=args.keep, slower=args.slower)
    family, signers = head.named_family(), head.signers()
    statuses = Statuses(Evidence(family))

    async def act(client: CatalogueClient) -> None:
        lifetime = client.catalogue().lifetime
        answer(f"watching {family}, {lifetime} s from one catalogue to the next at most")
        await Watcher(client, signers, Judge(rule, statuses), answer).run()

    with suppress(Cancelled):
        connected(args, act, FILTERS, statuses.take)
    return 0


@dataclass
class Judge:
    """Decides on canaries, and remembers which are canaries and since which sample. No I/O.

    Attributes:
        rule: bounds that a canary must keep.
        statuses: statuses of workers and edges.
    """

    rule: CanaryRule
    statuses: Statuses
    _canaries: dict[bytes, int] | None = None

    def verdicts(self, catalogue: Catalogue) -> Iterator[tuple[CatalogueVersion, Judgement]]:
        """Judge each canary, beside what the stable version has done since the canary is one.

        Its figures from before say little: with another load everything takes another time.
        """
        evidence = self.statuses.evidence
        canaries = [version for version in catalogue.versions if version.state is VersionState.CANARY]
        known = self._canaries
        begun = {}
        for digest in (canary.digest for canary in canaries):
            if known is not None and digest not in known:
                evidence.forget(digest)  # it begins anew
            begun[digest] = 0 if known is None else known.get(digest, evidence.taken)
        self._canaries = begun
        for canary in canaries:
            samples = evidence.samples(stable(catalogue).digest, begun[canary.digest])
            refused = self._refused(catalogue, canary)
            yield canary, refused or judge(self.rule, samples, evidence.samples(canary.digest))

    def _refused(self, catalogue: Catalogue, canary: CatalogueVersion) -> Judgement | None:
        """Abort a canary that no worker serves, as all that have looked at it found it bad.

        A worker whose base no catalogue names takes itself for one of the family's, and refuses all heads of that. So
        its word on one counts only if it serves another: workers of the right base may not have spoken yet.
        """
        holders = list(self.statuses.holders(canary.digest))
        if any(state != "refused" for _, state, _ in holders):
            return None
        of_its_base = self.statuses.serving(catalogue, canary.base)
        for worker, _, why in holders:
            if canary.base or worker in of_its_base:
                return Judgement(Decision.ABORT, f"worker {worker} refuses it: {why}")
        return None


@dataclass
class Watcher:
    """Acts on a family.

    Attributes:
        client: connected to the family's topics.
        signers: the online keys.
        judge: decides on canaries.
        say: called with a line for people at each step.
    """

    client: CatalogueClient
    signers: Sequence[PrivateKey]
    judge: Judge
    say: Callable[[str], None]
    _told: dict[str, float] = field(default_factory=dict)
    _dates: ExpiryLog = field(default_factory=ExpiryLog)
    _repaired: float = -6 * waiting.STATUS

    async def run(self, pause: float = 1.0) -> None:
        """Look every `pause` seconds and act, until cancelled.

        Raises:
            UsageError: there is no catalogue, or the keys do not suffice any more.
            LinkError: the broker refuses us, or is gone for longer than the settings allow.
        """
        self.client.catalogue()
        while True:
            self.client.check()
            await self.act()
            await asyncio.sleep(pause)

    async def act(self) -> bool:
        """Take the next step, if one is due and the broker can be reached; tells whether it was taken."""
        step = self._next()
        if step is None:
            return False
        catalogue, why = step
        try:
            await self.client.publish(catalogue, self.signers)
        except (LinkRefused, PublishRefused):
            raise
        except LinkError as error:  # also a lost race: what the other one wrote is judged next time
            _log.warning("%s; looking again", error.message)
            return False
        self.say(f"{why}; epoch {catalogue.epoch}")
        return True

    def _next(self) -> tuple[Catalogue, str] | None:
        """The next catalogue, and why; None if nothing is to be done."""
        now, catalogue = self.client.clock(), self.client.follower.catalogue
        self._dates.look(self.client.follower.dated, now)
        if catalogue is None:
            raise UsageError("there is no catalogue any more", hint="look at `flexspec head list`")
        for canary, (decision, why) in self.judge.verdicts(catalogue):
            if decision is Decision.PROMOTE:
                return editing.promote(catalogue, now, canary.name), f"promoted {canary.name} {why}"
            if decision is Decision.ABORT:
                return editing.drain(catalogue, now, canary.name), f"aborted {canary.name}: {why}"
            if now - self._told.get(canary.name, 0.0) >= _TELL_EVERY:
                self._told[canary.name] = now
                self.say(f"canary {canary.name} waits: {why}")
        if why := self._why_renew(catalogue, now):
            return editing.renewed(catalogue, now), f"signed anew: {why}"
        return None

    def _why_renew(self, catalogue: Catalogue, now: float) -> str:
        serial = self.client.keys().serial
        if catalogue.key_set != serial:
            return f"there is key set {serial}"
        if now >= catalogue.epoch + RENEW_AFTER * catalogue.lifetime:
            return f"it would expire in {max(0.0, catalogue.epoch + catalogue.lifetime - now):.0f} s"
        fault = self.client.fault()
        if fault and now - self._repaired >= 6 * waiting.STATUS:
            self._repaired = now
            return fault
        return ""
