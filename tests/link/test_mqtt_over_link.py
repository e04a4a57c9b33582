"""A real Mosquitto on one side, a client on the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flexspec_mq.link.netns import netns_link
from tests.link.plans import figures, needs_namespaces, plan

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@needs_namespaces
def test_mosquitto_behind_a_lossy_link_passes_our_own_check() -> None:
    with netns_link(plan(figures(delay=10, jitter=2, rate=5, loss=2), seed=1)) as link:
        serving = [sys.executable, "-m", "broker", "run", "--host", link.address_b, "--port", "0"]
        broker = link.run_b(
            [*serving, "--insecure-anywhere", "--ready-json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
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
