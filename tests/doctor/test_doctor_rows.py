"""Rows of the table of checks as pure logic: how they are run, and what they make of statuses; no broker, no clock."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flexspec_mq import topics
from flexspec_mq.doctor.checks import TABLE, Fault, Finding, Skipped, State, Warned, run_checks
from flexspec_mq.doctor.statuses import check_clock, check_name, living_workers
from flexspec_mq.doctor.watch import Watch
from flexspec_mq.errors import LinkDown, ModelError
from flexspec_mq.transport.base import Inbound
from schemas.status import EdgeStatus, WorkerStatus

DOCUMENT = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
PROGRAMS = ("edge", "cloud", "broker")


def raising(error: Exception) -> Any:
    def probe() -> str:
        raise error

    return probe


async def outcome(**probes: Any) -> list[tuple[str, str, str]]:
    """Name, state and fault, or reason, of each finding of an edge's checks."""
    findings = await run_checks("edge", probes)
    return [(each.name, each.state, each.fault or each.detail) for each in findings]


def test_each_check_needs_earlier_ones_only_and_stands_once_for_a_program() -> None:
    for program in PROGRAMS:
        names = [check.name for check in TABLE if program in check.of.split()]
        assert len(names) == len(set(names))
        for check in TABLE:
            if program in check.of.split():
                assert set(check.needs) <= set(names[: names.index(check.name)])


def test_the_document_lists_the_daemons_checks_in_their_order() -> None:
    section = DOCUMENT.partition("## What is checked")[2].partition("\n## ")[0]
    listed = re.findall("`(.+?)`", "".join(re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)))
    assert listed == list(dict.fromkeys(check.name for check in TABLE if check.of != "broker"))


def test_exit_codes_are_those_of_the_document() -> None:
    rows = re.findall(r"^\| (`.+?`) \| (\d) \|", DOCUMENT.partition("## Faults")[2], re.MULTILINE)
    codes = {fault: int(code) for names, code in rows for fault in re.findall("`(.+?)`", names)}
    assert len(codes) > 15
    for fault, code in codes.items():
        state = State.FAILED if code else State.WARNING
        assert Finding("any", state, "", fault=fault).exit_code == code, fault


async def test_what_a_failed_check_takes_with_it_is_skipped_with_the_reason() -> None:
    assert await outcome(
        broker=raising(Fault("broker down", "nothing listens", "start it")),
        login=lambda: "never asked",
        cache=lambda: "fine",
        name=lambda: "never asked",
    ) == [
        ("cache", "ok", "fine"),
        ("broker", "failed", "broker down"),
        ("login", "skipped", "the broker cannot be used"),
        ("name", "skipped", "the broker cannot be used"),
    ]


async def test_a_warning_or_a_skipped_check_takes_nothing_with_it() -> None:
    assert await outcome(
        login=lambda: [Warned("slow", "wait"), "as truck"],
        worker=raising(Skipped("nobody says")),
        tokenizer=raising(Warned("differs", "no matter")),
        model=lambda: "loaded",
        text=lambda: "written",
    ) == [
        ("login", "warning", "slow"),
        ("login", "ok", "as truck"),
        ("model", "ok", "loaded"),
        ("worker", "skipped", "nobody says"),
        ("tokenizer", "warning", "differs"),
        ("text", "ok", "written"),
    ]


async def test_errors_are_faults_of_their_rows_and_a_lost_link_ends_what_needs_the_broker() -> None:
    assert await outcome(
        model=raising(ModelError("no such folder")),
        login=lambda: "as truck",
        name=raising(LinkDown("it broke")),
        exposure=lambda: "never asked",
        clock=lambda: "never asked",
    ) == [
        ("login", "ok", "as truck"),
        ("model", "failed", "model missing"),
        ("name", "failed", "link lost"),
        ("exposure", "skipped", "the broker stopped answering"),
        ("clock", "skipped", "the broker stopped answering"),
    ]


async def test_what_takes_too_long_is_named() -> None:
    probes: dict[str, Any] = {"login": lambda: asyncio.sleep(60, "never"), "clock": lambda: "never asked"}
    told: list[str] = []
    *skipped, over = await run_checks("cloud", probes, told.append, 0.05)
    assert [(each.name, each.state, each.detail) for each in skipped] == [
        ("login", State.SKIPPED, "not reached"),
        ("clock", State.SKIPPED, "not reached"),
    ]
    assert (over.fault, over.exit_code, told) == ("time over", 1, ["logging in"])
    assert "still logging in" in over.detail
    with pytest.raises(TimeoutError):  # a probe's own, which is a bug
        await run_checks("cloud", {"cache": raising(TimeoutError())}, timeout=60)


# Statuses


def of_worker(name: str = "w9", **fields: Any) -> WorkerStatus:
    known = {"state": "online", "epoch": 1, "at": time.time(), "worker": name, "version": "base"}
    return WorkerStatus(**{**known, **fields})


def of_edge(life: int, state: Any = "online") -> EdgeStatus:
    return EdgeStatus(state=state, epoch=life, life=life, at=time.time(), edge="truck")


