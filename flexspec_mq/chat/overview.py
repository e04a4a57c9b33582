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
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.printable import printable
from flexspec_mq.doctor.statuses import duration
from flexspec_mq.energy.model import in_words, per_hundred
from schemas.node import FleetView, NodeEvent, NodeView, PlanView, TextFigures, TextView, WorkerView
from schemas.openai import Writer
from schemas.plan import VersionPlan
from schemas.status import EdgeStatus, WorkerStatus

Words = str | Text | tuple[str, str]
"""Text, text of a style, or a text and its style."""
Section = tuple[RenderableType, ...]
"""A part of the screen: its title, and what stands below it."""


MAX_OVER = 16
"""Texts that are over and are still shown."""
WIDE = 110
"""Columns from which shares are drawn as bars too."""
_BAR = 10
_GLYPHS: dict[Writer, str] = {"device": "█", "lookup": "▇", "worker": "▓", "grammar": "·", "target": "░"}
_STATES = {
    **dict.fromkeys(("writing", "online", "ready", "stable", "current"), "green"),
    **dict.fromkeys(("queued", "waiting", "degraded", "draining", "loading", "canary", "none"), "yellow"),
    **dict.fromkeys(("refused", "expired", "gone", "offline"), "red"),
    **dict.fromkeys(("over", "retired"), "dim"),
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
            for section in self.sections(options.max_width)
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

    def sections(self, width: int) -> Iterator[Section]:
        """All parts; the first one is never cut for others."""
        seen, node = self.overview, self.overview.node
        if node is None:
            yield _line(("waiting for", "bold"), self.where, between=" "), _line((seen.away, "yellow"))
            return
        yield tuple(_state(seen, node))
        if seen.texts:
            yield _texts(list(seen.texts.values()), wide=width >= WIDE)
        for version in [] if seen.plan is None else seen.plan.data:
            yield _plan(version, seen.age(PlanView))
        if seen.fleet is not None:
            yield from _fleet(seen.fleet, seen.age(FleetView))


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


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _styled(state: str) -> tuple[str, str]:
    return state, _STATES.get(state, "")


def _number(value: float | None) -> str:
    """To three digits, without powers of ten."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


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
    losses = f"lost {_count(node.link.losses, 'time')}" if node.link.losses else ""
    if (outage := told.outage) is not None:
        losses += f", the last time for {duration(outage.seconds)} until {_moment(outage.ended)}"
    energy = ""
    if node.energy_j is not None:
        energy = in_words(node.energy_j, per_hundred(node.energy_j, node.tokens), node.energy_source)
    yield _line(
        (f"link up for {for_}", "green") if node.link.up else (f"link down for {for_}", "red"),
        losses,
        "" if node.link.rtt_ms is None else f"round trip {_number(node.link.rtt_ms)} ms",
        _count(node.texts, "text") + " now",
        _count(node.tokens, "token") + " written",
        energy,
        "" if node.battery is None else f"battery {node.battery:.0f} %",
    )
    if waits := [f"{count} {state}" for state, count in node.outbox.items() if state != "done"]:
        yield _line("outbox", *waits)
    for limit in node.limits:
        yield _line((limit_in_words(limit), "" if limit.state in {"kept", "unknown"} else "yellow"))


def _texts(texts: Sequence[TextView], *, wide: bool) -> Section:
    now = [text for text in texts if text.state != "over"]
    over = [text for text in reversed(texts) if text.state == "over"]
    head = ("state", "text", "tokens", "tok/s", "a round", *_GLYPHS, "ms", "", "version", "at", "")
    versions = wide or len({text.figures.version for text in texts if text.figures is not None}) > 1
    rows = [_row(text, wide=wide, versions=versions) for text in (*now, *over)]
    title = _line(("texts", "bold"), f"{len(now)} now", f"{len(over)} over", "who wrote % of the tokens")
    return title, _table(head, rows, words_from=len(head) - 4)


def _row(text: TextView, *, wide: bool, versions: bool) -> list[Words]:
    figures, about = text.figures, text.why or text.reason
    state, name = _styled(text.state), text.id[-8:] if wide else ""
    if figures is None:
        return [state, name, *[""] * (len(_GLYPHS) + 7), about]
    shares, tokens = writers(figures), figures.tokens
    paced = figures.seconds - (figures.first_token or 0.0)
    if not about and figures.plan is not None:
        about = figures.plan.does
    return [
        state,
        name,
        f"{tokens:,}",
        f"{tokens / paced:.1f}" if tokens and paced > 0.2 else "",
        f"{tokens / figures.rounds:.1f}" if figures.rounds else "",
        *((f"{100 * share:.0f}" if share else "", style(writer)) for writer, share in shares.items()),
        "" if figures.rtt_ms is None else f"{figures.rtt_ms:.0f}",
        _bar(shares) if wide else "",
        figures.version if versions else "",
        figures.worker or "",
        (about, "red" if text.state == "over" and text.why else "yellow" if text.why else ""),
    ]


def writers(figures: TextFigures) -> dict[Writer, float]:
    """Shares of a text's tokens by who wrote them; they add up to 1, or are 0 before any token."""
    device = max(0, figures.accepted - figures.looked_up)
    counts: dict[Writer, int] = {
        "device": device,
        "lookup": figures.looked_up,
        "worker": figures.worker_accepted,
        "grammar": figures.forced,
    }
    counts["target"] = max(0, figures.tokens - sum(counts.values()))
    return {writer: count / max(1, sum(counts.values())) for writer, count in counts.items()}


def _bar(shares: dict[Writer, float]) -> Text:
    bar, end = Text(), 0.0
    for writer, share in shares.items():
        end += share
        bar.append(_GLYPHS[writer] * (round(_BAR * end) - len(bar)), style(writer))
    return bar


def _plan(version: VersionPlan, since: float) -> Section:
    plan = version.plan
    state = "a text is under way" if version.under_way else "the last text"
    age = "no tokens yet" if version.age_s is None else f"newest tokens {duration(version.age_s + since)} ago"
    sizes = f"run-ahead {plan.ahead}, worker's drafts {plan.worker_draft}, QoS {plan.qos}"
    body: list[RenderableType] = [
        _line(f"policy {plan.policy}", f"{sizes}, threshold {plan.confidence_threshold:g}", state, age),
    ]
    if version.alternatives:
        rows = [
            (
                "*" if other.chosen else " ",
                _number(other.ms_per_token),
                _number(other.j_per_token),
                other.name if other.allowed else f"{other.name} (beyond a limit)",
            )
            for other in version.alternatives
        ]
        body.append(_table(("", "ms/token", "J/token", "chosen among"), rows, words_from=3))
    body.append(_line(*_estimates(version)))
    return _line(("plan", "bold"), version.version, (plan.does, "bold")), *body


def _estimates(version: VersionPlan) -> Iterator[str]:
    """Estimates that the plan was made from; those without a value at the end."""
    unseen = []
    for name, estimate in version.estimates.items():
        if estimate.value is None:
            unseen.append(name)
            continue
        error = "" if estimate.error is None else f" ± {_number(estimate.error)}"
        tries = "" if estimate.tries is None else f" of {estimate.tries:.0f}"
        yield f"{name} {_number(estimate.value)}{error} {estimate.unit}{tries}"
    if unseen:
        yield f"not seen yet: {', '.join(unseen)}"


def _fleet(fleet: FleetView, since: float) -> Iterator[Section]:
    body: list[RenderableType] = []
    if fleet.blind:
        body.append(_line(("the broker lets this node read no worker's status", "yellow")))
    if fleet.workers:
        head = ("worker", "load", "ms", "age", "state", "verification", "target", "versions")
        body.append(_table(head, (_worker(worker, since) for worker in fleet.workers), words_from=4))
    if fleet.devices:
        body.append(
            _table(
                ("device", "texts", "state", "draft", "versions"), map(_device, fleet.devices), words_from=2
            )
        )
    counts = _count(len(fleet.workers), "worker"), _count(len(fleet.devices), "device")
    yield _line(("fleet", "bold"), *counts), *body
    if fleet.catalogue is not None:
        yield _catalogue(fleet)


def _worker(worker: WorkerView, since: float) -> list[Words]:
    status = worker.status
    return [
        status.worker,
        f"{status.load}/{status.capacity}",
        _number(status.forward_ms),
        duration(worker.age_s + since),
        _styled(status.state),
        status.exactness,
        _line(status.device, status.dtype, "" if status.weights == "native" else status.weights, between=" "),
        _line(*_versions(status), between=", "),
    ]


def _versions(status: WorkerStatus) -> Iterator[Words]:
    if not status.versions:
        yield status.version
    for version in status.versions:
        why = f" ({version.reason})" if version.reason else ""
        state = "" if version.state == "ready" else f" {version.state}"
        yield f"{version.name}{state}{why}", _STATES[version.state] if state else ""


def _device(status: EdgeStatus) -> list[Words]:
    waits = f"{_count(status.waiting, 'text')} waiting" if status.waiting else ""
    away = (
        status.outage and f"away for {duration(status.outage.seconds)} until {_moment(status.outage.ended)}"
    )
    versions = (
        f"{version.name}: {_count(version.answers, 'answer')}"
        + (f", {_count(version.errors, 'error')}" if version.errors else "")
        + (f", {version.accepted / version.drafted:.0%} accepted" if version.drafted else "")
        for version in status.versions
    )
    return [
        status.edge,
        str(status.sessions),
        _styled(status.state),
        status.draft,
        _line(*versions, waits, away or "", between="; "),
    ]


def _catalogue(fleet: FleetView) -> Section:
    catalogue = fleet.catalogue
    assert catalogue is not None  # noqa: S101  the caller looked
    left = catalogue.expires - time.time()
    until = f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago"
    body: list[RenderableType] = []
    if catalogue.alarm:
        body.append(_line((catalogue.alarm, "bold red")))
    if catalogue.refused:
        body.append(_line((f"{catalogue.refused} refused, the last: {catalogue.why}", "yellow")))
    if fleet.versions:
        head = ("version", "share", "workers", "state", "digest")
        rows = (
            (
                version.name,
                f"{version.share} %" if version.state == "canary" else "",
                str(version.workers),
                _styled(version.state),
                version.digest[:16],
            )
            for version in fleet.versions
        )
        body.append(_table(head, rows, words_from=3))
    body.extend(
        _line((_moment(change.epoch), "dim"), *(change.changes or ["signed anew"]), between="  ")
        for change in fleet.history
    )
    title = _line(
        ("catalogue", "bold"), catalogue.family, _styled(catalogue.state), until if catalogue.epoch else ""
    )
    return title, *body


def _moment(epoch: float) -> str:
    """A time by this machine's clock and zone."""
    try:
        return time.strftime("%m-%d %H:%M:%S", time.localtime(epoch))
    except (OverflowError, OSError, ValueError):
        return str(epoch)
