"""The table of a text: its rows, and any order of what can happen."""

from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_node.text.machine import TABLE, End, Text, TextEffect, TextEvent, TextState
from edge_node.text.spec import IdempotencyKey, TextSpec
from flexspec_mq.errors import FlexSpecError, LinkDown, WorkerError
from flexspec_mq.protocol.table import UnexpectedEvent

KEY = IdempotencyKey("k", b"digest")
DONE, ALONE = End("stop"), End("provisional")
UNREACHED, FAILED = End(None, error=LinkDown("away")), End(None, error=FlexSpecError("no"))
ENDS = (DONE, ALONE, UNREACHED, FAILED, End(None, error=WorkerError("none")))
FIRST = {TextEffect.ANSWER, TextEffect.FAILURE, TextEffect.PARK}
DISK = {*FIRST, TextEffect.FORGET}
NEVER = {
    *product(set(TextState) - {TextState.QUEUED}, [TextEvent.BEGIN]),
    *product(
        [TextState.QUEUED], [TextEvent.WAIT, TextEvent.CONFIRMED, TextEvent.PROVISIONAL, TextEvent.ENDED]
    ),
    *product(
        [TextState.QUEUED, TextState.OPENING, TextState.WRITING, TextState.ALONE], [TextEvent.PERSISTED]
    ),
    (TextState.PARKED, TextEvent.READER),
}
"""Events that only an error of ours brings into a state."""


def text(key: IdempotencyKey | None = KEY, *, readers: int = 0, new: bool = True, wait: float = 0.0) -> Text:
    made = Text(TextSpec(prompt="x", wait=wait), key, name="t", age=100.0, new=new)
    for _ in range(readers):
        made.read()
    made.begin()
    return made


def test_every_event_has_a_row_in_every_state_where_it_can_come() -> None:
    rows = {(row.state, row.event) for row in TABLE}
    assert rows == {*product(TextState, TextEvent)} - NEVER
    with pytest.raises(UnexpectedEvent):
        text().begin()


@pytest.mark.parametrize(
    ("end", "given", "first"),
    [
        (DONE, {}, TextEffect.ANSWER),
        (DONE, {"readers": 1}, TextEffect.ANSWER),
        (FAILED, {}, TextEffect.FAILURE),
        (FAILED, {"readers": 1}, TextEffect.FORGET),
        (FAILED, {"readers": 1, "new": False}, TextEffect.FORGET),
        (UNREACHED, {"readers": 1}, TextEffect.FORGET),
        (UNREACHED, {"readers": 1, "new": False}, TextEffect.QUEUE),
        (UNREACHED, {"wait": 100.0}, TextEffect.PARK),
        (UNREACHED, {"wait": 99.0}, TextEffect.QUEUE),
        (ALONE, {"readers": 1}, TextEffect.FORGET),
        (ALONE, {"wait": 100.0}, TextEffect.PARK),
    ],
)
def test_what_the_journal_has_to_have_of_an_end(
    end: End, given: dict[str, object], first: TextEffect
) -> None:
    made = text(**given)  # type: ignore[arg-type]
    assert made.ended(end, 1.0) == [first]
    assert (made.end is None) == (first in FIRST)  # nobody is told before
    if made.end is None:
        made.persisted()
    assert made.end == end
    assert made.state is (TextState.PARKED if first is TextEffect.PARK else TextState.OVER)


@pytest.mark.parametrize("end", ENDS)
def test_a_text_without_a_key_concerns_no_journal(end: End) -> None:
    made = text(None, readers=1)
    assert made.ended(end, 0.0) == []
    assert made.end == end
    assert made.was_read() == []


def test_an_answer_counts_as_read_when_it_is_whole() -> None:
    made = text(readers=1)
    assert made.was_read() == []
    made.ended(DONE, 0.0)
    made.persisted()
    assert made.was_read() == [TextEffect.NOTE_READ]


def test_provisional_text_is_eaten_by_what_the_target_writes() -> None:
    made = text()
    made.unverified("abc")
    made.confirmed([("ab", "target")])
    assert (made.whole, made.provisional) == ("ab", "c")
    made.confirmed([("x", "target")])
    assert (made.whole, made.provisional) == ("abx", "")


def test_a_broken_node_writes_its_texts_on_later() -> None:
    made = text(readers=1)
    assert made.ended(FAILED, 0.0, goes_on=True) == []
    assert made.end == FAILED


def test_only_a_text_that_nobody_reads_and_nobody_begins_ages() -> None:
    assert text().aged() == [TextEffect.STOP, TextEffect.PARK]
    read = text(readers=1)
    assert read.aged() == []
    assert read.left(100.0) == []
    read.read()
    assert read.left(100.1) == [TextEffect.STOP, TextEffect.PARK]
    begun = text()
    begun.confirmed([("a", "target")])
    assert begun.aged() == []


