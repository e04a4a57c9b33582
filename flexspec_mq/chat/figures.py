"""What answers took, in words."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

from flexspec_mq.energy.model import in_words
from schemas.openai import Usage


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """One answer, as the client saw it.

    Attributes:
        seconds: from the question to the end.
        first: seconds to the first text; None if there was none.
        usage: as the API says it; None if the answer was stopped.
        reason: why it ended; None if it was stopped.
    """

    seconds: float
    first: float | None
    usage: Usage | None
    reason: str | None


class Clock:
    """Times one answer."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: float | None = None

    def text(self) -> None:
        """Some text is there."""
        if self._first is None:
            self._first = time.monotonic()

    def took(self, usage: Usage | None, reason: str | None) -> AnswerFigures:
        """The answer is over."""
        first = None if self._first is None else self._first - self._began
        return AnswerFigures(time.monotonic() - self._began, first, usage, reason)


def line(took: AnswerFigures) -> str:
    """The figures of one answer in one line."""
    usage, first = took.usage, "–" if took.first is None else f"{took.first:.2f} s"
    if usage is None:
        return f"stopped after {took.seconds:.1f} s · first text {first}"
    found, tokens = usage.flexspec, usage.completion_tokens
    parts = [
        f"{tokens} tokens in {took.seconds:.1f} s, {_rate(tokens, took.seconds)}",
        f"first text {first}",
        f"accepted {found.accepted} of {found.drafted}{_share(found.accepted, found.drafted)}"
        + (f", {found.looked_up} by lookup" if found.looked_up else ""),
        *([f"{found.worker_accepted} by the worker's draft"] if found.worker_accepted else ()),
        f"{found.rounds} rounds",
        f"{size(found.bytes_up)} up, {size(found.bytes_down)} down",
        *(
            [in_words(found.energy_j, found.energy_j_per_100, found.energy_source)]
            if found.energy_j is not None
            else ()
        ),
        f"seed {'–' if found.seed is None else found.seed}",
    ]
    if took.reason == "length" and found.default_limit is not None:
        parts.append(f"cut at the node's limit of {found.default_limit:,} tokens; /max-tokens N sets another")
    elif took.reason == "length":
        parts.append("cut at the limit of tokens")
    return " · ".join(parts)


@dataclass(slots=True)
class Totals:
    """All answers of a conversation.

    Attributes:
        took: of each that was answered or stopped.
        failed: questions without an answer.
    """

    took: list[AnswerFigures] = field(default_factory=list)
    failed: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """As (name, value)."""
        usages = [took.usage for took in self.took if took.usage is not None]
        firsts = [took.first for took in self.took if took.first is not None]
        seconds = sum(took.seconds for took in self.took if took.usage is not None)
        tokens = sum(usage.completion_tokens for usage in usages)
        drafted = sum(usage.flexspec.drafted for usage in usages)
        accepted = sum(usage.flexspec.accepted for usage in usages)
        rounds = sum(usage.flexspec.rounds for usage in usages)
        up, down = (
            sum(getattr(usage.flexspec, way) for usage in usages) for way in ("bytes_up", "bytes_down")
        )
        stopped = len(self.took) - len(usages)
        rows = [
            ("answers", f"{len(usages)}, and {stopped} stopped, {self.failed} failed"),
            (
                "tokens",
                f"{tokens} written, {_rate(tokens, seconds)}; prompts {sum(u.prompt_tokens for u in usages)}",
            ),
            ("acceptance", f"{accepted} of {drafted} drafted tokens{_share(accepted, drafted)}"),
            ("rounds", f"{rounds}, {tokens / rounds if rounds else 0:.2f} tokens each"),
            ("MQTT payload", f"{size(up)} up, {size(down)} down"),
        ]
        if spent := [
            (one.energy_source, one.energy_j) for u in usages if (one := u.flexspec).energy_j is not None
        ]:
            sources = ", ".join(sorted({source for source, _ in spent}))
            rows.append(("energy", f"{sum(joules for _, joules in spent):.1f} J ({sources})"))
        if looked_up := sum(usage.flexspec.looked_up for usage in usages):
            rows.append(("by lookup", f"{looked_up} of the accepted tokens"))
        if firsts:
            rows.append(
                ("first text after", f"{median(firsts):.2f} s in the middle, {max(firsts):.2f} s at most")
            )
        if names := sorted({u.flexspec.version for u in usages if u.flexspec.version}):
            rows.append(("written by", ", ".join(names)))
        if words := sorted({u.flexspec.exactness for u in usages if u.flexspec.exactness}):
            rows.append(("exactness", ", ".join(words)))
        if stopped:
            rows.append(("", "figures of answers that were stopped are not known"))
        return rows


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB"


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds if seconds > 0 else 0:.1f} a second"


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""
