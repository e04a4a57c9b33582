"""Rules that a history proves: answers complete, exact, once; failures typed, in time; nothing foreign; all given back.

Nothing but the history is looked at. A rule that is broken is a `Violation`; figures say how much there was to break.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise, takewhile
from math import inf

from lab.chaos.history import (
    PROVISIONAL,
    Asked,
    Began,
    Committed,
    Ended,
    Finished,
    Healed,
    Judged,
    Left,
    Opened,
    Piece,
    Record,
    Session,
    Struck,
    Unverified,
    Wanted,
)

TYPED = frozenset(
    (
        "workers_busy",
        "too_many_texts",
        "no_worker",
        "broker_unreachable",
        "stopping",
        "deadline",
        "overloaded",
        PROVISIONAL,
    )
)
"""Codes that a failure may have; others are faults of ours, or of what was asked."""
_BREAKS = frozenset(("kill", "stop", "blackhole", "away", "up", "down", "cut"))
"""Kinds of faults during which a daemon or its link does not work; all others are to be borne."""
_REFUSED = frozenset(("no_worker", "broker_unreachable", PROVISIONAL))
"""Codes of requests that cannot begin and name no patience."""
_SETTLES = 2.0
"""Seconds after a fault within which a daemon is not called healthy yet."""
_HEALTHY = 10.0
"""Seconds for which a device, the broker and one worker were healthy together: then no text may fail."""

Span = tuple[float, float]


class Broken(StrEnum):
    """Rule that is broken."""

    LOST = "lost"
    DOUBLED = "doubled"
    INEXACT = "inexact"
    FOREIGN = "foreign"
    UNTYPED = "untyped"
    IMPATIENT = "falsely ended"
    HEALTHY = "failed beside a healthy worker"
    LATE = "late"
    SILENT = "silent"
    KEPT = "not given back"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that is broken, and by what."""

    rule: Broken
    what: str


@dataclass(slots=True)
class Judgement:
    """Outcome of a check.

    Attributes:
        violations: rules that are broken.
        figures: how much there was.
        silences: seconds without a piece while a device, the broker and a worker were healthy, the longest of each
            answer.
        back: seconds from the end of a fault of the broker or a device to the next piece of each answer under way,
            by fault.
    """

    violations: list[Violation] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    silences: list[float] = field(default_factory=list)
    back: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def broken(self, rule: Broken, what: str) -> None:
        """Note a broken rule."""
        self.violations.append(Violation(rule, what))


@dataclass(slots=True)
class _Attempt:
    asked: Asked
    pieces: list[tuple[float, str]] = field(default_factory=list)
    provisional: str = ""
    ended: list[Ended] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    def take(self, piece: Piece) -> None:
        self.pieces.append((piece.at, piece.piece))
        agrees = self.provisional.startswith(piece.piece)
        self.provisional = self.provisional[len(piece.piece) :] if agrees else ""


@dataclass(slots=True)
class _Session:
    name: str
    text: Wanted
    kept: int
    had: int = 0
    over: bool = False
    left: bool = False


def check(history: Sequence[Record]) -> Judgement:
    """Judge a history, whose records are in the order of their times."""
    began = next(record for record in history if isinstance(record, Began))
    found = Judgement()
    wanted = {record.text: record for record in history if isinstance(record, Wanted)}
    spans = _spans(history, began)
    edges = {one.edge for one in wanted.values()}
    broken = {edge: _joined([*spans[edge], *spans["broker"], *_all(spans, began.workers)]) for edge in edges}
    attempts = _attempts(history, wanted, found)
    for text, tries in attempts.items():
        _check_text(found, wanted[text], tries, wanted)
        for number, attempt in tries.items():
            name = f"text {text}, attempt {number}"
            edge = wanted[text].edge
            _check_end(found, name, attempt, began, broken[edge], spans[edge])
    for text in wanted.keys() - attempts.keys():
        found.broken(Broken.LOST, f"text {text} was never asked for")
    check_sessions(history, wanted, found)
    _measure_back(found, history, attempts, {text: one.edge for text, one in wanted.items()})
    for record in history:
        if isinstance(record, Left) and record.value > record.most:
            what = f"{record.daemon}: {record.figure} is {record.value:g}, at most {record.most:g}"
            found.broken(Broken.KEPT, what)
    return found


