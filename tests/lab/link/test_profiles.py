"""Profiles, complete and checked; channels whose states take turns, set to any moment; and recorded ones."""

import gzip
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.cli import main
from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.profiles import LinkPlan, Outage, Profile, all_figures, built_in, load_catalogue
from lab.testbed.link.recorded import STALL, recorded
from lab.testbed.link.timeline import StatesInTurn, outages_of
from tests.lab.link.plans import figures, plan, state

QUICK = Profile("at once", (state(figures(delay=1)),))


@given(
    st.lists(st.floats(0.001, 20), min_size=1, max_size=12),
    st.lists(st.floats(0, 5000), min_size=1, max_size=30),
)
def test_states_in_turn_follow_one_another_over_and_over(lasts: list[float], times: list[float]) -> None:
    states = StatesInTurn(lasts)
    period = sum(lasts)
    for time in times:
        index, ends = states.at(time)
        assert time < ends <= time + lasts[index] + 1e-6
        assert (ends - sum(lasts[: index + 1])) / period == pytest.approx(
            round((ends - sum(lasts[: index + 1])) / period), abs=1e-6
        )
        assert states.at(ends)[1] > ends


def test_a_channel_that_begins_later_is_the_same_channel() -> None:
    states = state(figures(delay=1), "quick"), state(figures(delay=100), "slow")
    for begins in (0.0, 7001.5):
        impaired = Impairment(plan(None, *states, lasts_s=(2.0, 3.0), begins_s=begins), "up")
        period = begins // 5 * 5
        times = [period + 1.9, period + 2.1]
        arrivals = [period + 1.901, period + 2.2]
        assert [impaired.arrive(time, 100) for time in times] == pytest.approx(arrivals, abs=1e-3)


def test_what_is_drawn_for_packets_hangs_on_where_the_channel_begins() -> None:
    def fates(begins: float) -> list[bool]:
        impaired = Impairment(plan(figures(loss=50), seed=3, begins_s=begins), "up")
        return [isinstance(impaired.arrive(begins + number, 100), float) for number in range(64)]

    assert fates(10.0) == fates(10.0)
    assert fates(10.0) != fates(11.0), "alike by chance once in 2**64"
    assert fates(0.0) != fates(10.0)


def test_outages_come_again_with_the_period_and_must_end_within_it() -> None:
    twice = LinkPlan("test", QUICK, lasts_s=(9.0,), outages=(Outage(1.0, 2.0),))
    assert outages_of(twice, "up").between(0.0, 20.0) == [(1.0, 2.0), (10.0, 11.0), (19.0, 20.0)]
    with pytest.raises(ValueError, match="within the period"):
        outages_of(LinkPlan("test", QUICK, outages=(Outage(1.0, 2.0),)), "up").touching(0.0, 3.0)


WRITTEN = """
[sources]
me = "measured"
[profiles.mine]
about = "mine"
[[profiles.mine.states]]
name = "steady"
up = { delay_ms = { value = 1, source = "me" }, jitter_ms = { value = 0, source = "me" }, rate_mbit = { value = 1, source = "me" }, loss_percent = { value = 0, source = "me" }, queue_kb = { value = 10, source = "me" } }
down = { delay_ms = { value = 1, source = "me" }, jitter_ms = { value = 0, source = "me" }, rate_mbit = { value = 1, source = "me" }, loss_percent = { value = 0, source = "me" }, queue_kb = { value = 10, source = "me" } }
"""  # noqa: E501

STATE = WRITTEN[WRITTEN.index("[[profiles") :]
LONGEST_IS_SHORTER = """
shortest_s = { value = 2, source = "me" }
longest_s = { value = 1, source = "me" }
"""


def test_every_source_is_used_and_says_more_than_a_name() -> None:
    catalogue = built_in()
    used = {one.source for profile in catalogue.profiles.values() for one in all_figures(profile)}
    assert used == set(catalogue.sources)
    assert all(len(text) > 40 for text in catalogue.sources.values())


def test_the_round_trip_is_that_of_the_source() -> None:
    for name, round_trip in (
        ("5g", 18.85),
        ("4g", 21.0),
        ("4g-weak", 71.6),
        ("satellite", 44.0),
        ("satellite-geo", 627.0),
    ):
        steady = built_in().get(name).states[0]
        means = [way.delay_ms.value + way.jitter_ms.value for way in (steady.up, steady.down)]
        assert sum(means) == pytest.approx(round_trip, abs=0.1)


