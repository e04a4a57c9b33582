"""Answers in simulated time: the text is the recorded one whatever happens; MQTT there, and links that change."""

from dataclasses import replace

import msgspec
import pytest

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.protocol.effects import Send
from lab.simulator.answers import LIKE_OURS, Policies, Setting
from lab.simulator.channel import SimulatedMqtt, publish_size
from lab.simulator.clock import SimulatedClock
from lab.simulator.cost import TargetForward
from lab.simulator.recording import SimulatedText
from lab.simulator.simulation import Simulation, simulate
from lab.testbed.link.profiles import LinkPlan, Outage, Profile, built_in
from schemas.messages import Close, Draft, Error, Fin, Open, Poll, Verdict
from tests.lab.link.plans import figures, plan
from tests.lab.simulator.recordings import LIMIT, TIMES, random_recording

RECORDING = random_recording(prompt=40)
SETTING = Setting(recording=RECORDING, times=TIMES)
STREAMING = Plan(0, 1, 1, 256)
CLASSIC = Plan(4, 1, 0)


def link(name: str, seed: int = 0) -> LinkPlan:
    return LinkPlan(name, built_in().get(name), seed)


def fixed(plan: Plan) -> Policies:
    return lambda: FixedPolicy(plan)


def seconds(answers: list[SimulatedText]) -> float:
    return sum(answer.seconds for answer in answers)


_LINKS = [None, *built_in().profiles]


