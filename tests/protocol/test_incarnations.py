"""Which process of a name a status is of, whatever clocks say."""

from typing import Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flexspec_mq.protocol.incarnations import Incarnation, Incarnations, incarnation_of
from schemas.status import WorkerStatus

State = Literal["online", "draining", "gone"]


def status(state: State, incarnation: int, epoch: int = 5) -> WorkerStatus:
    return WorkerStatus(state=state, epoch=epoch, at=0.0, worker="w", life=incarnation)


@pytest.mark.parametrize(
    ("seen", "word", "news"),
    [
        pytest.param([], ("online", 1), True, id="the first"),
        pytest.param([], ("gone", 1), True, id="the first, and it is gone"),
        pytest.param([("online", 1)], ("online", 1), True, id="a heartbeat"),
        pytest.param([("online", 1)], ("gone", 1), True, id="its will"),
        pytest.param([("online", 1), ("gone", 1)], ("online", 1), True, id="it is connected again"),
        pytest.param([("online", 1)], ("online", 2), True, id="it was started anew"),
        pytest.param([("online", 1)], ("draining", 2), True, id="another drains already"),
        pytest.param([("online", 2)], ("gone", 1), False, id="the will of one that we never saw"),
        pytest.param([("online", 1), ("online", 2)], ("gone", 1), False, id="the will of the one before"),
        pytest.param([("online", 1), ("online", 2)], ("online", 1), False, id="two of one name"),
        pytest.param(
            [("online", 1), ("online", 2), ("gone", 2)], ("online", 1), True, id="one of two has ended"
        ),
    ],
)
def test_what_is_news(seen: list[tuple[State, int]], word: tuple[State, int], news: bool) -> None:
    incarnations = Incarnations()
    for one in seen:
        incarnations.take(status(*one))
    before = incarnations.current, incarnations.gone
    assert incarnations.take(status(*word)) is news
    after = incarnations.current, incarnations.gone
    assert after == ((Incarnation(word[1], 5), word[0] == "gone") if news else before)


def test_one_that_was_taken_over_from_is_heard_again_when_the_other_is_silent() -> None:
    incarnations = Incarnations()
    for number in (1, 2):
        incarnations.take(status("online", number))
    assert not incarnations.take(status("online", 1))
    assert incarnations.take(status("online", 1), silent=True)
    assert incarnations.current == Incarnation(1, 5)


def test_releases_without_a_number_are_told_apart_by_their_start() -> None:
    incarnations = Incarnations()
    assert incarnations.take(status("online", 0, epoch=9))
    assert not incarnations.take(status("gone", 0, epoch=3))
    assert incarnations.take(status("online", 0, epoch=3))
    assert incarnation_of(status("online", 0, epoch=3)) == Incarnation(0, 3)


class Restarts(RuleBasedStateMachine):
    """A worker that is started again and again under any clock, and edges that listen from some moment on.

    The broker hands on what it is given in order. The will of an incarnation comes when it ends, or any time later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.epoch = 0
        self.living = False
        self.wills: list[WorkerStatus] = []
        self.edges: list[Incarnations] = []

    def publish(self, word: WorkerStatus) -> None:
        for edge in self.edges:
            edge.take(word)

    @rule(clock=st.integers(0, 2**53))
    def start(self, clock: int) -> None:
        """Also where one lives still: the broker then ends its connection, whose will comes late."""
        if self.living:
            self.wills.append(status("gone", self.number, self.epoch))
        self.number, self.epoch, self.living = self.number + 1, clock, True
        self.speak("online")

    @precondition(lambda self: self.living)
    @rule(state=st.sampled_from(["online", "draining"]))
    def speak(self, state: State) -> None:
        self.publish(status(state, self.number, self.epoch))

    @precondition(lambda self: self.living)
    @rule(late=st.booleans())
    def die(self, late: bool) -> None:
        self.living = False
        will = status("gone", self.number, self.epoch)
        if late:
            self.wills.append(will)
        else:
            self.publish(will)

    @precondition(lambda self: self.wills)
    @rule(data=st.data())
    def a_will_comes_late(self, data: st.DataObject) -> None:
        self.publish(self.wills.pop(data.draw(st.integers(0, len(self.wills) - 1))))

    @rule()
    def listen(self) -> None:
        """The retained status of the moment comes first; a worker that lives renews it soon."""
        edge = Incarnations()
        self.edges.append(edge)
        if self.wills:
            edge.take(self.wills[-1])
        if self.living:
            self.speak("online")

    @invariant()
    def who_listens_knows_who_lives(self) -> None:
        """Nobody is taken for gone who lives, and the newest is the one that speaks."""
        late = {will.life for will in self.wills}
        for edge in self.edges:
            if self.living:
                assert edge.current == Incarnation(self.number, self.epoch)
                assert not edge.gone
            elif edge.current is not None and self.number not in late and edge.current.number == self.number:
                assert edge.gone


TestRestarts = Restarts.TestCase
