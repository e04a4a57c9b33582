"""Display of ``flexspec top``: the newest event of each kind, as rows that fit any screen."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flexspec_mq.chat.answer import style
from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.words import count, duration, figure, moment
from flexspec_mq.energy.model import in_words, per_hundred
from schemas.node import (
    DeviceView,
    FleetView,
    NodeEvent,
    NodeView,
    PlanView,
    TextView,
    VersionView,
    WorkerView,
)
from schemas.openai import Writer
from schemas.plan import VersionPlan

Words = str | Text | tuple[str, str]
"""Text, text of a style, or a text and its style."""
Section = tuple[RenderableType, ...]
"""A part of the screen: its title, and what stands below it."""


MAX_OVER = 16
"""Texts that are over and are still shown."""
_WRITERS: tuple[Writer, ...] = ("device", "lookup", "worker", "grammar", "target")
_STATES = {
    **dict.fromkeys(("writing", "online", "good"), "green"),
    **dict.fromkeys(("queued", "waiting", "degraded", "news"), "yellow"),
    **dict.fromkeys(("offline", "bad"), "red"),
    "over": "dim",
}


@dataclass
class Overview:
    """The newest of all that a node shows of itself.

    Attributes:
        texts: texts that are written, or were a moment ago, by id, the newest last.
        away: why no events come; empty while they do.
        seen: when the newest event of each type came, by the monotonic clock.
    """

    node: NodeView | None = None
    texts: dict[str, TextView] = field(default_factory=dict)
    plan: PlanView | None = None
    fleet: FleetView | None = None
    away: str = ""
    seen: dict[type, float] = field(default_factory=dict)

    def take(self, view: NodeEvent) -> None:
        """Take an event."""
        self.seen[type(view)] = time.monotonic()
        if isinstance(view, NodeView):
            self.node = view
            if not view.texts:  # more ended at once than are told one by one
                self.texts = {text.id: text for text in self.texts.values() if text.state != "writing"}
        elif isinstance(view, PlanView):
            self.plan = view
        elif isinstance(view, FleetView):
            self.fleet = view
        else:
            if view.state == "over":
                self.texts.pop(view.id, None)  # it goes behind those that ended before
            self.texts[view.id] = view
            over = [text.id for text in self.texts.values() if text.state == "over"]
            for old in over[:-MAX_OVER]:
                del self.texts[old]

    def report(self) -> dict[str, Any]:
        """All of it for JSON: data of the newest events by their names, of texts one for each."""
        told = {"node": self.node, "text": list(self.texts.values()), "plan": self.plan, "fleet": self.fleet}
        plain: dict[str, Any] = msgspec.to_builtins(told)
        return plain

    def age(self, kind: type) -> float:
        """Seconds since the newest event of a type came; 0 before any."""
        return time.monotonic() - self.seen[kind] if kind in self.seen else 0.0


@dataclass(frozen=True)
class Screenful:
    """An overview on a screen.

    Attributes:
        where: address of the node's API.
        fits: parts give way to each other, so that all is on the screen; else it is as long as it is.
    """

    overview: Overview
    where: str
    fits: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines of all parts."""
        free = options.update(height=None)
        parts = [
            [line for one in section for line in console.render_lines(one, free, pad=False)]
            for section in self.sections()
        ]
        rows = [len(lines) for lines in parts]
        if self.fits:
            first = min(rows[0], options.size.height)
            rows = [first, *fit(rows[1:], options.size.height - first)]
        lines = [line for part, most in zip(parts, rows, strict=True) for line in _cut(part, most)]
        for at, line in enumerate(lines):
            if at:
                yield Segment.line()
            yield from line

    def sections(self) -> Iterator[Section]:
        """All parts; the first one is never cut for others."""
        seen, node = self.overview, self.overview.node
        if node is None:
            yield _line(("waiting for", "bold"), self.where, between=" "), _line((seen.away, "yellow"))
            return
        yield tuple(_state(seen, node))
        if seen.texts:
            yield _texts(list(seen.texts.values()))
        for version in [] if seen.plan is None else seen.plan.data:
            yield _plan(version, seen.age(PlanView))
        if seen.fleet is not None:
            yield from _fleet(seen.fleet)


