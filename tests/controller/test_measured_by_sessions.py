"""Estimates fed by real sessions and a real node."""

import random

import msgspec
import pytest

from edge_node.settings import PlanOptions
from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.estimators.worker import StatedTimes, WorkerEstimates
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.controller.session import Added, SessionController
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import DraftToken, SessionRequest
from flexspec_mq.protocol.effects import Send
from lab.simulator.world import identity
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import Draft, Open, Poll, Verdict
from tests.controller.observed import but
from tests.daemons import FakeDrafter, check, edge_at, until, wanting, worker_at
from tests.protocol.builders import PROMPT, verdict

LIMIT = 5000
TEXT = tuple(100 + place for place in range(LIMIT))
WRONG = 99


class Script:
    """A session at a scripted worker, which runs no forward but when it is asked; messages take `way` both ways."""

    def __init__(
        self,
        estimates: NodeEstimates,
        plan: Plan | Policy,
        *,
        way: float = 0.05,
        start: float = 0.0,
        number: int = 1,
        worker: str = "w",
    ) -> None:
        request = SessionRequest(session=number, version="v", identity=identity(limit=LIMIT), prompt=PROMPT)
        policy = FixedPolicy(plan) if isinstance(plan, Plan) else plan
        self.machine = EdgeSession(request, policy, random.Random(1), estimates=estimates)
        self.now, self.way, self.number = start, way, number
        self.sent: list[Open | Draft | Poll] = []
        self.take(self.machine.start(start))
        self.now += way
        self.take(self.machine.receive(self.answer((), 0, 0, worker=worker), self.now))

    @property
    def seen(self) -> Observation:
        return self.machine.observation

    @property
    def worker(self) -> WorkerEstimates:
        return self.machine._control.worker

    def take(self, effects: object) -> None:
        assert isinstance(effects, list)
        self.sent += [
            effect.message
            for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message, Open | Draft | Poll)
        ]

    def answer(self, tokens: tuple[int, ...], queue: int, compute: int, **fields: object) -> Verdict:
        reply = verdict(self.machine.committed, tokens, ident=identity(limit=LIMIT))
        if fields.get("worker"):
            fields["lease"] = 60
        return msgspec.structs.replace(
            reply, session=self.number, echo=self.sent[-1].seq, queue=queue, compute=compute, **fields
        )

    def draft(self, right: int, wrong: int = 0, each: float = 0.0) -> None:
        """Draft tokens of the text, and then some that are not."""
        for place in range(right + wrong):
            wanted = self.machine.draft_request()
            assert wanted is not None
            token = TEXT[wanted.start] if place < right else WRONG
            self.now += each
            self.take(self.machine.drafted(wanted.start, wanted.digest, DraftToken(token), self.now))

    def decide(self, count: int, queue: int = 0, compute: int = 40, **fields: object) -> None:
        """The worker decides so many tokens, and they come."""
        have = len(self.machine.committed)
        self.now += self.way + (queue + compute) / 1000
        self.take(
            self.machine.receive(self.answer(TEXT[have : have + count], queue, compute, **fields), self.now)
        )


def read(estimates: NodeEstimates, plan: Plan, **how: object) -> Script:
    """A session whose prompt was read."""
    script = Script(estimates, plan, **how)  # type: ignore[arg-type]
    script.decide(1, 0, 900)
    return script


def test_after_an_accept_nothing_but_the_round_trip_is_told() -> None:
    seen = Script(NodeEstimates(), Plan(4)).seen
    assert seen.rtt == pytest.approx(0.05)
    assert seen == but(
        Observation(),
        rtt=seen.rtt,
        rtt_deviation=seen.rtt_deviation,
        disconnects=seen.disconnects,
        remaining=seen.remaining,
        prompt=seen.prompt,
    )


def test_a_round_gives_a_sample_of_all_that_it_shows() -> None:
    script = read(NodeEstimates(), Plan(4))
    for _ in range(3):
        script.draft(2, 2, each=0.01)
        script.decide(3, 10, 40)
    seen = script.seen
    assert seen.rtt == pytest.approx(0.05)
    assert seen.queue == pytest.approx(0.01)
    assert script.worker.compute.mean == pytest.approx(0.04), (
        "the forward that read the prompt does not count"
    )
    told = script.machine._control.estimates()
    assert all((told[name].error or 0.0) > 0.0 for name in ("rtt", "queue_mean", "compute_mean"))


