"""A link that is one profile after another."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.netns import netns_link
from lab.testbed.link.plans import Leg, legs_of, link_plan, tour_plan
from lab.testbed.link.profiles import Catalogue, LinkPlan, Outage, Profile, built_in
from lab.testbed.link.timeline import outages_of
from tests.lab.link.pings import ECHO, PING
from tests.lab.link.plans import OUTAGES, figures, needs_namespaces, state

SLOW = Profile("late", (state(figures(delay=300)),))
QUICK = Profile("at once", (state(figures(delay=1)),))
MINE = Catalogue({"test": "a test"}, {"slow": SLOW, "quick": QUICK})


def test_legs_follow_one_another() -> None:
    assert legs_of("tour:wifi=20,tunnel=40.5,wifi=1") == (
        Leg("wifi", 0.0, 20.0),
        Leg("tunnel", 20.0, 60.5),
        Leg("wifi", 60.5, 61.5),
    )


@pytest.mark.parametrize(
    "name", ["tour:", "tour:wifi", "tour:wifi=", "tour:=3", "tour:wifi=0", "tour:wifi=-1", "tour:wifi=inf",
             "tour:wifi=nan", "tour:wifi=3,", "tour:wifi=3;4g=3"]
)  # fmt: skip
def test_a_name_that_is_no_tour_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no leg of a tour"):
        legs_of(name)


def test_a_leg_is_a_profile_that_there_is() -> None:
    with pytest.raises(UsageError, match="3g"):
        link_plan("tour:wifi=3,3g=3", 0, None)
    assert link_plan("tour:quick=3", 0, None, MINE).profile.states[0].up == QUICK.states[0].up
    with pytest.raises(UsageError, match="quick"):
        link_plan("tour:quick=3", 0, None)


def test_each_leg_has_the_link_of_its_profile_and_the_tour_begins_anew() -> None:
    made = tour_plan("tour:quick=10,slow=5", 0, MINE)
    assert (made.name, made.recorded_s) == ("tour:quick=10,slow=5", 15.0)
    impaired = Impairment(made, "up")
    times = (0.0, 9.0, 10.5, 14.0, 15.5, 24.0, 25.5)
    delays = [out - time for time in times if not isinstance(out := impaired.arrive(time, 100), Drop)]
    assert delays == pytest.approx([0.001, 0.001, 0.3, 0.3, 0.001, 0.001, 0.3], abs=0.001)


def test_a_leg_whose_channel_changes_has_states_of_its_profile_for_its_time() -> None:
    made = link_plan("tour:wifi=7,4g-moving=300,wifi=7", 1, None)
    of_leg = list(zip(made.profile.states, made.lasts_s, strict=True))[1:-1]
    assert sum(seconds for _, seconds in of_leg) == pytest.approx(300)
    moving = built_in().get("4g-moving").states
    titles = [one.name.partition(", ")[2] for one, _ in of_leg]
    assert set(titles) == {"good", "fair", "poor"}
    assert all(one != other for one, other in itertools.pairwise(titles))
    by_name = {one.name: one for one in moving}
    for (one, _), title in zip(of_leg, titles, strict=True):
        assert (one.up, one.down) == (by_name[title].up, by_name[title].down)
    assert len({one.name for one in made.profile.states}) == len(made.profile.states)
    assert made == link_plan("tour:wifi=7,4g-moving=300,wifi=7", 1, None), "a seed gives one tour"
    assert made.lasts_s != link_plan("tour:wifi=7,4g-moving=300,wifi=7", 2, None).lasts_s


def test_outages_are_those_of_their_leg_alone() -> None:
    made = link_plan("tour:wifi=40,tunnel=200,4g=60", 3, None)
    found = outages_of(made, "up").between(0.0, 300.0)
    assert found
    assert all(40 < start < end <= 240 for start, end in found)
    assert outages_of(made, "down").between(0.0, 300.0) == found
    again = outages_of(made, "up").between(300.0, 599.0)
    assert [time - 300 for outage in again for time in outage] == pytest.approx(
        [time for outage in found for time in outage]
    )
    start, end = found[0]
    impaired = Impairment(made, "up")
    fates = [impaired.arrive(time, 100) for time in (start - 1, (start + end) / 2)]
    assert [fate is Drop.OUTAGE for fate in fates] == [False, True]


def test_an_outage_ends_with_its_leg_and_hits_the_ways_that_its_profile_says() -> None:
    # Nearly all of the time is outage, which would go on for a minute.
    ever = msgspec.structs.replace(
        OUTAGES,
        gap_s=msgspec.structs.replace(OUTAGES.gap_s, value=0.1),
        shortest_s=msgspec.structs.replace(OUTAGES.gap_s, value=60.0),
        longest_s=msgspec.structs.replace(OUTAGES.gap_s, value=61.0),
        ways="up",
    )
    catalogue = Catalogue({}, {"gone": msgspec.structs.replace(QUICK, outages=ever), "quick": QUICK})
    made = tour_plan("tour:gone=9,quick=9", 0, catalogue)
    (only,) = made.outages
    assert (only.ends_s, only.ways) == (9.0, "up")
    assert outages_of(made, "up").between(0, 17) == [(only.starts_s, 9.0)]
    assert outages_of(made, "down").between(0, 1000) == []
    assert outages_of(made, "down").touching(0, 1000) is None


def test_outages_that_would_overlap_their_next_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="within the period"):
        outages_of(LinkPlan("test", QUICK, outages=(Outage(1.0, 2.0),)), "up").touching(0.0, 3.0)


def test_a_plan_survives_the_way_to_the_links_process() -> None:
    made = link_plan("tour:wifi=7,tunnel=300", 1, None)
    assert made.outages
    assert msgspec.json.decode(msgspec.json.encode(made), type=LinkPlan) == made


def test_profiles_of_ones_own_make_tours(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    way = "{ " + ", ".join(
        f'{name} = {{ value = {value}, source = "me" }}'
        for name, value in (("delay_ms", 5), ("jitter_ms", 0), ("rate_mbit", 1), ("loss_percent", 0), ("queue_kb", 9))
    ) + " }"  # fmt: skip
    path.write_text(
        '[sources]\nme = "me"\n[profiles.depot]\nabout = "mine"\n'
        f'[[profiles.depot.states]]\nname = "steady"\nup = {way}\ndown = {way}\n',
        "utf-8",
    )
    found = subprocess.run(
        [sys.executable, "-m", "flexspec_mq.cli", "link", "proxy", "--profile", "tour:depot=3,depot=2",
         "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--for", "0.1", "--profiles-file", str(path)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("tour:depot=3,depot=2 from 127.0.0.1:")


@needs_namespaces
def test_a_real_link_goes_from_leg_to_leg() -> None:
    # Each lasts longer than any test.
    with netns_link(tour_plan("tour:quick=5000,slow=5000", 0, MINE)) as link:
        echo = link.run_b([sys.executable, "-c", ECHO, link.address_b], stdout=subprocess.PIPE)
        assert echo.stdout is not None
        with echo.stdout:
            assert echo.stdout.readline() == b"ready\n"

        def round_trip(time: float) -> float:
            link.seek(time)
            ping = link.run_a([sys.executable, "-c", PING, link.address_b], stdout=subprocess.PIPE)
            return float(ping.communicate(timeout=60)[0])

        assert round_trip(5001.0) >= 0.6
        assert round_trip(1.0) < 0.6
        assert round_trip(15_001.0) >= 0.6
