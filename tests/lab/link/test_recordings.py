"""Recorded channels, and that a link can be set to any moment of its channel."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.netns import netns_link
from lab.testbed.link.plans import channels, link_plan
from lab.testbed.link.profiles import LinkPlan, Profile, State, built_in
from lab.testbed.link.timeline import RecordedStates
from lab.testbed.link.trace import read_trace
from tests.lab.link.pings import ECHO, PING
from tests.lab.link.plans import figures, needs_namespaces, state


def test_a_trace_has_the_delay_of_its_generation(tmp_path: Path) -> None:
    write_trace(tmp_path, "Here-LTE.up.gz", [500, 1000])
    write_trace(tmp_path, "Here-LTE.down.gz", range(1, 2001))
    write_trace(tmp_path, "alone-LTE.up.gz", [500])
    assert list(channels(tmp_path)) == ["here-lte"]
    made = link_plan("recorded:Here-LTE", 7, tmp_path)
    assert (made.seed, made.up_trace, made.recorded_s) == (7, (500, 1000), 2)
    assert made.down_trace is not None
    assert len(made.down_trace) == 2000
    assert made.profile == built_in().get("4g")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("recorded:6g", "no recorded channel '6g'"),
        ("recorded:odd", "does not say of which network"),
        ("6g", "no link profile '6g'"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: str, says: str) -> None:
    for way in ("up", "down"):
        write_trace(tmp_path, f"odd.{way}.gz", [5])
    with pytest.raises(UsageError, match=says):
        link_plan(name, 0, tmp_path)


def test_a_folder_that_is_none() -> None:
    with pytest.raises(UsageError, match="needs a folder of recordings") as found:
        link_plan("recorded:lte", 0, None)
    assert "--recorded" in found.value.hint
    with pytest.raises(UsageError, match="cannot be read"):
        link_plan("recorded:lte", 0, Path("/no/such/folder"))


def write_trace(folder: Path, name: str, times: Iterable[int]) -> Path:
    """A trace; `name` ends in ``.up.gz`` or ``.down.gz``."""
    path = folder / name
    path.write_bytes(gzip.compress("".join(f"{time}\n" for time in times).encode("ascii")))
    return path


def test_a_compressed_trace_is_read(tmp_path: Path) -> None:
    assert read_trace(write_trace(tmp_path, "x.up.gz", [1, 2, 7])) == (1, 2, 7)
    cut = write_trace(tmp_path, "y.up.gz", range(5000))
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(cut)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 20), min_size=1, max_size=12),
    st.lists(st.floats(0, 5000), min_size=1, max_size=30),
)
def test_recorded_states_follow_one_another_over_and_over(lasts: list[float], times: list[float]) -> None:
    states = RecordedStates(lasts)
    period = sum(lasts)
    for time in times:
        index, ends = states.at(time)
        assert time < ends <= time + lasts[index] + 1e-6
        assert (ends - sum(lasts[: index + 1])) / period == pytest.approx(
            round((ends - sum(lasts[: index + 1])) / period), abs=1e-6
        )
        assert states.at(ends)[1] > ends


def recorded(**changes: Any) -> LinkPlan:
    quick, slow = state(figures(delay=1), "quick"), state(figures(delay=100), "slow")
    whole = LinkPlan("test", Profile("a test", (quick, slow)), lasts_s=(2.0, 3.0))
    return msgspec.structs.replace(whole, **changes)


def test_a_channel_that_begins_later_is_the_same_channel() -> None:
    early, late = (Impairment(recorded(begins_s=begins), "up") for begins in (0.0, 7001.5))
    assert [early.arrive(time, 100) for time in (1.9, 2.1)] == pytest.approx([1.901, 2.2], abs=1e-3)
    assert [late.arrive(time, 100) for time in (7001.9, 7002.1)] == pytest.approx(
        [7001.901, 7002.2], abs=1e-3
    )


def test_what_is_drawn_for_packets_hangs_on_where_the_channel_begins() -> None:
    both = figures(loss=50)

    def fates(begins: float) -> list[Any]:
        link = LinkPlan("test", Profile("a test", (State("s", both, both),)), 3, begins_s=begins)
        impaired = Impairment(link, "up")
        return [isinstance(impaired.arrive(begins + number, 100), float) for number in range(64)]

    assert fates(10.0) == fates(10.0)
    assert fates(10.0) != fates(11.0), "alike by chance once in 2**64"
    assert fates(0.0) != fates(10.0)


@needs_namespaces
def test_a_link_is_set_to_a_moment_as_often_as_one_likes() -> None:
    good, slow = state(figures(delay=1), "good"), state(figures(delay=400), "slow")
    # Each lasts longer than any test.
    channel = LinkPlan("test", Profile("a test", (good, slow)), lasts_s=(5000.0, 5000.0))
    with netns_link(channel) as link:
        echo = link.run_b([sys.executable, "-c", ECHO, link.address_b], stdout=subprocess.PIPE)
        assert echo.stdout is not None
        with echo.stdout:
            assert echo.stdout.readline() == b"ready\n"

        def round_trip(time: float) -> float:
            before = link.seek(time)
            ping = link.run_a([sys.executable, "-c", PING, link.address_b], stdout=subprocess.PIPE)
            found = float(ping.communicate(timeout=60)[0])
            after = link.counters
            assert after.up.packets_out == before.up.packets_out + 1, "the counters go on"
            return found

        trips = [round_trip(time) for time in (5100.0, 100.0, 15_100.0)]
        with pytest.raises(ValueError, match="from 0 on"):
            link.seek(-1.0)
    assert trips[0] >= 0.8
    assert trips[2] >= 0.8
    assert trips[1] < trips[0] - 0.3, "unless this machine was busy for a third of a second"