def test_a_forward_takes_no_longer_than_one_for_which_the_worker_drafted() -> None:
    """Prompts are short: the only forwards without drafts are those in which the worker's draft reads them."""
    node = NodeEstimates()
    for number in range(6):
        script = read(node, Plan(0, ahead=8, worker_draft=8), number=number)
        script.decide(1, 0, 95)
        assert not script.seen.worker.has_read
        for _ in range(6):
            script.decide(3, 0, 40, drafted=2)
        assert script.seen.worker.has_read
    assert script.seen.forward == pytest.approx(0.04, rel=0.2)


def test_an_answer_to_a_poll_tells_the_round_trip_and_nothing_of_forwards() -> None:
    script = read(NodeEstimates(), Plan(0, ahead=256, worker_draft=8, trip_age=5.0))
    for _ in range(6):
        script.decide(3, 0, 50, drafted=4)
    assert not any(isinstance(one, Poll) for one in script.sent)
    script.now += 5.0
    script.decide(3, 0, 50, drafted=4)
    assert isinstance(script.sent[-1], Poll)
    before, have = script.seen, len(script.machine.committed)
    # It comes at once, although a forward has been under way for 30 ms, and brings a token that waited to be sent.
    script.now += script.way + 0.03
    script.take(script.machine.receive(script.answer(TEXT[have : have + 1], 30, 0), script.now))
    after = script.seen
    assert before.rtt == pytest.approx(0.05)
    assert after.rtt is not None
    assert after.rtt > 0.053, "nothing of the 30 ms more was the worker's"
    assert (after.queue, after.forward, after.worker) == (before.queue, before.forward, before.worker)


@pytest.mark.parametrize(("in_flight", "count", "known"), [(2, 4, (2.0, 2.0, 0.0)), (1, 3, (2.0, 1.0, 0.0))])
def test_each_batch_begins_at_its_own_first_place_sent_or_not(
    in_flight: int, count: int, known: tuple[float, ...]
) -> None:
    script = read(NodeEstimates(), Plan(2, in_flight))
    script.draft(count)
    script.decide(count)
    assert script.machine._control.version.acceptance.known[:3] == known


def test_what_a_session_saw_is_known_to_the_next_one() -> None:
    estimates = NodeEstimates()
    first = read(estimates, Plan(4))
    for _ in range(10):
        first.draft(3, 1, each=0.01)
        first.decide(4, 5, 40)
    next_one = Script(estimates, Plan(4), start=first.now, number=2)
    for name in ("rtt", "forward", "queue", "acceptance", "judged", "draft_time"):
        assert getattr(next_one.seen, name) == getattr(first.seen, name), name


def test_texts_that_share_a_round_of_the_drafter_share_its_time() -> None:
    node = NodeEstimates()
    node.drafting = 2
    read(node, Plan(4)).draft(4, each=0.02)
    assert node.draft_time.mean == pytest.approx(0.01)


def test_a_token_that_comes_too_late_tells_how_long_the_draft_takes() -> None:
    """Else a draft of which each token is late would never be timed, and be asked for more for ever."""
    node = NodeEstimates()
    script, read_at = read(node, Plan(4, ahead=8)), 0.0
    for late in (0.9, 0.1, 0.1):  # the first one, as the prompt is read for it, from the beginning on
        asked = script.machine.draft_request()
        assert asked is not None
        began = script.now
        script.decide(1, 0, 40)
        script.now = began + late
        script.take(script.machine.drafted(asked.start, asked.digest, DraftToken(WRONG), script.now))
        read_at = read_at or script.now
    assert script.machine.counters.stale == 3
    assert node.draft_time.mean == pytest.approx(0.1)
    assert Script(node, Plan(4), number=2).seen.reading == pytest.approx(read_at)
    unread = SessionController(node, FixedPolicy(Plan(4)), RoundTrip(), "v", 10)
    unread.begin(None, script.now)
    unread.ended(0, 1, 0)
    assert Script(node, Plan(4), number=3).seen.reading == pytest.approx(0.9 * read_at), (
        "not believed for good"
    )


def test_one_slow_moment_of_the_device_keeps_its_draft_away_for_a_while_only() -> None:
    script = Script(NodeEstimates(), PlanOptions().new_policy(), way=0.001)
    script.decide(1, 0, 900)

    def rounds(most: int, each: float) -> int:
        """Rounds until the device stops or begins to draft."""
        begins = script.machine.plan.draft_length == 0
        for count in range(most):
            length = script.machine.plan.draft_length
            if (length == 0) != begins:
                return count
            script.draft(length, each=each)
            script.decide(length + 1)
        return most

    assert rounds(40, 0.004) == 40
    assert rounds(8, 0.6) < 8, "the draft comes too late"
    assert 10 < rounds(1000, 0.004) < 1000, "it is tried again"
    assert rounds(40, 0.004) == 40