Attempts = dict[int, dict[int, _Attempt]]


def _attempts(history: Iterable[Record], wanted: dict[int, Wanted], found: Judgement) -> Attempts:
    attempts: Attempts = defaultdict(dict)
    for record in history:
        if isinstance(record, Asked) and record.text in wanted:
            attempts[record.text][record.attempt] = _Attempt(record)
        elif isinstance(record, Asked | Piece | Unverified | Ended):
            attempt = attempts.get(record.text, {}).get(record.attempt)
            if attempt is None:
                found.broken(Broken.FOREIGN, f"an answer to text {record.text}, which nobody wanted")
            elif isinstance(record, Piece):
                attempt.take(record)
                if attempt.ended:
                    found.broken(Broken.DOUBLED, f"text {record.text}: a piece after the end")
            elif isinstance(record, Unverified):
                _check_unverified(found, attempt, record, wanted[record.text])
            elif isinstance(record, Ended):
                attempt.ended.append(record)
    return attempts


def _check_unverified(found: Judgement, attempt: _Attempt, told: Unverified, wanted: Wanted) -> None:
    """Unverified text is told only to who asked for it; how much of it is right is a figure."""
    if attempt.asked.offline != PROVISIONAL:
        found.broken(Broken.FOREIGN, f"text {told.text}: unverified text, which nobody asked for")
    attempt.provisional = attempt.provisional[: told.begins] + told.piece
    right = wanted.written[len(attempt.text) + told.begins :]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(told.piece, right, strict=False)))
    found.figures.update({"unverified characters": len(told.piece), "right of these": same})


def _check_text(
    found: Judgement, wanted: Wanted, tries: dict[int, _Attempt], others: dict[int, Wanted]
) -> None:
    """A text is answered once; what came of it in failed attempts is how it begins."""
    name = f"text {wanted.text}"
    whole = [
        (attempt, end) for attempt in tries.values() for end in attempt.ended if end.reason or not end.code
    ]
    found.figures.update(answers=bool(whole), attempts=len(tries), failed_attempts=len(tries) - len(whole))
    if not whole:
        last = max(tries.items())[1].ended
        found.broken(Broken.LOST, f"{name}: {f'{last[-1].code}, {last[-1].why}' if last else 'no end'}")
    if len(whole) > 1:
        found.broken(Broken.DOUBLED, f"{name} was answered {len(whole)} times")
    for attempt in tries.values():
        ends = [end for tried, end in whole if tried is attempt]
        if ends and attempt.provisional:
            found.broken(Broken.INEXACT, f"{name} ended with unverified text, {attempt.provisional[-60:]!r}")
        if attempt.text == wanted.written if ends else wanted.written.startswith(attempt.text):
            continue
        _name_difference(found, f"{name}: {attempt.text[-60:]!r}", attempt.text, wanted, others)
    for _, end in whole:
        found.figures.update(tokens=end.tokens)
        if (end.reason, end.tokens) != (wanted.reason, len(wanted.tokens)):
            right = f"{wanted.reason} after {len(wanted.tokens)}"
            found.broken(Broken.INEXACT, f"{name} ended with {end.reason} after {end.tokens}, not {right}")


def _name_difference(
    found: Judgement, what: str, text: str, wanted: Wanted, others: dict[int, Wanted]
) -> None:
    """Name what differs: the text is another's, or lacks its end, or is a wrong one."""
    if any(text and other.written.startswith(text) for other in others.values() if other is not wanted):
        found.broken(Broken.FOREIGN, what)
    elif wanted.written.startswith(text):
        found.broken(Broken.LOST, what)
    else:
        found.broken(Broken.INEXACT, what)


