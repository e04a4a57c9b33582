"""What TCP makes of an outage: how long after it what was lost in it goes out again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flexspec_mq.transport.sockets import RETRY_MS
from lab.testbed.link.netns import netns_link
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from tests.lab.link.plans import needs_namespaces

SERVER = """
import json, socket, sys, time
s = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
peer, _ = s.accept()
peer.recv(1)
peer.sendall(b"x")
found = peer.recv(1)
print(json.dumps(time.monotonic()), flush=True)
"""
CLIENT = """
import socket, sys, time
from flexspec_mq.transport import sockets
peer = socket.create_connection((sys.argv[1], 7000))
sockets.try_often(peer)
try:
    able = peer.getsockopt(socket.IPPROTO_TCP, sockets.TCP_RTO_MAX_MS) == sockets.RETRY_MS
except OSError:
    able = False
peer.sendall(b"x")
peer.recv(1)
print("able" if able else "unable", flush=True)
sys.stdin.readline()
peer.sendall(b"y")
print(time.monotonic(), flush=True)
sys.stdin.readline()
"""


@needs_namespaces
def test_after_an_outage_a_message_goes_out_within_one_attempt() -> None:
    """12 s of outage: attempts that double come at 0.2, 0.6, … 6.2 and 12.6 s, or 12.8 s and 25.4 s."""
    lasts = 12.0
    plan = LinkPlan(
        "away", built_in().get("4g"), 1, lasts_s=(10_000.0,), outages=(Outage(1000.0, 1000.0 + lasts),)
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with netns_link(plan) as link:
        server = link.run_b([sys.executable, "-c", SERVER, link.address_b], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        client = link.run_a([sys.executable, "-c", CLIENT, link.address_b], **pipes)
        assert client.stdin is not None
        assert client.stdout is not None
        with server.stdout, client.stdout, client.stdin:
            if client.stdout.readline() != b"able\n":
                pytest.skip("this kernel has no bound for the time between attempts")
            link.seek(1000.0)
            client.stdin.write(b"\n")
            client.stdin.flush()
            sent = float(client.stdout.readline())
            came = json.loads(server.stdout.readline())
    # Half a second for a busy machine; without the bound it would be one attempt in 12 s.
    assert lasts - 1.0 < came - sent < lasts + RETRY_MS / 1000 + 0.5
