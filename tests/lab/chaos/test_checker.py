"""The checker believes histories that are right, and refuses each that has one thing wrong, by its rule."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lab.chaos.checker import Broken, check
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

PATIENCE, GRACE, WORKERS = 120.0, 30.0, ("w1", "w2")


@dataclass
class Drawn:
    """A right history: every text is answered, some after a restart of the device, beside faults."""

    rng: random.Random
    records: list[Record] = field(default_factory=list)
    at: float = 0.0

    def add(self, kind: Callable[..., Record], *fields: object, after: float = 0.5) -> None:
        self.at += self.rng.uniform(0.0, after)
        self.records.append(kind(self.at, *fields))

    def session(
        self, edge: str, session: int, seed: int, tokens: tuple[int, ...], restarts: int = 0, start: int = 0
    ) -> None:
        whose = edge, restarts, session
        self.add(Session, *whose, seed)
        self.add(Opened, *whose)
        while start < len(tokens):
            end = self.rng.randint(start + 1, len(tokens))
            self.add(Judged, *whose, "w1", start, end - start)
            self.add(Committed, *whose, start, tokens[start:end])
            start = end
        self.add(Finished, *whose, "length")


def drawn(seed: int) -> list[Record]:
    """A right history, of two texts at least."""
    rng = random.Random(seed)
    made = Drawn(rng)
    made.add(Began, seed, GRACE, WORKERS)
    for text in range(rng.randint(2, 4)):
        edge, many = rng.choice(("e1", "e2")), rng.randint(2, 9)
        tokens = tuple(1000 * text + number for number in range(many))
        words = [f"{token} " for token in tokens]
        made.add(Wanted, text, 77 + text, edge, tokens, "".join(words), "length")
        made.add(Asked, text, 1, PATIENCE, True, PROVISIONAL)
        session, restarts, start, attempt = 10 * text, rng.randrange(2), 0, 1
        if rng.random() < 0.5:  # its device is killed in the middle, and goes on with it, or begins anew
            had = rng.randrange(many)
            made.session(edge, session, 77 + text, tokens[:had], restarts)
            made.add(Piece, text, 1, words[0])
            made.add(Unverified, text, 1, 0, rng.choice((words[1], "nonsense")))
            made.add(Struck, 100 + text, "kill", edge)
            made.add(Ended, text, 1, "", 0, "connection", "refused")
            made.add(Healed, 100 + text, after=9.0)
            attempt, restarts = 2, restarts + 2
            session, start = rng.choice(((session, rng.randint(0, had)), (session + 1, 0)))
            if start and rng.random() < 0.5:  # an incarnation that is over before it has a token
                made.session(edge, session, 77 + text, (), restarts - 1)
            made.add(Asked, text, 2, PATIENCE, True, PROVISIONAL)
        made.add(Struck, text, rng.choice(("stop", "storm", "clock")), rng.choice((*WORKERS, "broker")))
        made.session(edge, session, 77 + text, tokens, restarts, start)
        for number, word in enumerate(words):
            guess = "".join(words[number : rng.randint(number, many)])
            made.add(Unverified, text, attempt, 0, guess, after=0.0)
            made.add(Piece, text, attempt, word)
        made.add(Healed, text)
        made.add(Ended, text, attempt, "length", many)
    made.add(Left, "w1", "live_sessions", 0.0, 0.0, after=9.0)
    return made.records


def last(history: list[Record], kind: type[Record]) -> int:
    return max(at for at, record in enumerate(history) if isinstance(record, kind))


def swap(kind: type[Record], **changes: object) -> Callable[[list[Record]], None]:
    """Change the last record of a kind; a change that is called gets the old value."""

    def change(history: list[Record]) -> None:
        at = last(history, kind)
        new = {name: to(getattr(history[at], name)) if callable(to) else to for name, to in changes.items()}
        history[at] = replace(history[at], **new)

    return change


def drop(kind: type[Record]) -> Callable[[list[Record]], None]:
    return lambda history: history.__delitem__(last(history, kind))


def twice(kind: type[Record]) -> Callable[[list[Record]], None]:
    return lambda history: history.insert(last(history, kind), history[last(history, kind)])


def failed(
    code: str, seconds: float, *, struck: str = "", named: bool = True, offline: str = PROVISIONAL
) -> Callable[[list[Record]], None]:
    """Let the last answer fail after some seconds, maybe with something broken meanwhile."""

    def change(history: list[Record]) -> None:
        del history[last(history, Ended) :]
        swap(Asked, named=named, offline=offline)(history)
        asked = history[last(history, Asked)]
        assert isinstance(asked, Asked)
        history[:] = [
            one
            for one in history
            if not (isinstance(one, Piece | Unverified) and one.text == asked.text)
            and not (isinstance(one, Struck | Healed) and one.fault == asked.text)  # drawn, of anybody
        ]
        if struck:
            history += [Struck(asked.at - 1, 900, "stop", struck), Healed(asked.at + seconds, 900)]
        history += [Ended(asked.at + seconds, asked.text, asked.attempt, "", 0, code, "why")]

    return change


def unverified(mode: str) -> Callable[[list[Record]], None]:
    """Tell the last user of unverified text before the end."""

    def change(history: list[Record]) -> None:
        swap(Asked, offline=mode)(history)
        end = history[last(history, Ended)]
        assert isinstance(end, Ended)
        history.insert(last(history, Ended), Unverified(end.at, end.text, end.attempt, 0, "more "))

    return change


def behind_nothing(history: list[Record]) -> None:
    """A new process goes on with the last session behind a token more than this one committed."""
    done = history[last(history, Committed)]
    assert isinstance(done, Committed)
    new = {"restarts": done.restarts + 9}
    of = next(
        one
        for one in history
        if isinstance(one, Session) and (one.edge, one.session) == (done.edge, done.session)
    )
    history += [replace(of, **new), replace(done, start=done.start + len(done.tokens) + 1, **new)]


def foreign(history: list[Record]) -> None:
    """The last user gets what belongs to the first."""
    wanted, mine = history[1], history[last(history, Piece)]
    assert isinstance(wanted, Wanted)
    assert isinstance(mine, Piece)
    others = [one for one in history if not isinstance(one, Piece | Unverified) or one.text != mine.text]
    history[:] = [*others, replace(mine, piece=wanted.written.partition(" ")[0] + " ")]


def apart(history: list[Record]) -> None:
    """Both workers hang, but one after the other: somebody is healthy all the time."""
    failed("no_worker", 125.0)(history)
    asked, end = history[last(history, Asked)], history[-1]
    middle = asked.at + 60
    history[-1:] = [
        Struck(asked.at - 1, 900, "stop", "w1"), Healed(middle, 900),
        Struck(middle + 6, 901, "stop", "w2"), Healed(end.at, 901), end,
    ]  # fmt: skip


WRONG: dict[str, tuple[Broken, Callable[[list[Record]], None]]] = {
    "a piece is missing": (Broken.LOST, drop(Piece)),
    "a piece comes twice": (Broken.INEXACT, twice(Piece)),
    "a piece is another": (Broken.INEXACT, swap(Piece, piece="no ")),
    "an answer has no end": (Broken.LOST, drop(Ended)),
    "an answer ends twice": (Broken.DOUBLED, twice(Ended)),
    "an end counts otherwise": (Broken.INEXACT, swap(Ended, tokens=lambda tokens: tokens + 1)),
    "an end has another reason": (Broken.INEXACT, swap(Ended, reason="stop")),
    "tokens are committed twice": (Broken.DOUBLED, twice(Committed)),
    "tokens are not committed": (Broken.LOST, swap(Committed, start=lambda start: start + 99)),
    "other tokens are committed": (
        Broken.INEXACT, swap(Committed, tokens=lambda tokens: tuple(token + 1 for token in tokens)),
    ),
    "tokens after the end": (
        Broken.DOUBLED, lambda history: history.insert(last(history, Finished) + 1, history[last(history, Committed)]),
    ),
    "a session of nobody": (Broken.FOREIGN, drop(Session)),
    "a session begins twice": (Broken.DOUBLED, twice(Session)),
    "a session at another device": (Broken.FOREIGN, swap(Session, edge=lambda edge: f"{edge}x")),
    "a piece of another answer": (Broken.FOREIGN, foreign),
    "a verdict of another session": (Broken.FOREIGN, swap(Judged, session=999)),
    "a verdict beyond the end": (Broken.FOREIGN, swap(Judged, count=lambda count: count + 1)),
    "a piece that nobody wants": (Broken.FOREIGN, swap(Piece, text=99)),
    "a text is not asked for": (
        Broken.LOST, lambda history: history.append(Wanted(9e9, 50, 50, "e1", (1,), "1 ", "length")),
    ),
    "a failure without a type": (Broken.UNTYPED, failed("internal", 125.0, struck="broker")),
    "a device hangs up for nothing": (Broken.UNTYPED, failed("connection", 125.0, struck="w1")),
    "a failure before its time": (Broken.IMPATIENT, failed("no_worker", 40.0, struck="broker")),
    "a failure after its time": (Broken.LATE, failed("no_worker", 151.0, struck="broker")),
    "a failure beside a healthy worker": (Broken.HEALTHY, failed("no_worker", 125.0, struck="w1")),
    "a failure while workers hang in turn": (Broken.HEALTHY, apart),
    "a refusal beside a healthy worker": (Broken.HEALTHY, failed("no_worker", 9.0, struck="w1", named=False)),
    "a refusal that takes its time": (Broken.LATE, failed("no_worker", 40.0, struck="broker", named=False)),
    "a provisional end that was not allowed": (
        Broken.UNTYPED, failed("provisional", 125.0, struck="broker", offline="hold"),
    ),
    "a provisional end beside a healthy worker": (Broken.HEALTHY, failed("provisional", 125.0, struck="w1")),
    "unverified text that nobody asked for": (Broken.FOREIGN, unverified("deliver")),
    "unverified text in an answer": (Broken.INEXACT, unverified(PROVISIONAL)),
    "a session goes on behind what was never there": (Broken.LOST, behind_nothing),
    "silence": (Broken.SILENT, swap(Ended, at=lambda at: at + GRACE + 20)),
    "a place that is kept": (Broken.KEPT, swap(Left, value=1.0)),
}  # fmt: skip


@given(st.integers(0, 2**32))
def test_a_right_history_is_believed(seed: int) -> None:
    judged = check(drawn(seed))
    assert judged.violations == []
    assert judged.figures["answers"] >= 2


@pytest.mark.parametrize("wrong", WRONG)
@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_one_thing_that_is_wrong_is_found_by_its_rule(wrong: str, seed: int) -> None:
    history = drawn(seed)
    rule, change = WRONG[wrong]
    change(history)
    assert rule in {violation.rule for violation in check(history).violations}


@pytest.mark.parametrize(("target", "measured"), [("broker", [3.0]), ("e2", [3.0]), ("e1", []), ("w1", [])])
def test_time_from_a_fault_to_the_next_piece_is_measured(target: str, measured: list[float]) -> None:
    history: list[Record] = [
        Began(0.0, 0, GRACE, WORKERS),
        Wanted(0.0, 0, 77, "e2", (5, 6), "5 6 ", "length"),
        Asked(1.0, 0, 1, PATIENCE), Piece(1.5, 0, 1, "5 "), Struck(2.0, 0, "stop", target), Healed(4.0, 0),
        Piece(7.0, 0, 1, "6 "), Ended(7.5, 0, 1, "length", 2),
    ]  # fmt: skip
    judged = check(history)
    assert judged.violations == []
    assert [seconds for each in judged.back.values() for seconds in each] == measured
    history[6:6] = [Struck(6.0, 1, "cut", "broker"), Healed(6.0, 1)]
    assert [seconds for each in check(history).back.values() for seconds in each] == [1.0]


@pytest.mark.parametrize("code", ["no_worker", PROVISIONAL])
@pytest.mark.parametrize(("seconds", "named"), [(125.0, True), (2.0, False)])
@given(st.integers(0, 2**32))
def test_a_failure_is_borne_where_nobody_could_be_reached_for_its_patience(
    code: str, seconds: float, named: bool, seed: int
) -> None:
    history = drawn(seed)
    failed(code, seconds, struck="broker", named=named)(history)
    assert {violation.rule for violation in check(history).violations} == {Broken.LOST}