def _check_end(
    found: Judgement, name: str, attempt: _Attempt, began: Began, broken: list[Span], device: list[Span]
) -> None:
    """An attempt ends, typed, not before its patience is over, nor long after it; and is never silent for long."""
    end = attempt.ended[0] if attempt.ended else None
    if len(attempt.ended) > 1:
        found.broken(Broken.DOUBLED, f"{name} ended {len(attempt.ended)} times")
    if end is None:
        return  # told as lost, where no other attempt answered
    times = [attempt.asked.at, *(at for at, _ in attempt.pieces), end.at]
    silence = max(
        (later - earlier - _overlap(broken, (earlier, later)) for earlier, later in pairwise(times))
    )
    found.silences.append(max(0.0, silence))
    if silence > began.grace:
        found.broken(Broken.SILENT, f"{name}: {silence:.1f} s")
    if end.reason or not end.code:
        return
    said = f"{name}: {end.code} after {end.at - attempt.asked.at:.1f} s ({end.why})"
    found.figures.update({f"ended with {end.code}": 1})
    restarted = end.code == "connection" and _holds(device, end.at)
    if restarted or (
        end.code == "outbox" and not attempt.pieces and end.why.split(" (")[0].endswith("is full")
    ):
        return  # a request that cannot be kept is not taken
    if end.code not in TYPED or (end.code == PROVISIONAL != attempt.asked.offline):
        found.broken(Broken.UNTYPED, said)
    waited, asked = end.at - times[-2], attempt.asked
    refused = not (asked.named or attempt.pieces) and end.code in _REFUSED
    if not refused and waited < asked.patience:
        found.broken(Broken.IMPATIENT, said)
    if waited > (0.0 if refused else asked.patience) + began.grace:
        found.broken(Broken.LATE, said)
    healthy = [b - a for a, b in _between(broken, (attempt.asked.at, end.at))]
    if not _holds(broken, end.at) if refused else any(seconds >= _HEALTHY for seconds in healthy):
        found.broken(Broken.HEALTHY, said)


def check_sessions(history: Iterable[Record], wanted: dict[int, Wanted], found: Judgement) -> None:
    """A device's sessions commit the text of their seed, token by token, and hear of nobody else's.

    A process that goes on with a session which ended before its text did, or whose process was killed, begins behind
    tokens that were committed then.

    Args:
        history: records in the order of their times.
        wanted: texts, by their numbers.
        found: told of what is broken, and counts.
    """
    texts = {one.seed: one for one in wanted.values()}
    sessions: dict[tuple[str, int, int], _Session] = {}
    newest: dict[tuple[str, int], _Session] = {}
    for record in history:
        if not isinstance(record, Session | Opened | Judged | Committed | Finished):
            continue
        key = record.edge, record.restarts, record.session
        name = f"session {record.session} of {record.edge} ({record.restarts})"
        if isinstance(record, Session):
            text = texts.get(record.seed)
            if key in sessions and not sessions[key].left:
                found.broken(Broken.DOUBLED, f"{name} was begun twice")
            elif text is None or text.edge != record.edge:
                found.broken(Broken.FOREIGN, f"{name}: nobody wants this text there")
            else:
                before = newest.get((record.edge, record.session))
                kept = max(before.had, before.kept) if before else 0  # one that was killed at once had none
                newest[record.edge, record.session] = sessions[key] = _Session(name, text, kept)
        elif key not in sessions:
            found.broken(Broken.FOREIGN, f"{name} was never begun: {type(record).__name__.lower()}")
        else:
            _check_session(found, sessions[key], record)