def fit(wanted: Sequence[int], rows: int) -> list[int]:
    """Rows for each part: as many as it wants, or else as many as any other."""
    given = [0] * len(wanted)
    while rows > 0 and any(short := [has < wants for has, wants in zip(given, wanted, strict=True)]):
        for at in [at for at, is_short in enumerate(short) if is_short][:rows]:
            given[at] += 1
            rows -= 1
    return given


def _cut(lines: list[list[Segment]], most: int) -> list[list[Segment]]:
    if len(lines) <= most or most < 2:
        return lines[:most]
    return [*lines[: most - 1], [Segment(f"  … {len(lines) - most + 1} more")]]


def _text(words: Words) -> Text:
    """The only way to the screen for words: on one line, and nothing in them steers a terminal."""
    if isinstance(words, Text):
        return words
    text, colour = (words, "") if isinstance(words, str) else words
    return Text(" ".join(printable(text).split()), colour)


def _line(*parts: Words, between: str = " · ") -> Text:
    """Parts that are not empty, in one line."""
    return Text(between).join(text for text in map(_text, parts) if text)


def _table(head: Sequence[str], rows: Iterable[Sequence[Words]], words_from: int) -> Table:
    """A table without columns that are empty; those before `words_from`, but for the first, hold numbers."""
    cells = [[_text(cell) for cell in row] for row in rows]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=True)
    kept = [at for at in range(len(head)) if any(row[at] for row in cells)]
    for at in kept:
        table.add_column(
            Text(head[at]),
            justify="right" if 0 < at < words_from else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if at == kept[-1] else None,  # the last one gives way to the others
        )
    for row in cells:
        table.add_row(*(row[at] for at in kept))
    return table


def _state(seen: Overview, node: NodeView) -> Iterator[Text]:
    """A node, its state and link, sums and limits."""
    told = node.connection
    why = f": {told.why}" if told.why else ""
    state = f"{told.state} for {duration(max(time.time() - told.since, 0.0))}{why}"
    yield _line(
        (node.edge, "bold"),
        (state, _STATES[told.state]),
        f"model {node.model}",
        f"draft {node.draft}",
        node.release,
    )
    if seen.away:
        yield _line((f"no events for {duration(seen.age(NodeView))}: {seen.away}", "red"))
    for_ = duration(node.link.seconds + seen.age(NodeView))
    losses = f"lost {count(node.link.losses, 'time')}" if node.link.losses else ""
    if (outage := told.outage) is not None:
        losses += f", the last time for {duration(outage.seconds)} until {moment(outage.ended)}"
    energy = ""
    if node.energy_j is not None:
        energy = in_words(node.energy_j, per_hundred(node.energy_j, node.tokens), node.energy_source)
    yield _line(
        (f"link up for {for_}", "green") if node.link.up else (f"link down for {for_}", "red"),
        losses,
        "" if node.link.rtt_ms is None else f"round trip {figure(node.link.rtt_ms)} ms",
        count(node.texts, "text") + " now",
        count(node.tokens, "token") + " written",
        energy,
        "" if node.battery is None else f"battery {node.battery:.0f} %",
    )
    if waits := [f"{number} {state}" for state, number in node.outbox.items() if state != "done"]:
        yield _line("outbox", *waits)


def _texts(texts: Sequence[TextView]) -> Section:
    now = [text for text in texts if text.state != "over"]
    over = [text for text in reversed(texts) if text.state == "over"]
    head = ("state", "tokens", "tok/s", "a round", *_WRITERS, "ms", "version", "at", "")
    rows = [_row(text) for text in (*now, *over)]
    title = _line(("texts", "bold"), f"{len(now)} now", f"{len(over)} over", "who wrote % of the tokens")
    return title, _table(head, rows, words_from=len(head) - 3), _line(((now or texts)[-1].time, "dim"))