def watched(*statuses: WorkerStatus | EdgeStatus, retained: bool = False, topic: str = "f1/e/truck") -> Watch:
    """A watch to which statuses have come."""
    watch = Watch(topic, 1.0)
    for status in statuses:
        where = f"f1/w/{status.worker}" if isinstance(status, WorkerStatus) else f"f1/e/{status.edge}"
        assert watch.take(Inbound(where, msgspec.json.encode(status), retain=retained))
    return watch


def test_only_whole_statuses_under_their_own_name_are_seen() -> None:
    watch = watched()
    assert watch.take(Inbound("f1/w/w7", b"{"))
    assert watch.take(Inbound("f1/w/w8", msgspec.json.encode(of_worker("w1"))))
    assert watch.take(Inbound("f1/t/w1", b"told"))
    assert not watch.take(Inbound("f1/i", b"a statement"))
    assert (watch.seen, watch.texts) == ({}, {"w1": b"told"})


@pytest.mark.parametrize(
    ("statuses", "detail", "advice"),
    [
        ((), "no worker serves version 'base'", "flexspec-cloud --version base"),
        ((of_worker(version="v2"),), "workers that are there serve v2", "--version v2"),
        ((of_worker(state="draining"),), "w9 is draining", "takes no new sessions"),
        ((of_worker(),), "does not subscribe to what edges send", "start one"),
    ],
)
def test_no_worker(statuses: tuple[WorkerStatus, ...], detail: str, advice: str) -> None:
    with pytest.raises(Fault, match=re.escape(detail)) as fault:
        living_workers(watched(*statuses), "base", listening=False)
    assert fault.value.fault == "no worker"
    assert advice in fault.value.hint


def test_an_old_status_is_that_of_a_dead_worker_and_none_is_a_matter_of_access_rules() -> None:
    old = watched(of_worker(at=time.time() - 7300), retained=True)
    with pytest.raises(Fault, match="w9 said 'online' 2 h 1 min ago and has not renewed it"):
        living_workers(old, "base", None)
    with pytest.raises(Warned, match="no status of any worker can be read") as blind:
        living_workers(watched(), "base", listening=True)
    assert blind.value.fault == "ACL refusal"
    (living,) = living_workers(watched(of_worker()), "base", None)
    assert living.worker == "w9"


@pytest.mark.parametrize(
    ("seconds", "kind", "words"),
    [
        (-7200.0, Fault, "2 h 0 min ahead of that of worker w9"),
        (86_400.0 * 40, Fault, "40 days behind that of worker w9"),
        (20.0, Warned, "20 s behind that of worker w9"),
    ],
)
def test_clock_off(seconds: float, kind: type[Fault], words: str) -> None:
    with pytest.raises(kind, match=words) as off:
        check_clock(watched(of_worker(at=time.time() + seconds)))
    assert type(off.value) is kind
    assert off.value.fault == "clock off"
    assert "compare both" in off.value.hint
    with pytest.raises(kind) as off:
        check_clock(watched(of_worker(at=time.time() + seconds), of_worker("w1")))
    assert "it agrees with worker w1, so the clock of w9's machine is the wrong one" in off.value.hint
    assert "NTP" in off.value.hint


def test_a_clock_is_compared_with_others_that_speak_now() -> None:
    assert "of workers w1, w9" in check_clock(watched(of_worker(), of_worker("w1")))
    for watch in (
        watched(of_worker(), retained=True),
        watched(of_worker(state="gone")),
        watched(of_worker(), topic=topics.worker_status_topic("w9")),
    ):
        with pytest.raises(Skipped, match="no clock to compare with"):
            check_clock(watch)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((), "no other edge node is named 'truck' now"),
        ((of_edge(1, "gone"),), "no other edge node is named 'truck' now"),
        ((of_edge(1), of_edge(1)), "is online already since"),
        ((of_edge(1), of_edge(2)), "throw each other out"),
        (
            (of_edge(1), of_edge(1, "gone"), of_edge(2)),
            "throw each other out",
        ),  # it was up before the other's end
    ],
)
def test_the_name(statuses: tuple[EdgeStatus, ...], said: str) -> None:
    watch = watched(*statuses)
    if said.startswith("no other"):
        assert check_name(watch, "") == said
        return
    with pytest.raises(Fault, match=said) as fault:
        check_name(watch, "")
    assert fault.value.fault == "two daemons with one id"
    assert "--edge NAME" in fault.value.hint


def test_a_daemon_that_was_started_again_or_is_ours_is_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; it is ours" in check_name(watched(of_edge(1)), "it is ours")
    watch = watched(of_edge(1), of_edge(1, "gone"))
    later = time.monotonic() + 2.0  # as long as it takes to load a model
    monkeypatch.setattr("flexspec_mq.doctor.watch.time.monotonic", lambda: later)
    watch.take(Inbound("f1/e/truck", msgspec.json.encode(of_edge(2))))
    assert watch.takeovers == 0


def test_two_workers_with_one_name_that_do_not_throw_each_other_out() -> None:
    both = watched(of_worker(life=1), of_worker(life=2), topic="f1/w/w9")
    with pytest.raises(Fault, match="both named 'w9'") as fault:
        check_name(both, "it is ours")
    assert "--worker NAME" in fault.value.hint
