"""Channels of a folder of recordings: what is made of rows and traces, and that a link can be set to any moment."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.cli import main
from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.netns import netns_link
from lab.testbed.link.profiles import LinkPlan, Profile, State
from lab.testbed.link.recordings import channels, link_plan, one_way
from lab.testbed.link.timeline import RecordedStates
from lab.testbed.link.trace import read_trace
from lab.testbed.link.ucc_dataset import Second, read_rows, seconds_of
from tests.lab.link.pings import ECHO, PING
from tests.lab.link.plans import figures, needs_namespaces, plan, state
from tests.lab.link.recordings import HEADER, OTHER, row, write_rows, write_trace


def seconds(folder: Path, lines: Sequence[str]) -> list[Second]:
    return seconds_of(read_rows(write_rows(folder, lines), "Download/Driving"))


def test_a_pause_for_pings_has_the_rate_before_it_and_its_pings_hold_until_the_next(tmp_path: Path) -> None:
    found = seconds(
        tmp_path,
        [
            row(0, 9000, up=80),
            row(1, 2, up=1),
            row(2, 0, up=0, ping=(80, 4, 0)),
            row(2, 0, up=0),
            row(4, 5000, mode="LTE"),
            row(5, 1, ping=(90, 6, 20)),
            row(6, 4000),
        ],
    )
    assert [second.down_kbit for second in found] == [9000, 9000, 9000, 5000, 5000, 4000]
    assert [second.up_kbit for second in found[:3]] == [80, 80, 80]
    assert [second.lasts_s for second in found] == [1, 1, 2, 1, 1, 1]
    assert [second.ping_ms for second in found] == [80, 80, 80, 80, 90, 90]
    assert [second.deviation_ms for second in found] == [4, 4, 4, 4, 6, 6]
    assert [second.lost for second in found] == [0, 0, 0, 0, 0.2, 0]
    assert [second.mode for second in found] == ["5G", "5G", "5G", "LTE", "5G", "5G"]


def test_a_stall_is_no_pause(tmp_path: Path) -> None:
    lines = [row(0, 9000, ping=(80, 4, 0)), *(row(second, 1) for second in range(1, 5)), row(5, 7000)]
    assert [second.down_kbit for second in seconds(tmp_path, lines)] == [9000, 1, 1, 1, 1, 7000]
    # Short, but nobody pinged.
    lines = [row(0, 9000, ping=(80, 4, 0)), row(1, 8000), row(2, 1), row(3, 7000)]
    assert [second.down_kbit for second in seconds(tmp_path, lines)] == [9000, 8000, 1, 7000]


def test_pings_that_all_got_lost_are_an_outage_of_their_second(tmp_path: Path) -> None:
    lines = [row(0, 9000, ping=(80, 4, 0)), row(1, 1, ping=(100,)), row(2, 7000)]
    found = seconds(tmp_path, lines)
    assert [second.lost for second in found] == [0, 1, 0]
    assert [second.ping_ms for second in found] == [80, 80, 80]
    write_rows(tmp_path, lines)
    states = link_plan("recorded:5g-driving", 0, tmp_path).profile.states
    assert [one.up.loss_percent.value for one in states] == [0, 100, 0]


def test_logs_are_one_after_the_other_and_only_downloads_count(tmp_path: Path) -> None:
    second_log = "Download/Driving/B_9.csv"
    lines = [
        row(0, 0, log=OTHER, ping=(10, 1, 0)),
        row(50, 9000, ping=(80, 4, 0)),
        row(10, 100, log=second_log),
        row(40, 200, log=second_log, ping=(60, 2, 0)),
        row(0, 300, log="Download/Driving/B_without_pings.csv"),
    ]
    found = seconds(tmp_path, lines)
    assert [second.ping_ms for second in found] == [80, 60, 60]
    assert [second.lasts_s for second in found] == [1, 10, 1], "a gap in a log lasts ten seconds at most"


def test_delay_and_jitter_have_the_mean_and_the_deviation_of_the_pings() -> None:
    delay, jitter = one_way(100.0, 10.0)
    assert 2 * (delay + jitter) == pytest.approx(100.0)
    assert math.sqrt(2) * jitter == pytest.approx(10.0)
    assert one_way(100.0, 500.0) == (0.0, 50.0)


def test_the_channel_of_a_drive(tmp_path: Path) -> None:
    write_rows(tmp_path, [row(0, 20_000, ping=(80, 4, 0)), *(row(number, 0, up=0) for number in range(1, 5))])
    made = link_plan("recorded:5G-driving", 7, tmp_path)
    assert (made.seed, made.lasts_s, made.recorded_s) == (7, (1, 1, 1, 1, 1), 5)
    first, *stalled = made.profile.states
    assert first.down.rate_mbit.value == 20
    assert first.up.rate_mbit.value == pytest.approx(20 * 14.7 / 129.9)
    assert all(0 < one.down.rate_mbit.value < 0.01 for one in stalled)
    # A quarter of a second at the mean of 4 Mbit/s; never less than 64 kB.
    assert first.down.queue_kb.value == pytest.approx(125, rel=0.01)
    assert first.up.queue_kb.value == 64
    impaired = Impairment(made, "down")
    # 1,500 bytes take 0.6 ms: those that begin 0.1 ms before the stall end behind it.
    out = [impaired.arrive(time, 1500) for time in (0.5, 0.9999)]
    assert out == [pytest.approx(0.55, abs=0.05), pytest.approx(5.1, abs=0.1)]


def test_a_trace_has_the_pings_of_its_generation(tmp_path: Path) -> None:
    write_trace(tmp_path, "Here-LTE.up.gz", [500, 1000])
    write_trace(tmp_path, "Here-LTE.down.gz", range(1, 2001))
    write_trace(tmp_path, "alone-LTE.up.gz", [500])
    write_rows(
        tmp_path,
        [
            row(0, 1, mode="5G", ping=(10, 0, 0)),
            row(1, 1, mode="LTE", ping=(80, 0, 0)),
            row(2, 1, mode="LTE", ping=(100,)),
            row(3, 1, mode="LTE", ping=(90, 0, 0)),
            row(4, 1, mode="HSPA+", ping=(200, 0, 0)),
        ],
    )
    assert list(channels(tmp_path)) == ["here-lte", "5g-driving", "5g-static"]
    made = link_plan("recorded:Here-LTE", 0, tmp_path)
    assert made.up_trace == (500, 1000)
    assert made.down_trace is not None
    assert len(made.down_trace) == 2000
    assert [one.up.delay_ms.value for one in made.profile.states] == [40, 45]
    assert made.recorded_s == 26
    assert made.profile.states[0].down.queue_kb.value == pytest.approx(12_000 / 8 * 0.25)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("recorded:6g", "no recorded channel '6g'"),
        ("recorded:odd", "does not say of which network"),
        ("recorded:an-evdo", "no pings for the trace"),
        ("recorded:5g-static", "no log under Download/Static"),
        ("6g", "no link profile '6g'"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: str, says: str) -> None:
    write_rows(tmp_path, [row(0, 9000, ping=(80, 4, 0))])
    for stem in ("odd", "an-evdo"):
        for way in ("up", "down"):
            write_trace(tmp_path, f"{stem}.{way}.gz", [5])
    with pytest.raises(UsageError, match=says):
        link_plan(name, 0, tmp_path)


def test_a_folder_that_is_none_and_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a folder of recordings") as found:
        link_plan("recorded:5g-driving", 0, None)
    assert "--recorded" in found.value.hint
    with pytest.raises(UsageError, match="cannot be read"):
        link_plan("recorded:5g-driving", 0, tmp_path / "none")
    write_rows(tmp_path, [row(0, 1)], HEADER.replace("PINGAVG", "RTT"))
    with pytest.raises(UsageError, match="no column PINGAVG"):
        link_plan("recorded:5g-driving", 0, tmp_path)
    write_rows(tmp_path, [row(0, 1), row(1, 1).replace("2020.", "next year ")])
    with pytest.raises(UsageError, match="line 3"):
        link_plan("recorded:5g-driving", 0, tmp_path)
    (tmp_path / "ucc-5g.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        link_plan("recorded:5g-driving", 0, tmp_path)


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


def test_recorded_states_need_a_length() -> None:
    for lasts in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="longer than 0"):
            RecordedStates(lasts)


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


def test_the_command_refuses_a_recording_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link", "run", "--profile", "recorded:5g-driving", "--", "true"]) == 2
    assert "--recorded FOLDER" in capsys.readouterr().err


@needs_namespaces
def test_the_command_runs_over_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path, [row(0, 20_000, ping=(80, 4, 0))])
    flags = ["--profile", "recorded:5g-driving", "--recorded", str(tmp_path), "--at", "3"]
    assert main(["link", "run", *flags, "--", "true"]) == 0
    assert '"profile": "recorded:5g-driving"' in capsys.readouterr().out


def test_a_plan_without_recordings_has_none() -> None:
    assert plan().recorded_s == 0
