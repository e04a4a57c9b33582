"""A real Mosquitto on one side, a client on the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from tests.lab.link.plans import figures, needs_namespaces, plan

pytestmark = pytest.mark.alone

CLIENT = """
import asyncio, sys, time
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
host, port, mine, other = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
async def main():
    wanted = (Subscription(mine),)
    settings = LinkSettings(host=host, port=port, client_id=mine, subscriptions=wanted, session_expiry=60)
    async with mqtt_link(settings) as link:
        await link.wait_up(20)
        async def say():
            while line := await asyncio.to_thread(sys.stdin.readline):
                await link.publish(other, line.strip().encode(), qos=0)
        saying = asyncio.create_task(say())
        print("ready", flush=True)
        async for event in link.events():
            if isinstance(event, Inbound):
                print(time.monotonic(), event.payload.decode(), flush=True)
                if event.payload == b"ask":
                    await link.publish(other, b"answer", qos=1)
asyncio.run(main())
"""
"""Publishes to `other` what it is told to, tells what comes, and answers what is asked."""
ROOT = Path(__file__).parents[3]
PATIENCE = 60.0


def broker_beyond(link: NetnsLink) -> subprocess.Popen[bytes]:
    """A Mosquitto in the cloud, which tells its port when it is ready."""
    serving = [sys.executable, "-m", "broker", "run", "--host", link.address_b, "--port", "0"]
    return link.run_b(
        [*serving, "--insecure-anywhere", "--ready-json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )


@needs_namespaces
def test_mosquitto_behind_a_lossy_link_passes_our_own_check() -> None:
    with netns_link(plan(figures(delay=10, jitter=2, rate=5, loss=2), seed=1)) as link:
        broker = broker_beyond(link)
        assert broker.stdout is not None
        with broker.stdout:
            port = json.loads(broker.stdout.readline())["port"]
            check = link.run_a(
                [sys.executable, "-m", "broker", "check", f"{link.address_b}:{port}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
            out, _ = check.communicate(timeout=PATIENCE)
        assert check.returncode == 0, out
        assert "shared subscriptions" in out
        counters = link.counters
    assert counters.up.lost + counters.down.lost > 0
    assert counters.up.packets_in > 50


@needs_namespaces
def test_after_an_outage_nobody_waits_for_the_brokers_tcp() -> None:
    """What a broker sends as an outage of 9 s begins goes out again 12.6 to 16 s after; the device asks at 9.2 s."""
    plan = LinkPlan("away", built_in().get("4g"), 1, lasts_s=(10_000.0,), outages=(Outage(1000.0, 1009.0),))
    with netns_link(plan) as link:
        broker = broker_beyond(link)
        assert broker.stdout is not None
        with broker.stdout:
            port = json.loads(broker.stdout.readline())["port"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
            client = [sys.executable, "-c", CLIENT, link.address_b, str(port)]
            device = link.run_a([*client, "device", "cloud"], **pipes)
            cloud = link.run_b([*client, "cloud", "device"], **pipes)
            assert device.stdin is not None
            assert device.stdout is not None
            assert cloud.stdin is not None
            assert cloud.stdout is not None
            with device.stdin, device.stdout, cloud.stdin, cloud.stdout:
                assert (device.stdout.readline(), cloud.stdout.readline()) == ("ready\n", "ready\n")
                link.seek(1000.0)
                time.sleep(0.1)
                print("news", file=cloud.stdin, flush=True)
                time.sleep(9.1)
                asked = time.monotonic()
                print("ask", file=device.stdin, flush=True)
                at, what = device.stdout.readline().split()
                if what == "news":  # the old connection had it after all
                    at, what = device.stdout.readline().split()
    assert what == "answer"
    # A second until the silence is too long, four round trips, and a busy machine; TCP alone takes 3.5 s and more.
    assert float(at) - asked < 3.0