def _check_session(found: Judgement, session: _Session, record: Record) -> None:
    name, right = f"{session.name}, text {session.text.text}", session.text.tokens
    if isinstance(record, Opened):
        found.figures.update(opens=1)
    elif isinstance(record, Judged):
        found.figures.update(verdicts=1)
        if record.start + record.count > len(right):
            found.broken(Broken.FOREIGN, f"{name}: a verdict beyond its end")
    elif isinstance(record, Finished):
        session.over, session.left = True, record.reason not in ("eos", "stop", "length")
    elif isinstance(record, Committed):
        end, at = record.start + len(record.tokens), f"{name}: tokens from {record.start} on"
        if not session.had and record.start <= session.kept:
            session.had = record.start  # of an earlier process
        if record.start < session.had or session.over:
            found.broken(Broken.DOUBLED, f"{at}, after {'its end' if session.over else session.had}")
        elif record.start > session.had:
            found.broken(Broken.LOST, f"{at}, after {session.had}")
        elif record.tokens != right[record.start : end]:
            found.broken(Broken.INEXACT, f"{at} are others")
        session.had = end
        found.figures.update(committed=len(record.tokens))


def _spans(history: Iterable[Record], began: Began) -> dict[str, list[Span]]:
    """Spans in which a daemon or its link did not work, or not yet again, by daemon."""
    open_, spans = {}, defaultdict[str, list[Span]](list)
    last = began.at
    for record in history:
        last = record.at
        if isinstance(record, Struck) and record.kind in _BREAKS:
            open_[record.fault] = record
        elif isinstance(record, Healed) and (struck := open_.pop(record.fault, None)) is not None:
            spans[struck.target].append((struck.at, record.at + _SETTLES))
    for struck in open_.values():
        spans[struck.target].append((struck.at, last))
    return spans


def _all(spans: dict[str, list[Span]], daemons: Sequence[str]) -> list[Span]:
    """When none of the daemons worked."""
    nobody = _joined(spans[daemons[0]])
    for daemon in daemons[1:]:
        met = [(max(a, c), min(b, d)) for a, b in nobody for c, d in _joined(spans[daemon])]
        nobody = _joined([(a, b) for a, b in met if a < b])
    return nobody


def _measure_back(
    found: Judgement, history: Sequence[Record], attempts: Attempts, edges: dict[int, str]
) -> None:
    """Measure what came next of each answer that a fault of broker or device met, unless another was there by then."""
    struck = {one.fault: one for one in history if isinstance(one, Struck) and one.kind in _BREAKS}
    ends = {one.fault: one.at for one in history if isinstance(one, Healed)}
    tried = [(edges[text], one) for text, tries in attempts.items() for one in tries.values()]
    for fault in struck.values():
        end = ends.get(fault.fault, inf)
        for edge, attempt in tried if fault.target in {"broker", *edges.values()} else ():
            times = [*(at for at, _ in attempt.pieces), *(ended.at for ended in attempt.ended)]
            after = min((at for at in times if at > end), default=None)
            others = (
                one for one in struck.values() if one.target not in edges.values() or one.target == edge
            )
            if (
                after is not None
                and attempt.asked.at < fault.at
                and fault.target in {"broker", edge}
                and not any(
                    one.at < after and ends.get(one.fault, inf) > end for one in others if one is not fault
                )
            ):
                target = "broker" if fault.target == "broker" else "device"
                found.back[f"{target} {fault.kind}"].append(after - end)


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _holds(spans: Iterable[Span], at: float) -> bool:
    return any(begin <= at <= end for begin, end in spans)


def _overlap(spans: Iterable[Span], within: Span) -> float:
    return sum(max(0.0, min(end, within[1]) - max(begin, within[0])) for begin, end in spans)


def _between(spans: Sequence[Span], within: Span) -> list[Span]:
    """Parts of `within` that are in none of the spans, which are joined."""
    ends = [within[0], *(end for _, end in spans)]
    begins = [*(begin for begin, _ in spans), within[1]]
    cut = ((max(a, within[0]), min(b, within[1])) for a, b in zip(ends, begins, strict=True))
    return [(a, b) for a, b in cut if a < b]