class AnyOrder(RuleBasedStateMachine):
    """A text, its readers, a disk that answers when it likes, and a node that may stop."""

    def __init__(self) -> None:
        super().__init__()
        self.key: IdempotencyKey | None = None
        self.text: Text | None = None
        self.now = 0.0
        self.readers = 0
        self.confirmed = ""
        self.disk = {"request"}
        self.on_the_way: TextEffect | None = None
        self.stopped = self.dropped = False

    def does(self, effects: list[TextEffect]) -> None:
        for effect in effects:
            if effect is TextEffect.STOP:
                assert not self.stopped
                self.stopped = True
            elif effect in FIRST and self.live:
                assert self.on_the_way is None
                self.on_the_way = effect
            elif effect in DISK:
                self.wrote(effect)

    def wrote(self, effect: TextEffect) -> None:
        if effect is TextEffect.FORGET:
            assert self.dropped or self.readers, "nobody is told"
            self.disk.clear()
        else:
            self.disk.add(effect.name)

    @property
    def live(self) -> bool:
        """Whether its end is not told yet."""
        return self.text is not None and self.text.end is None

    @precondition(lambda self: self.text is None)
    @rule(keyed=st.booleans(), new=st.booleans(), wait=st.sampled_from([0.0, 100.0]))
    def ask(self, keyed: bool, new: bool, wait: float) -> None:
        self.key = KEY if keyed else None
        self.text = Text(TextSpec(prompt="x", wait=wait), self.key, name="t", age=50.0, new=new)
        self.read()
        self.text.begin()

    @precondition(lambda self: self.text is not None and self.text.state is not TextState.PARKED)
    @rule()
    def read(self) -> None:
        assert self.text is not None
        self.does(self.text.read())
        self.readers += 1

    @precondition(lambda self: self.readers > 0)
    @rule(later=st.sampled_from([0.0, 60.0]))
    def leave(self, later: float) -> None:
        assert self.text is not None
        self.now += later
        self.readers -= 1
        self.does(self.text.left(self.now))

    @precondition(lambda self: self.text is not None)
    @rule(word=st.text("ab", max_size=3))
    def confirm(self, word: str) -> None:
        assert self.text is not None
        if self.live and self.text.state is not TextState.ENDING:
            self.confirmed += word
        self.does(self.text.confirmed([(word, "target")]))

    @precondition(lambda self: self.text is not None)
    @rule(word=st.text("ab", max_size=3))
    def write_alone(self, word: str) -> None:
        assert self.text is not None
        self.does(self.text.unverified(word))

    @precondition(lambda self: self.text is not None and not self.stopped)
    @rule(end=st.sampled_from(ENDS))
    def end(self, end: End) -> None:
        assert self.text is not None
        self.does(self.text.ended(end, self.now))

    @precondition(lambda self: self.on_the_way is not None and not self.stopped)
    @rule()
    def reach_the_disk(self) -> None:
        assert self.text is not None
        assert self.on_the_way is not None
        self.wrote(self.on_the_way)
        self.on_the_way = None
        self.does(self.text.persisted())

    @precondition(lambda self: self.text is not None)
    @rule()
    def age(self) -> None:
        assert self.text is not None
        self.does(self.text.aged())

    @precondition(lambda self: self.key is not None and not self.dropped)
    @rule()
    def drop(self) -> None:
        assert self.text is not None
        self.dropped = True
        self.does(self.text.dropped())

    @precondition(lambda self: self.text is not None)
    @rule()
    def stop_the_node(self) -> None:
        assert self.text is not None
        self.does(self.text.node_stops())

    @invariant()
    def an_end_is_on_the_disk_before_anybody_is_told(self) -> None:
        if self.text is not None and self.key is not None and self.text.settled and not self.dropped:
            assert "ANSWER" in self.disk

    @invariant()
    def nothing_is_lost_unless_somebody_was_told(self) -> None:
        if self.key is not None and not self.disk:
            assert self.text is not None
            assert self.dropped or (self.text.end is not None and not self.text.settled)

    @invariant()
    def provisional_text_is_never_content(self) -> None:
        if self.text is not None:
            assert self.text.whole == self.confirmed
            assert self.text.readers == self.readers

    @invariant()
    def nobody_writes_for_nobody(self) -> None:
        if self.text is not None and self.key is None and not self.readers:
            assert self.text.end is not None


TestAnyOrder = AnyOrder.TestCase