def test_what_is_known_of_a_worker_and_of_a_version_is_theirs_alone() -> None:
    estimates = NodeEstimates()
    first = read(estimates, Plan(4))
    for _ in range(10):
        first.draft(4)
        first.decide(5, 5, 40)
    other = Script(estimates, Plan(4), start=first.now, number=2, worker="other")
    assert (other.seen.forward, other.worker.compute.mean) == (0.0, None)
    assert other.seen.acceptance == first.seen.acceptance
    script = SessionRequest(session=3, version="other", identity=identity(), prompt=PROMPT)
    machine = EdgeSession(script, FixedPolicy(Plan(4)), random.Random(1), estimates=estimates)
    machine.start(first.now)
    assert machine.observation.acceptance == Observation().acceptance


async def test_a_node_counts_the_connections_that_it_loses() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"), edge_at(broker.link, drafter=FakeDrafter()) as node:
        (generation,) = await check(node, [wanting(1, plan=Plan(4, 2, 1))])
        disconnects = generation.machine._control.node.disconnects
        before = disconnects.rate
        broker.cut("e-edge")
        await until(lambda: not node.link.is_up)
        await until(lambda: node.link.is_up)
        (again,) = await check(node, [wanting(2, plan=Plan(4, 2, 0))])
        assert again.machine._control.node.disconnects is disconnects
        assert disconnects.rate > before


def test_that_a_worker_drafts_nothing_says_nothing_while_its_draft_reads_the_prompt() -> None:
    """Eleven pieces ride along with as many forwards, the last one to its end: twelve say nothing."""

    def asked(*drafted: int) -> int:
        control = SessionController(NodeEstimates(), FixedPolicy(Plan(4)), RoundTrip(), "v", 650)
        for one in drafted:
            told = msgspec.structs.replace(verdict((), (7,)), drafted=one)
            control.took(told, Added(), 0.0, mine=True, may=True)
        return control.worker.drafts.verdicts

    assert asked(*[0] * 12) == 0
    assert asked(*[0] * 14) == 2
    assert asked(0, 0, 3) == 1


def test_a_first_answer_that_an_outage_held_back_is_no_round_trip() -> None:
    assert Script(NodeEstimates(), Plan(4), way=8.0).seen.rtt is None


def test_what_a_worker_says_of_its_times_holds_until_they_are_measured() -> None:
    node = NodeEstimates()
    node.stated("w", StatedTimes(0.5, 0.01, 0.03), 0.0)
    node.stated("other", StatedTimes(9.0), 0.0)
    assert node.worker(None, 0.0).stated == StatedTimes(), (
        "a worker that no session is at is no worker that is known"
    )
    script = Script(node, Plan(4, 1))
    seen = script.seen
    assert (seen.forward, seen.row_cost, seen.draft_time, seen.draft_timed) == (0.5, 0.01, 0.03, False)
    script.decide(1, 0, 900)  # reads the prompt
    script.decide(1)
    assert script.seen.forward == pytest.approx(0.04)
    assert script.seen.row_cost == 0.01, "which nothing here measures"


@pytest.mark.parametrize(
    ("forward", "token", "counts"),
    [
        (0.01, 0.004, False),
        (0.02, 0.006, True),
        (0.06, 0.009, False),
        (0.06, 0.011, True),
        (None, 0.006, True),
    ],
)
def test_a_token_of_the_workers_draft_is_free_below_5_ms_or_a_sixth_of_a_forward(
    forward: float | None, token: float, counts: bool
) -> None:
    node = NodeEstimates()
    node.stated("w", StatedTimes(forward, 0.001, token), 0.0)
    assert Script(node, Plan(4, 1)).seen.worker.token == (token if counts else 0.0)


def test_one_of_the_sessions_at_a_worker_asks_for_its_round_trip() -> None:
    node = NodeEstimates()
    first, second = (Script(node, Plan(0, ahead=8), number=number) for number in (1, 2))
    asks = [
        script.machine._control.wants_trip(2.0, 10.0 + number)
        for number, script in enumerate((first, second, first))
    ]
    assert asks == [True, False, True]


def test_only_where_the_worker_waited_for_drafts_their_wait_is_one_for_others() -> None:
    for ahead, waits in ((0, True), (64, False)):
        script = read(NodeEstimates(), Plan(2, ahead=ahead))
        for _ in range(20):
            script.draft(2)
            script.decide(3, 30, 40)
        assert (script.seen.queueing_delay > 0.02) == waits
