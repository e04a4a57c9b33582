"""What happens while a text is written, as one JSON object a line, for programs that show it.

| type | fields |
|---|---|
| `start` | `prompt_tokens`, `seed` |
| `text` | `pieces`: [text, accepted] pairs; accepted tokens were the draft's, the others the target's |
| `stats` | live figures, see `Stats` |
| `finish` | `reason`, `tokens` (ids), `text`, `stats`; with `error` and `hint` when it failed |
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from flexspec_mq.models.text import StreamDecoder
    from flexspec_mq.protocol.effects import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures of one text so far.

    Attributes:
        tokens: committed.
        seconds: since the request.
        first_token: seconds to the first commit; None before.
        tokens_per_second: after the first commit.
        draft_length: planned for the next batch.
        drafted: draft tokens that the target's decision met.
        accepted: of these, right.
        looked_up: of the accepted ones, those that a lookup had drafted.
        rounds: verdicts that committed something.
        tokens_per_round: mean.
        rtt_ms: smoothed round trip without the worker's own time; None before a sample.
        bytes_up, bytes_down: MQTT payload.
        bytes_per_token: both ways together.
        polls, reopens: recoveries.
        worker: that holds the session now.
    """

    tokens: int
    seconds: float
    first_token: float | None
    tokens_per_second: float
    draft_length: int
    drafted: int
    accepted: int
    looked_up: int
    rounds: int
    tokens_per_round: float
    rtt_ms: float | None
    bytes_up: int
    bytes_down: int
    bytes_per_token: float
    polls: int
    reopens: int
    worker: str | None


class Clock:
    """Times one text."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.first: float | None = None

    def committed(self) -> None:
        """Something was committed now."""
        if self.first is None:
            self.first = time.monotonic()

    def stats(self, generation: Generation) -> Stats:
        """Figures of the text now."""
        now = time.monotonic()
        machine, counters = generation.machine, generation.machine.counters
        seen = machine.observation
        tokens = seen.committed
        traffic = generation.traffic
        writing = now - (self.first or now)
        return Stats(
            tokens=tokens,
            seconds=now - self.began,
            first_token=None if self.first is None else self.first - self.began,
            tokens_per_second=tokens / writing if writing > 0 else 0.0,
            draft_length=machine.plan.draft_length,
            drafted=seen.drafted,
            accepted=seen.accepted,
            looked_up=counters.looked_up_accepted,
            rounds=counters.rounds,
            tokens_per_round=tokens / counters.rounds if counters.rounds else 0.0,
            rtt_ms=None if seen.rtt is None else 1000 * seen.rtt,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            bytes_per_token=(traffic.up + traffic.down) / tokens if tokens else 0.0,
            polls=counters.polls,
            reopens=counters.reopens,
            worker=machine.worker,
        )


def pieces(decoder: StreamDecoder, commit: Commit) -> list[tuple[str, bool]]:
    """A commit's text, cut where accepted and written tokens meet; text of half a character comes later."""
    found: list[tuple[str, bool]] = []
    for token, accepted in zip(commit.tokens, commit.accepted, strict=True):
        text = decoder.push([token])
        if not text:
            continue
        if found and found[-1][1] == accepted:
            found[-1] = (found[-1][0] + text, accepted)
        else:
            found.append((text, accepted))
    return found


def stats_event(stats: Stats) -> dict[str, Any]:
    """A `stats` line."""
    return {"type": "stats", **asdict(stats)}
