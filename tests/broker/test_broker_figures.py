"""Figures of a broker: who is connected, what was refused, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.watching.figures import Figures, shown
from broker.watching.refusals import ClientConnections
from flexspec_mq.daemon.probes import MetricsOptions
from flexspec_mq.errors import PublishRefused, UsageError
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from tests.broker.deployments import as_client, good, good_here, made, running
from tests.daemons import until

Labels = frozenset[tuple[str, str]]


def figures(port: int) -> dict[tuple[str, Labels], float]:
    page = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=20.0)
    assert page.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, Labels]:
    return f"flexspec_broker_{name}", frozenset(labels.items())


def new(client: str, user: str) -> str:
    return f"New client connected from 127.0.0.1:5 as {client} (p5, c1, k60, u'{user}')."


@pytest.mark.parametrize(
    "end",
    [
        "Client c of alice closed its connection.",
        "Client c of alice disconnected.",
        "Client c of alice disconnected due to oversize packet.",
        "Client c of alice disconnected: Protocol error.",
        "Client c of alice has exceeded timeout, disconnecting.",
        "Client c of alice been disconnected by administrative action.",
        "Bad socket read/write on client c of alice: Connection reset by peer",
    ],
)
def test_who_is_connected(end: str) -> None:
    connections = ClientConnections()
    for line in (new("c of alice", "alice"), new("d", "alice"), new("e", "bob")):
        connections.line(line)
    assert connections.counts() == {"alice": 2, "bob": 1}
    connections.line("Client d already connected, closing old connection.")
    connections.line(new("d", "alice"))
    connections.line("Client d disconnected, not authorised.")  # a stranger, who claims its id
    assert connections.counts() == {"alice": 2, "bob": 1}
    connections.line(end)
    connections.line(end)
    assert connections.counts() == {"alice": 1, "bob": 1}
    assert connections.user_of("c of alice") == "alice"


def test_the_page_shows_what_is_known() -> None:
    known: Figures = {
        "refused": {("alice", "publish"): 3, ("unknown", "login"): 1},
        "connections": {"alice": 2},
        "clients": 5,
        "revision": 7,
        "statement": 4,
        "revoked_credentials": 1,
    }
    with shown(lambda: known, MetricsOptions(metrics_port=0)) as port:
        found = figures(port)
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz").text == "ready\n"
    assert found[of("refused_total", user="alice", kind="publish")] == 3
    assert found[of("refused_total", user="unknown", kind="login")] == 1
    assert found[of("connections", user="alice")] == 2
    numbers = ("clients", "revision", "statement", "revoked_credentials", "put_out")
    assert [found[of(name)] for name in numbers] == [5, 7, 4, 1, 0]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/metrics")


def test_it_is_shown_to_this_machine_only() -> None:
    everywhere = MetricsOptions(metrics_port=0, metrics_host="0.0.0.0")  # noqa: S104  refused
    with pytest.raises(UsageError, match="could be read by others"), shown(dict, everywhere):
        pass


async def test_what_a_running_broker_refuses_is_counted(tmp_path: Path) -> None:
    directory = made(tmp_path / "d", "--keys")
    good_here("add-device", directory, "alice", "bob")
    port = free_port()
    with (directory / "broker.toml").open("a") as settings:
        settings.write(f"metrics_port = {port}\n")
    denied, connected = of("refused_total", user="alice", kind="publish"), of("connections", user="alice")
    with running(directory, tmp_path / "log"):
        async with mqtt_link(as_client(directory / "hand-out" / "edge" / "alice")) as link:
            await link.wait_up(20)
            for _ in range(3):
                with pytest.raises(PublishRefused):
                    await link.publish("f1/v/bob", b"forged", qos=1)
            # Mosquitto's log is read on its own way, which may be behind its answers.
            await until(lambda: figures(port).get(denied) == 3)
            found = figures(port)
            assert (found[connected], found[of("statement")]) == (1, 1)
            good("revoke", directory, "alice")
        await until(lambda: connected not in figures(port))
        found = figures(port)
    assert (found[of("clients")], found[of("revoked_credentials")], found[of("statement")]) == (1, 1, 2)