@pytest.mark.parametrize(
    ("name", "policy", "qos"),
    [*((name, "closed-form", number % 3) for number, name in enumerate(_LINKS)),
     *(("4g-weak", policy, qos) for policy in POLICIES for qos in (0, 1, 2))],
)  # fmt: skip
def test_every_text_is_the_recorded_one_over_every_link(name: str | None, policy: str, qos: int) -> None:
    base = Plan(4, 1, qos, 8, 0.0, 4)
    setting = replace(SETTING, link=None if name is None else link(name))
    for answer in simulate(setting, lambda: POLICIES[policy](base), begins_s=[7.0 * n for n in range(6)]):
        assert answer.problem == ""
        assert answer.tokens in (LIMIT, LIMIT // 2 + 1)
        assert 0.0 < answer.first <= answer.seconds
        counters = answer.counters
        assert counters.accepted <= counters.judged <= counters.proposed


def test_a_stream_over_loopback_takes_its_steps() -> None:
    whole = msgspec.structs.replace(RECORDING, texts=RECORDING.texts[1:2])
    setting = replace(SETTING, recording=whole, drafts=False)
    (answer,) = simulate(setting, fixed(STREAMING))
    step = (TIMES.token + TIMES.step) / 1000
    # The prompt is read in pieces, the last of which decides the first token.
    assert answer.seconds - answer.first == pytest.approx((LIMIT - 1) * step, abs=0.001)
    assert answer.first > TIMES.forward(TargetForward(0, 0, 39)) / 1000
    assert answer.counters.rounds == LIMIT
    assert answer.counters.proposed == 0


def test_drafts_cut_round_trips_where_they_are_long() -> None:
    perfect = random_recording(right=1.0, prompt=10)
    setting = replace(SETTING, recording=perfect, link=link("satellite-geo"))
    asked = simulate(replace(setting, drafts=False), fixed(Plan(0, 1, 0)))
    drafted = simulate(setting, fixed(CLASSIC))
    streamed = simulate(replace(setting, drafts=False), fixed(STREAMING))
    assert seconds(streamed) < seconds(drafted) < 0.5 * seconds(asked)
    assert all(answer.counters.accepted for answer in drafted)


def test_a_worker_that_drafts_takes_fewer_rounds() -> None:
    kind = replace(LIKE_OURS, rationed=False)
    setting = replace(SETTING, drafts=False, worker=kind)
    answers = simulate(setting, fixed(replace(STREAMING, worker_draft=4)))
    assert sum(answer.counters.rounds for answer in answers) < sum(answer.tokens for answer in answers)


def test_other_sessions_cost_time_and_no_text() -> None:
    setting = replace(SETTING, drafts=False)
    alone = simulate(setting, fixed(STREAMING))
    crowded = simulate(replace(setting, others=4, settle=2.0), fixed(STREAMING))
    assert {answer.problem for answer in crowded} == {""}
    assert seconds(crowded) > 1.1 * seconds(alone)


def test_all_policies_of_a_channel_meet_the_same_piece_of_it() -> None:
    setting = replace(SETTING, link=link("4g-moving"), drafts=False)
    texts = RECORDING.texts[1:3]
    once = simulate(setting, fixed(STREAMING), texts, [50.0, 300.0])
    # Whatever came before, and whoever was asked.
    again = simulate(setting, fixed(STREAMING), [*texts, *texts], [10.0, 20.0, 50.0, 300.0])[2:]
    for one, other in zip(once, again, strict=True):
        assert one.seconds == pytest.approx(other.seconds, rel=0.05)


def test_a_policy_keeps_what_was_learned_from_text_to_text() -> None:
    first: list[Plan] = []

    class Noted(ClosedFormPolicy):
        def plan(self, seen: Observation) -> Plan:
            plan = super().plan(seen)
            if seen.committed == 0:
                first.append(plan)
            return plan

    texts = RECORDING.texts[:2]
    simulate(replace(SETTING, link=link("satellite")), lambda: Noted(Plan(ahead=8, worker_draft=8)), texts)
    # The first text begins with nothing known, the other with the round trip of that.
    assert first[0] != first[-1]


def test_a_worker_without_a_draft_may_look_up() -> None:
    """Texts that begin as their prompts: what follows is found."""
    repeated = [
        msgspec.structs.replace(text, prompt=text.prompt + 2 * text.tokens) for text in RECORDING.texts[:4]
    ]
    recording = msgspec.structs.replace(RECORDING, texts=tuple(repeated))

    def rounds(lookup: bool) -> int:
        worker = replace(LIKE_OURS, drafts=False, lookup=lookup)
        setting = replace(SETTING, recording=recording, drafts=False, worker=worker)
        answers = simulate(setting, fixed(Plan(0, 1, 1, 64, worker_draft=8)))
        assert {answer.problem for answer in answers} == {""}
        return sum(answer.counters.rounds for answer in answers)

    assert rounds(True) < 0.5 * rounds(False)


def test_near_a_slow_target_without_a_draft_the_worker_is_told_to_wait_for_the_devices() -> None:
    setting = Setting(
        recording=random_recording(texts=6, right=0.6, limit=96),
        times=msgspec.structs.replace(TIMES, token=90.0),
        link=link("wifi"),
        worker=replace(LIKE_OURS, drafts=False, lookup=False),
    )
    waiting = seconds(simulate(setting, fixed(CLASSIC)))
    assert waiting < 0.93 * seconds(simulate(setting, fixed(Plan(4, 3, 1, 64))))
    # This draft is as sure of each token as of any other, so that ending batches early gains nothing, and costs the
    # token that is drafted and dropped.
    assert seconds(simulate(setting, lambda: ClosedFormPolicy(Plan(4, 1, 1, 8, 0.0, 8)))) < 1.1 * waiting


DELAY, BROKER = 0.05, 0.0001
LINK = plan(figures(delay=1000 * DELAY, rate=1000.0))


class Echo:
    """A device, and a worker that answers each draft with a verdict at once."""

    name = "edge01"

    def __init__(self, link: LinkPlan) -> None:
        self.clock = SimulatedClock()
        self.came: list[float] = []
        self.channel = SimulatedMqtt(self.clock, self, Worker(self), link, BROKER)

    def receive(self, message: Verdict | Error) -> None:
        assert isinstance(message, Verdict)
        self.came.append(self.clock.now)

    def ask(self, qos: int) -> None:
        self.channel.send(Send("wk01", Draft(7, 1, 1, 100, 0, 9, (1, 2, 3), 0), qos, 2.0))
        while self.clock.step():
            pass


class Worker:
    """Hands drafts to an `Echo`."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        assert (edge, version) == (self._echo.name, None)
        assert isinstance(message, Draft)
        self._echo.channel.answer(Verdict(7, 1, 1, 100, (1, 2, 3, 4), 9, Fin.NONE, 2, 50), qos)


@pytest.mark.parametrize(("qos", "trips"), [(0, 1), (1, 1), (2, 2)])
def test_each_quality_of_service_takes_its_round_trips(qos: int, trips: int) -> None:
    echo = Echo(LINK)
    echo.ask(qos)
    assert echo.came == [pytest.approx(trips * 2 * DELAY + 2 * BROKER, abs=0.001)]


def test_an_outage_holds_what_it_meets_until_it_ends() -> None:
    echo = Echo(LinkPlan("away", LINK.profile, lasts_s=(100.0,), outages=(Outage(0.0, 8.0),)))
    echo.ask(1)
    assert echo.came == [pytest.approx(8.0 + 2 * DELAY, abs=0.01)]


def test_bytes_of_a_publish() -> None:
    # Fixed header 2, topic 2 + 11, properties 1, payload.
    assert publish_size("f1/v/edge01", 40, 0, None) == 2 + 13 + 1 + 40
    assert publish_size("f1/v/edge01", 40, 1, 2.0) == 2 + 13 + 2 + 6 + 40
    assert publish_size("f1/v/edge01", 20_000, 2, None) == 4 + 13 + 2 + 1 + 20_000


BASE = Plan(4, 1, 1, 8, worker_draft=8)


def setting(link: LinkPlan, tokens: int, *, worker_drafts: bool) -> Setting:
    """Simulation of a long text, for which the draft proposes seven tokens in ten right."""
    worker = replace(LIKE_OURS, drafts=worker_drafts, lookup=worker_drafts)
    recording = random_recording(1, seed=5, limit=tokens, ends=False)
    return Setting(recording=recording, times=TIMES, link=link, worker=worker)


def test_a_device_that_left_its_draft_unused_over_a_satellite_uses_it_again_over_wifi() -> None:
    ways = built_in().get("satellite-geo").states[0], built_in().get("wifi").states[0]
    link = LinkPlan("over the hill", Profile("one, then the other", ways), 2, lasts_s=(15.0, 100.0))
    plans: list[tuple[float, Plan]] = []

    class Noted(ClosedFormPolicy):
        def plan(self, seen: Observation) -> Plan:
            plans.append((simulation.now, super().plan(seen)))
            return plans[-1][1]

    tour = setting(link, 900, worker_drafts=False)
    simulation = Simulation(tour, lambda: Noted(BASE))
    assert simulation.answer(tour.recording.texts[0], 0.0).problem == ""
    drafts = [at for at, plan in plans if plan.draft_length > 1 and at > 15.0]
    assert not any(plan.draft_length > 1 for at, plan in plans if 5.0 < at < 15.0)
    # The round trip is asked for every two seconds, and again at once where it looks like a step.
    assert drafts[0] < 15.0 + 2.0 + 2 * 0.65 + 1.0


def in_a_tunnel(until: float, policy: str | Plan, *, worker_drafts: bool) -> tuple[float, float]:
    """Seconds that a text takes over a mobile link, and where that is away from its third second on."""
    whole = LinkPlan("whole", built_in().get("4g"), 1, lasts_s=(1000.0,))
    away = msgspec.structs.replace(whole, outages=(Outage(2.0, until),))
    seconds = []
    for link in (whole, away):
        (answer,) = simulate(
            setting(link, 330, worker_drafts=worker_drafts),
            lambda: FixedPolicy(policy) if isinstance(policy, Plan) else POLICIES[policy](BASE),
            begins_s=[0.0],
        )
        assert answer.problem == ""
        seconds.append(answer.seconds)
    assert seconds[0] > until, "the outage lies within the text"
    return seconds[0], seconds[1]


@pytest.mark.parametrize("policy", ["closed-form", "rl"])
def test_a_worker_without_a_draft_writes_on_while_a_device_that_drafts_is_in_a_tunnel(policy: str) -> None:
    whole, away = in_a_tunnel(6.0, policy, worker_drafts=False)
    # The outage of four seconds costs no more than the gain by drafts and the time to reconnect.
    assert away < whole + 1.5


def test_a_worker_that_drafts_alone_writes_on_while_its_device_is_in_a_tunnel() -> None:
    whole, away = in_a_tunnel(4.0, "closed-form", worker_drafts=True)
    _, short = in_a_tunnel(4.0, Plan(0, 1, 1, 32, worker_draft=8), worker_drafts=True)
    assert away < whole + 0.5
    assert away < short - 1.0
