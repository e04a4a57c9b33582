"""Links of namespaces: real packets, and nothing left behind. Needs root."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexspec_mq.errors import FlexSpecError, UsageError
from lab.testbed.link import namespaces
from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.process import stat_of
from tests.lab.link.plans import figures, needs_namespaces, plan, state

PATIENCE = 60.0
ROOT = Path(__file__).parents[3]
HEADERS = 28


def until(condition: Callable[[], Any]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it does not happen"
        time.sleep(0.02)


def gone(*names: str) -> bool:
    return not any((namespaces.NETNS_FOLDER / name).exists() for name in names)


def alive(pid: int) -> bool:
    fields = stat_of(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


RECEIVE = """
import json, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
s.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS: the kernel's times, so that waking up is in none of them
s.bind((sys.argv[1], 5001))
print("ready", flush=True)
s.settimeout(20.0)  # for the sender to begin
came = []
try:
    while len(came) < int(sys.argv[2]):
        packet, stamps, *_ = s.recvmsg(2048, 64)
        s.settimeout(2.0)
        (number, sent), (seconds, nanoseconds) = map(int, packet.split()), struct.unpack("ll", stamps[0][2])
        at = 10**9 * seconds + nanoseconds
        came.append((number, (at - sent) / 1e6, at / 1e9))
except TimeoutError:
    pass
print(json.dumps(came))
"""
SEND = """
import socket, sys, time
size, count, spacing = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 5001))
began = time.monotonic()
for number in range(count):
    time.sleep(max(0.0, began + number * spacing - time.monotonic()))
    s.send(f"{number} {time.time_ns()}".encode().ljust(size))
"""


def stream(link: NetnsLink, size: int = 100, count: int = 100, spacing: float = 0.01) -> list[list[float]]:
    """UDP packets from a to b: number, delay in milliseconds and time of arrival of what came."""
    receiving = [sys.executable, "-c", RECEIVE, link.address_b, str(count)]
    receiver = link.run_b(receiving, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender = link.run_a([sys.executable, "-c", SEND, link.address_b, str(size), str(count), str(spacing)])
    sender.communicate(timeout=PATIENCE)
    came: list[list[float]] = json.loads(receiver.communicate(timeout=PATIENCE)[0])
    return came


@needs_namespaces
def test_packets_pass_late_enough_and_are_counted_to_the_byte() -> None:
    with netns_link(plan(figures(delay=20, rate=10))) as link:
        came = stream(link, count=10, spacing=0.005)
        counters = link.counters
    assert [number for number, _, _ in came] == list(range(10))
    assert min(delay for _, delay, _ in came) >= 20
    assert (counters.up.packets_in, counters.up.bytes_in) == (10, 10 * (100 + HEADERS))
    assert (counters.up.packets_out, counters.up.bytes_out) == (10, 10 * (100 + HEADERS))
    assert counters.down.packets_in == 0


@needs_namespaces
def test_a_burst_leaves_at_the_rate_and_the_queue_drops_the_rest() -> None:
    with netns_link(plan(figures(delay=1, rate=8, queue=300))) as link:
        came = stream(link, 1500 - HEADERS, 500, 0.0001)
        up = link.counters.up
    assert up.packets_in == 500
    assert up.overflowed > 0
    assert len(came) == up.packets_out == 500 - up.overflowed
    assert came == sorted(came)
    # 1.5 ms each, from when the first one was sent.
    assert came[-1][2] - (came[0][2] - came[0][1] / 1e3) >= len(came) * 0.0015


@needs_namespaces
def test_a_link_is_set_to_a_moment_as_often_as_one_likes() -> None:
    states = state(figures(delay=1), "good"), state(figures(delay=1500), "slow")
    channel = plan(None, *states, lasts_s=(5000.0, 5000.0))  # each lasts longer than any test
    delays = []
    with netns_link(channel) as link:
        for time_of_channel in (5100.0, 100.0, 15_100.0):
            before = link.seek(time_of_channel)
            ((_, delay, _),) = stream(link, count=1)
            assert link.counters.up.packets_out == before.up.packets_out + 1, "the counters go on"
            delays.append(delay)
        with pytest.raises(ValueError, match="from 0 on"):
            link.seek(-1.0)
    assert delays[0] >= 1500
    assert delays[2] >= 1500
    assert delays[1] < 1200, "unless this machine was busy for so long"


@needs_namespaces
def test_a_side_has_loopback_the_other_side_and_nothing_else() -> None:
    code = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    reach = "import socket, sys; s = socket.socket(); s.settimeout(3); print(s.connect_ex((sys.argv[1], 9)))"
    with netns_link(plan()) as link:
        seen = link.run_a([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert "'link0'" in (text := seen.communicate(timeout=PATIENCE)[0])
        assert "'lo'" in text
        assert "eth" not in text
        for address, code_of_connect in (("127.0.0.1", 111), (link.address_b, 111), ("192.0.2.1", 101)):
            tried = link.run_a([sys.executable, "-c", reach, address], stdout=subprocess.PIPE, text=True)
            assert int(tried.communicate(timeout=PATIENCE)[0]) == code_of_connect, address


@needs_namespaces
def test_leaving_ends_the_processes_and_removes_the_namespaces() -> None:
    with netns_link(plan()) as link:
        # The grandchild has no parent that would end it.
        shell = link.run_b(["sh", "-c", "setsid sleep 600 & echo $!; exec sleep 600"], stdout=subprocess.PIPE)
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())
        assert not gone(link.name_a, link.name_b)
    assert gone(link.name_a, link.name_b)
    shell.stdout.close()
    assert shell.poll() is not None
    assert not alive(grandchild)
    assert link.counters.seconds > 0, "the last counters stay"


OWNER = """
    import sys, time
    from lab.testbed.link.netns import netns_link
    with netns_link("4g") as link:
        child = link.run_b(["sleep", "600"])
        print(link.name_a, link.name_b, child.pid, link._keeper.pid, flush=True)
        time.sleep(600)
"""


def owner() -> tuple[subprocess.Popen[str], list[str], int, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    name_a, name_b, child, keeper = process.stdout.readline().split()
    return process, [name_a, name_b], int(child), int(keeper)


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_owner_that_is_killed_leaves_nothing(number: signal.Signals) -> None:
    process, names, child, keeper = owner()
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    until(lambda: gone(*names) and not alive(child) and not alive(keeper))


@needs_namespaces
def test_a_keeper_that_dies_is_an_error_and_its_namespaces_go() -> None:
    with netns_link(plan()) as link:
        os.kill(link._keeper.pid, signal.SIGKILL)
        link._keeper.wait(PATIENCE)
        with pytest.raises(FlexSpecError, match="died"):
            _ = link.counters
    assert gone(link.name_a, link.name_b)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "TUN_DEVICE", Path("/nonesuch/tun"))
    monkeypatch.setattr(shutil, "which", lambda _name: "/sbin/ip")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match="there is no /nonesuch/tun"), netns_link("4g"):
        pass
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(UsageError) as caught, netns_link("4g"):
        pass
    assert "iproute2" in caught.value.hint
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="need root"), netns_link("4g"):
        pass
