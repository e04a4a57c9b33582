"""Rates, shares and sentences of a text and of its plan, for who has never heard of speculative decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import floor
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.words import count, duration, figure, span
from schemas.node import TextFigures, TextView
from schemas.openai import LOCAL_ONLY, StoppedAlone

if TYPE_CHECKING:
    from schemas.openai import Writer
    from schemas.plan import LimitReport, PlanAlternative, PlanEstimate, PlanStatus, VersionPlan

_WAITS = ("queued", "waiting")
_LONG = 0.5
"""Seconds of a wait that is worth a word."""
_MEANS = {
    "to the worker and back": "the way to the worker and back, so a better network would help",
    "waiting for other texts there": "waiting for other texts at the worker, so more workers would help",
    "the worker computes": "the worker's computing, so a faster worker would help",
    "this device drafts": "drafting on this device",
}
"""Parts of a round, and what would help."""
_STOPPED: dict[StoppedAlone, str] = {
    "": "",
    "unsure": ", and stopped as it was unsure of itself",
    "repeats": ", and stopped as it went in circles",
    "limit": ", as many as it may",
    "end": ", to its end",
}
"""Why nothing more is written alone."""


class Watched:
    """A text that somebody looks at, and for how long and for whom it has waited since."""

    def __init__(self) -> None:
        self._told: tuple[TextView, TextView] | None = None
        self._since = 0.0  # when its state began
        self._whom = ""
        self._waited = [0.0, 0.0]  # seconds before its first token, and after it

    def look(self, view: TextView, plan: VersionPlan | None, now: float) -> tuple[TextView, TextView]:
        """The text with all that follows from its figures; and the same without what differs at each look."""
        last, figures = self._told and self._told[0], view.figures
        if self._told is not None and self._told[0].state == "over":
            return self._told
        if last is None or (last.state, last.why) != (view.state, view.why):
            if last is not None and last.state in _WAITS:
                begun = last.figures is not None and last.figures.first_token is not None
                self._waited[begun] += now - self._since
                self._whom = last.why or self._whom
            self._since = now
        gist = replace(view, time=str(floor(now - self._since)) if view.state in _WAITS else "")
        view = replace(view, time=" ".join(self._time(view, plan, now)))
        if figures is not None:
            gist = replace(gist, figures=replace(figures, seconds=floor(figures.seconds)))
            paced = 0.0 if figures.first_token is None else figures.seconds - figures.first_token
            view = replace(
                view,
                written=written(figures),
                tokens_per_second=figures.tokens / paced if paced > 0.1 else None,
                tokens_per_round=figures.tokens / figures.rounds if figures.rounds else None,
                parts={} if view.state in _WAITS or not figures.rounds else _parts(figures, plan),
            )
        self._told = view, gist
        return self._told

    def _time(self, view: TextView, plan: VersionPlan | None, now: float) -> Iterator[str]:
        figures = view.figures
        if view.state in _WAITS:
            alone = 0 if figures is None else figures.provisional
            whole = round(now - self._since)
            since = f"{whole} s" if whole < 120 else duration(whole)
            nothing = f"Nothing is {'confirmed' if alone else 'written'} now"
            yield f"{nothing}: waiting for {view.why or 'its turn'} since {since}."
            if alone and figures is not None:
                writer = figures.local or "The draft"
                yield f"{writer} has written {count(alone, 'token')} alone{_STOPPED[figures.provisional_stopped]}."
        elif view.state == "over" and view.why:
            yield f"The text ended by an error: {view.why}."
        elif figures is None:
            yield "The question was just asked."
        elif figures.version == LOCAL_ONLY:
            yield f"{figures.local} writes it on this device, and nothing of it leaves that."
        elif figures.first_token is None:
            yield f"The large model reads the question, {count(figures.prompt_tokens, 'token')}."
        else:
            waited = sum(self._waited)
            if waited > _LONG:  # an outage is named before what could be faster without one
                yield f"It waited {duration(waited)} for {self._whom or 'its turn'}."
            yield from self._rounds(figures, plan)
            yield from self._delays(figures, figures.first_token)

    def _rounds(self, figures: TextFigures, plan: VersionPlan | None) -> Iterator[str]:
        rounds, does = max(figures.rounds, 1), figures.plan or (plan and plan.plan)
        brings = f"{figures.tokens / rounds:.1f} tokens"
        paced = max(figures.seconds - (figures.first_token or 0.0) - self._waited[1], 0.0)
        each = 1000 * paced / (rounds - 1) if rounds > 1 else 0.0
        if rounds == 1:
            yield f"The first answer of the worker brought {brings}."
        elif does and does.ahead:
            yield f"The worker does not wait for this device: it sends {brings} each {span(each)}."
        elif does and does.in_flight > 1:
            yield f"A verdict comes each {span(each)} and brings {brings}; up to {does.in_flight} are under way."
        else:
            yield f"A round takes {span(each)} and brings {brings}."
        for part, ms in [*_parts(figures, plan).items()][:1]:
            most = "Most of it is" if ms > each / 2 else "The longest part that is known is"
            yield f"{most} {_MEANS[part]}."

    def _delays(self, figures: TextFigures, first_token: float) -> Iterator[str]:
        first = first_token - self._waited[0]
        if first > max(figures.seconds / 4, _LONG):
            trip = (figures.rtt_ms or 0.0) / 1000
            way = f"{duration(trip)} of it the way to the worker and back"
            yield f"The first token took {duration(first)}: " + (
                f"{way}." if trip > first / 2 else "the question had to be read."
            )
        if figures.reopens:
            yield f"The node looked for another worker {count(figures.reopens, 'time')}."
        elif figures.polls:
            yield f"The node asked again {count(figures.polls, 'time')} after silence."


def written(figures: TextFigures) -> dict[Writer, int]:
    """Tokens of a text by who wrote them."""
    counts: dict[Writer, int] = {
        "device": max(0, figures.accepted - figures.looked_up),
        "lookup": figures.looked_up,
        "worker": figures.worker_accepted,
        "grammar": figures.forced,
    }
    return {**counts, "target": max(0, figures.tokens - sum(counts.values()))}


def _parts(figures: TextFigures, plan: VersionPlan | None) -> dict[str, float]:
    """Milliseconds of the parts of a round, as far as they are known, the longest first."""
    estimates: Mapping[str, PlanEstimate] = {} if plan is None else plan.estimates

    def known(*names: str) -> float:
        values = (estimates[name].value for name in names if name in estimates)
        return next((value for value in values if value is not None), 0.0)

    does = figures.plan or (plan and plan.plan)
    rtt = known("rtt") if figures.rtt_ms is None else figures.rtt_ms
    parts = {
        "to the worker and back": 0.0 if does and does.ahead else rtt,
        "waiting for other texts there": known("queueing_delay", "queue_mean"),
        "the worker computes": known("compute_mean", "forward"),
        "this device drafts": known("draft_time") * (does.draft_length if does else 0),
    }
    return {
        name: parts[name] for name in sorted(parts, key=parts.__getitem__, reverse=True) if parts[name] >= 0.5
    }


def plan_words(
    plan: PlanStatus, ways: Sequence[PlanAlternative], limits: Sequence[LimitReport], alone: float | None
) -> str:
    """A plan, what it was chosen among, its limits, and the share that was confirmed of what the draft wrote alone."""
    drafts = ", with drafts of its own if it has a draft model" if plan.worker_draft else ""
    meanwhile = f"The worker writes on without waiting for this device{drafts}."
    if plan.draft_length:
        batches = f", up to {plan.in_flight} batches under way" if plan.in_flight > 1 else ""
        does = f"This device drafts {count(plan.draft_length, 'token')} at a time{batches}."
        waits = "The worker waits for each of them."
    else:
        does, waits = "This device drafts nothing.", "The worker decides one token after another."
    told = [does, meanwhile if plan.ahead else waits]
    known = [way for way in ways if way.ms_per_token is not None]
    chosen = next((way.ms_per_token for way in known if way.chosen), None)
    other = next((way.ms_per_token for way in known if not way.chosen and way.allowed), None)
    if chosen is not None and other is not None:
        best = (
            "the next best way" if chosen <= other else "another way, which is not better enough to change,"
        )
        told.append(f"It is expected to take {span(chosen)} a token; {best} takes {span(other)}.")
    if alone is not None:
        told.append(f"Lately {figure(100 * alone)} % of what the draft wrote alone was confirmed.")
    return " ".join([*told, *(f"The limit {limit_in_words(limit)}." for limit in limits)])