def test_the_command_prints_what_it_can_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["link", "profiles"]) == 0
    (own := tmp_path / "own.toml").write_text(capsys.readouterr().out, "utf-8")
    assert load_catalogue(own) == built_in()
    assert main(["link", "profiles", "--profiles-file", str(own)]) == 0
    own.write_text("[sources", "utf-8")
    assert main(["link", "profiles", "--profiles-file", str(own)]) == 2


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[sources]", "[sources", "does not hold link profiles"),
        ('name = "steady"', 'nam = "steady"', "does not hold link profiles"),
        ("delay_ms = { value = 1", "delay_ms = { value = -1", "does not hold link profiles"),
        ('me = "measured"', "", "no source is given for me"),
        ("rate_mbit = { value = 1", "rate_mbit = { value = 0", "rate must be above 0"),
        ("loss_percent = { value = 0", "loss_percent = { value = 101", "up to 100 percent"),
        ("queue_kb = { value = 10", "queue_kb = { value = 1", "at least one packet"),
        ('name = "steady"', 'name = "steady"\nnext = { other = 1.0 }', "a state that is not there"),
        (
            'about = "mine"',
            'about = "mine"\n[profiles.mine.outages]\ngap_s.value = 1\ngap_s.source = "me"\n'
            + LONGEST_IS_SHORTER,
            "outages need",
        ),
        (STATE, STATE + STATE, "two states have the same name"),
        (STATE, STATE + STATE.replace("steady", "other"), "needs a mean dwell time"),
    ],
)
def test_what_makes_no_sense_is_refused(old: str, new: str, why: str, tmp_path: Path) -> None:
    assert old in WRITTEN
    path = tmp_path / "mine.toml"
    path.write_text(WRITTEN.replace(old, new))
    with pytest.raises(UsageError, match=why):
        load_catalogue(path)


def test_the_example_in_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "lab" / "README.md").read_text("utf-8")
    path = tmp_path / "example.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    assert load_catalogue(path).get("depot").outages is not None


BASE = plan(figures(delay=7.0)).profile
GAPS = st.lists(st.integers(1, 4000), min_size=4, max_size=40)


def write(folder: Path, up: list[int], down: list[int]) -> Path:
    for way, times in (("up", up), ("down", down)):
        lines = "".join(f"{time}\n" for time in times)
        (folder / f"train.{way}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / "train"


def test_rates_are_those_of_each_second_and_way(tmp_path: Path) -> None:
    up, down = [*range(0, 1000, 10), *range(1000, 3001, 100)], [*range(0, 3001, 5)]
    made = recorded(write(tmp_path, up, down), BASE)
    assert made.lasts_s == (1.0, 1.0, 1.0)
    packet = 1500 * 8 / 1e6
    states = made.profile.states
    assert [one.up.rate_mbit.value for one in states] == pytest.approx(
        [100 * packet, 10 * packet, 10 * packet]
    )
    assert [one.down.rate_mbit.value for one in states] == pytest.approx([200 * packet] * 3)
    assert {one.down.delay_ms.value for one in states} == {7.0}
    assert not made.outages


@given(GAPS, GAPS, st.lists(st.floats(0.0, 1.0), min_size=20))
def test_nothing_passes_in_the_long_gaps_of_either_way_and_only_there(
    tmp_path_factory: pytest.TempPathFactory, up: list[int], down: list[int], moments: list[float]
) -> None:
    ways = [*accumulate(up)], [*accumulate(down)]
    if min(ways[0][-1], ways[1][-1]) < 1000:
        return
    made = recorded(write(tmp_path_factory.mktemp("recording"), *ways), BASE)
    lasts = len(made.lasts_s)
    long = [
        (a / 1000, b / 1000)
        for way in ways
        for a, b in pairwise(way)
        if b - a > 1000 * STALL and b < 1000 * lasts
    ]
    for moment in moments:
        at = moment * lasts
        told = any(one.starts_s < at < one.ends_s for one in made.outages)
        assert told >= any(a < at < b for a, b in long)
        assert told <= any(a <= at <= b for a, b in long)
    assert all(one.ends_s < other.starts_s for one, other in pairwise(made.outages))


def test_a_file_that_holds_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.up\.gz"):
        recorded(tmp_path / "train", BASE)
    with pytest.raises(UsageError, match="no second"):
        recorded(write(tmp_path, [1, 2], [1, 2]), BASE)
