"""Whether a step should wait a moment for sessions that were just answered and will ask for their next token at once.

A step costs a good deal whatever it decides, and little more for each session in it. Sessions that draft little come
back a short while after each verdict; without waiting, those of one step find the next one begun without them, and
two halves of the sessions take turns for ever, each step half full. Two such steps take longer than a full one and
the wait for it, as long as the wait is shorter than what a step costs in any case. So a step waits only for sessions
that have lately been back within a share of a step's time, no longer than that, and only while it raises the number
of sessions decided per second. Long links and slow drafters never hold anybody up.

No clock: every call takes `now` in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem

SHARE = 1 / 3
"""Share of the time of a step; a step costs a good deal more in any case."""
_STEPS = 4
"""Newest steps, of which the shortest counts: one that reads a long prompt tells little about the others."""
_SLACK = 1.5
"""How much later than lately a session may be before it is not waited for any more."""


@dataclass(slots=True)
class BatchingWindow:
    """Estimates of how soon sessions come back.

    Attributes:
        held: seconds that steps have waited, all together.
    """

    held: float = 0.0
    _answered: dict[SessionKey, float] = field(default_factory=dict)
    _takes: dict[SessionKey, float] = field(default_factory=dict)
    _newest: list[float] = field(default_factory=list)

    def stepped(self, seconds: float) -> None:
        """A step took so long."""
        self._newest = [*self._newest[1 - _STEPS :], seconds]

    def answered(self, key: SessionKey, now: float) -> None:
        """A verdict goes out to a session, which may come back for more."""
        self._answered[key] = now

    def took(self, items: Iterable[WorkItem]) -> None:
        """Sessions came back: their work is in the step that begins now."""
        for item in items:
            answered = self._answered.pop(item.key, None)
            if answered is None:
                continue
            took = max(0.0, item.waiting_since - answered)
            before = self._takes.get(item.key, took)
            # A session that was late is taken to be late until it is soon again.
            self._takes[item.key] = max(took, (took + before) / 2)

    def forget(self, key: SessionKey) -> None:
        """A session's text is over, or it is gone."""
        self._answered.pop(key, None)
        self._takes.pop(key, None)

    def wait(self, ready: Collection[SessionKey], now: float) -> float:
        """Seconds that the next step should still wait; 0 or less is not at all.

        Args:
            ready: sessions with work for it. The others that were answered a moment ago are waited for.
            now: seconds.
        """
        step = min(self._newest, default=0.0)
        most = SHARE * step
        if not most or not ready:
            return 0.0
        coming: list[tuple[float, float, str]] = []
        for key, answered in self._answered.items():
            takes = self._takes.get(key)
            if key in ready or takes is None or takes > most:
                continue
            latest = answered + min(most, _SLACK * takes)
            if latest > now:
                coming.append((max(now, answered + takes), latest, key[0]))
        # Those of a device beyond what any other one has are left out: nobody waits for one device's many sessions.
        counted = Counter(edge for edge, _ in ready)
        sessions = sorted((counted + Counter(edge for *_, edge in coming)).values())
        bound = sessions[-2] if len(sessions) > 1 else len(ready) + len(coming)
        # Where sessions per second are most: a few that are late are not worth the time of many that are here.
        count, until, here = len(ready), now, now
        best = count / step
        for expected, latest, edge in sorted(coming):
            if counted[edge] >= bound:
                continue
            counted[edge] += 1
            count += 1
            here = max(here, latest)
            if count / (expected - now + step) > best:
                best, until = count / (expected - now + step), here
        return until - now