def _row(text: TextView) -> list[Words]:
    figures, about = text.figures, text.why or text.reason
    state = text.state, _STATES[text.state]
    if figures is None:
        return [state, *[""] * (len(_WRITERS) + 6), about]
    shares = {writer: text.written.get(writer, 0) / max(1, sum(text.written.values())) for writer in _WRITERS}
    if not about and figures.plan is not None:
        about = figures.plan.does
    return [
        state,
        f"{figures.tokens:,}",
        "" if text.tokens_per_second is None else f"{text.tokens_per_second:.1f}",
        "" if text.tokens_per_round is None else f"{text.tokens_per_round:.1f}",
        *((f"{100 * share:.0f}" if share else "", style(writer)) for writer, share in shares.items()),
        "" if figures.rtt_ms is None else f"{figures.rtt_ms:.0f}",
        figures.version,
        figures.worker or "",
        (about, "red" if text.state == "over" and text.why else "yellow" if text.why else ""),
    ]


def _plan(version: VersionPlan, since: float) -> Section:
    plan = version.plan
    state = "a text is under way" if version.under_way else "the last text"
    age = "no tokens yet" if version.age_s is None else f"newest tokens {duration(version.age_s + since)} ago"
    sizes = f"look-ahead {plan.ahead}, worker's drafts {plan.worker_draft}, QoS {plan.qos}"
    body: list[RenderableType] = [
        _line(version.words),
        _line(f"policy {plan.policy}", f"{sizes}, threshold {plan.confidence_threshold:g}", state, age),
    ]
    if version.alternatives:
        rows = [
            (
                "*" if other.chosen else " ",
                _known(other.ms_per_token),
                _known(other.j_per_token),
                other.name if other.allowed else f"{other.name} (beyond a limit)",
            )
            for other in version.alternatives
        ]
        body.append(_table(("", "ms/token", "J/token", "chosen among"), rows, words_from=3))
    body.append(_line(*_estimates(version)))
    return _line(("plan", "bold"), version.version, (plan.does, "bold")), *body


def _known(value: float | None) -> str:
    return "" if value is None else figure(value)


def _estimates(version: VersionPlan) -> Iterator[str]:
    """Estimates that the plan was made from; those without a value at the end."""
    unseen = []
    for name, estimate in version.estimates.items():
        if estimate.value is None:
            unseen.append(name)
            continue
        error = "" if estimate.error is None else f" ± {figure(estimate.error)}"
        tries = "" if estimate.tries is None else f" of {estimate.tries:.0f}"
        yield f"{name} {figure(estimate.value)}{error} {estimate.unit}{tries}"
    if unseen:
        yield f"not seen yet: {', '.join(unseen)}"


def _fleet(fleet: FleetView) -> Iterator[Section]:
    body: list[RenderableType] = []
    if fleet.blind:
        body.append(_line(("the broker lets this node read no worker's status", "yellow")))
    body += [*_members("worker", fleet.workers), *_members("device", fleet.devices)]
    counts = count(len(fleet.workers), "worker"), count(len(fleet.devices), "device")
    yield _line(("fleet", "bold"), *counts), *body
    if fleet.catalogue is not None:
        *wrong, told = fleet.told or [""]
        lines: list[RenderableType] = [_line((words, "red")) for words in wrong]
        lines += _members("version", fleet.versions)
        lines += [
            _line((moment(change.epoch), "dim"), *(change.changes or ["signed anew"]), between="  ")
            for change in fleet.history
        ]
        yield _line(("catalogue", "bold"), told), *lines


def _members(kind: str, members: Sequence[WorkerView | DeviceView | VersionView]) -> list[Table]:
    rows = [
        (member.name, member.load, (member.condition, _STATES.get(member.mood, "")), _line(*member.facts))
        for member in members
    ]
    return [_table((kind, "has", "state", ""), rows, words_from=1)] if rows else []
