"""Mosquitto's log (2.0.21), read for what it refused, who publishes how much, and who is banned; and its figures."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from broker.settings import ClientLimits, Role, User, hashed
from broker.watching import rates
from broker.watching.figures import shown
from broker.watching.rates import Guard, Traffic
from broker.watching.refusals import ClientConnections, MosquittoLog
from flexspec_mq.daemon.probes import MetricsOptions
from flexspec_mq.daemon.tasks import running as running_task
from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused, UsageError
from flexspec_mq.share_groups import ShareGroups
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from schemas.messages import MAX_ANSWERS
from tests.broker.deployments import as_client, good, made, running
from tests.daemons import until

GROUPS = ShareGroups("5e" * 32)
USERS = (User("alice", Role.EDGE, hashed("x")), User("w1", Role.WORKER, hashed("x"), ("v1",)))


def new(client: str, user: str) -> str:
    return f"New client connected from 127.0.0.1:5 as {client} (p5, c1, k60, u'{user}')."


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("WARNING", "broker.watching.refusals")
    return caplog


def reader(heard: list[str], clock: Clock | None = None) -> MosquittoLog:
    refusals = MosquittoLog(heard.append, clock or Clock())
    refusals.know(USERS, GROUPS)
    for client, user in (("c alice", "alice"), ("c-w1", "w1")):
        refusals.line(new(client, user))
    return refusals


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("c alice 1 f1/v/alice", ""),
        ("c alice 0 $share/any/f1/v/alice", ""),
        ("c alice 1 f1/w/+", ""),
        ("c alice 1 f1/w/#", "part of that only"),
        ("c alice 1 #", "part of that only"),
        ("c alice 1 f1/v/bob 1 f1/v/alice", "part of that only"),
        ("c alice 1 $share/w/f1/o/v1/+", "part of that only"),
        ("c-w1 1 $share/w/f1/o/v1/+", "not in that group"),
        (f"c-w1 1 $share/{GROUPS.group_of('v1')}/f1/o/v1/+", ""),
        (f"c-w1 1 $share/{GROUPS.group_of('v2')}/f1/o/v2/+", "part of that only"),
        ("c-w1 1 f1/d/w1/+", ""),
    ],
)
def test_a_subscription_that_is_none_of_the_users(
    told: pytest.LogCaptureFixture, line: str, why: str
) -> None:
    heard: list[str] = []
    reader(heard).line(line)
    assert len(told.messages) == bool(why)
    assert all(why in message for message in told.messages)
    assert line not in heard


def test_a_flood_is_told_once_a_minute_and_counted(told: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = reader([], clock)
    for _ in range(1000):
        refusals.line("Denied PUBLISH from c-w1 (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    clock.now = 61.0
    refusals.line("Denied PUBLISH from c-w1 (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    assert len(told.messages) == 2
    assert "1001 of these since the start; 1000 times since the last such line" in told.messages[1]


def test_names_that_clients_choose_are_not_kept_by_the_thousand(told: pytest.LogCaptureFixture) -> None:
    refusals = reader([])
    for number in range(1000):
        refusals.line(f"Client evil-{number} disconnected, not authorised.")
        refusals.line(f"Denied PUBLISH from evil-{number} (d0, q1, r0, m7, 'f1/w/w2', ... (1 bytes))")
    assert refusals.counts == {("unknown", "login"): 1000, ("unknown", "publish"): 1000}
    assert len(told.messages) == 2
    assert "as client 'evil-0'" in told.messages[0]


def test_all_else_is_passed_on() -> None:
    heard: list[str] = []
    refusals = reader(heard)
    lines = ["Client c-w1 closed its connection.", "Error: disk full", "Reloading config."]
    for line in (*lines, "No will message specified.", "Will message specified (1 bytes) (r1, q1)."):
        refusals.line(line)
    assert heard[2:] == lines


def connected(*clients: tuple[str, str]) -> ClientConnections:
    connections = ClientConnections()
    for client, user in clients:
        connections.line(new(client, user))
    return connections


def message(client: str, size: int, topic: str = "f1/d/w1/alice") -> bytes:
    return f"Received PUBLISH from {client} (d0, q1, r0, m7, '{topic}', ... ({size} bytes))".encode()


@pytest.mark.parametrize(
    ("client", "topic"),
    [
        ("e-alice", "f1/d/w1/alice"),
        ("e alice (d0, q0", "f1/d/w1/alice"),
        ("e-alice", "f1/o/x (d0, q0, r0, m0, 'y/alice"),
        ("e-alice (d1", "f1/o/ (d/alice"),
    ],
)
def test_a_message_is_its_users_whatever_names_hold(client: str, topic: str) -> None:
    published = Traffic(connected((client, "alice"), ("e-bob", "bob")))
    published.line(message(client, 60, topic))
    published.line(message("e-bob", 5))
    published.line(message("nobody", 7))
    assert published.messages == {"alice": 1, "bob": 1}
    assert published.payload == {"alice": 60, "bob": 5}
    published.line(f"Received PUBACK from {client} (Mid: 7, RC:0)".encode())
    assert published.others == {"alice": 1}


def test_a_packet_with_many_filters_counts_for_all_of_them_and_by_what_they_take() -> None:
    published = Traffic(connected(("e-alice", "alice"), ("e-bob", "bob")))
    for client in ("e-alice", "e-bob"):
        published.line(f"Received SUBSCRIBE from {client}".encode())
        for _ in range(100):
            published.line(b"\tf1/v/x (QoS 0)" if client == "e-bob" else (b"\t" + 2000 * b"x")[:980])
    assert published.others == {"alice": 2001, "bob": 2001}
    assert published.payload == {"alice": 100 * 262_144, "bob": 1500}


def test_wills_of_a_crowd_that_connects_count_for_nobody() -> None:
    """Their topics look like filters of whoever sent the packet before, who was banned for them."""
    published = Traffic(connected(("e-alice", "alice")))
    published.line(b"Received PINGREQ from e-alice")
    for _ in range(1000):
        for line in (b"Will message specified (60 bytes) (r1, q1).", b"\tf1/e/bob"):
            if line.startswith(rates.PACKETS):
                published.line(line)
    assert published.others == {"alice": 1}


def test_a_line_that_mosquitto_cut_off_counts_as_much_as_there_may_be() -> None:
    published = Traffic(connected(("e-alice", "alice")))
    published.line(message("e-alice", 5, "f1/o/" + 2000 * "x")[:1000])
    published.line(message(2000 * "x", 5)[:1000])
    assert published.messages == {"alice": 1}
    assert published.payload == {"alice": 262_144}


def handed(client: str, topic: str, qos: int = 1) -> bytes:
    return f"Sending PUBLISH to {client} (d0, q{qos}, r0, m7, '{topic}', ... (60 bytes))".encode()


def guard(limits: ClientLimits, connections: ClientConnections) -> tuple[Guard, Traffic]:
    published = Traffic(connections)
    made = Guard(limits, published, connections, 0.0)
    made.know((*USERS, User("bob", Role.EDGE, hashed("x"))))
    return made, published


PACKETS = (
    message("a", 1).decode(),
    "Received SUBSCRIBE from a",
    "Received PINGREQ from a",
    "Denied PUBLISH from a (d0, q0, r0, m0, 'f1/v/bob', ... (8 bytes))",
)


@given(st.sampled_from(PACKETS), st.lists(st.integers(0, 100), min_size=1, max_size=60))
def test_who_keeps_to_the_rate_stays_and_who_does_not_goes(packet: str, each: list[int]) -> None:
    """Messages by second, against the rule itself: ten seconds' worth at once, and the rate from then on."""
    limits = ClientLimits(client_messages=20, client_kb=0, client_connections=0, put_out=1e9)
    watching, published = guard(limits, connected(("a", "alice"), ("w", "w1")))
    level, over = 0.0, False
    for second, number in enumerate(each, 1):
        for _ in range(number):
            published.line(packet.encode())
        published.line(handed("w", "f1/d/w1/alice"))
        for _ in range(2 * number):
            published.line(message("w", 1, "f1/v/alice"))
        said = [user for user, _, _ in watching.look(float(second))]
        level = max(0.0, level - 20.0) + number
        assert said == (["alice"] if level > 200.0 and not over else [])
        over = over or level > 200.0
    assert set(watching.banned) == ({"alice"} if over else set())


def test_bytes_and_connections_are_bounded_too_and_time_heals() -> None:
    clients = [(f"b{number}", "bob") for number in range(3)]
    limits = ClientLimits(client_messages=0, client_kb=1, client_connections=2, put_out=5.0)
    connections = connected(("a", "alice"), *clients, *((f"w{number}", "w1") for number in range(9)))
    watching, published = guard(limits, connections)
    published.line(message("a", 10_001))
    found = sorted(excess[:2] for excess in watching.look(1.0))
    assert found == [("alice", "rate"), ("bob", "connections"), ("w1", "connections")]
    assert watching.look(2.0) == []
    for client in (*(client for client, _ in clients), *(f"w{number}" for number in range(9))):
        connections.line(f"Client {client} disconnected: Administrative action.")
    assert set(watching.banned) == {"alice", "bob", "w1"}
    assert watching.look(6.5) == []
    assert watching.banned == {}
    for _ in range(
        27
    ):  # and not often one after the other: 20 in the mean of ten seconds, and 10 s passed for two
        connections.line(new("b0", "bob"))
        connections.line("Client b0 disconnected.")
    assert watching.look(7.0) == [("bob", "rate", "of 54 new connections a second; it is banned for 5 s")]


WORKERS = (*USERS, User("w2", Role.WORKER, hashed("x"), ("v2",)))
LIMITS = ClientLimits(client_messages=200, client_kb=0, client_connections=0, put_out=1e9)
"""A worker has 20 of these a second, 200 at once, beyond what it is asked."""


def workers() -> tuple[Guard, Traffic]:
    watching, published = guard(LIMITS, connected(("a", "alice"), ("w", "w1"), ("e", "w2")))
    watching.know(WORKERS)
    return watching, published


@given(
    st.sampled_from(("f1/d/w1/alice", "f1/o/v1/alice")),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 600)), max_size=20),
)
def test_a_worker_may_answer_what_it_is_asked_and_little_beyond(
    topic: str, each: list[tuple[int, int]]
) -> None:
    """Asks and answers by second, against the rule itself; a worker that is asked nothing says as much beside it."""
    watching, published = workers()
    owed = 0
    levels, over = {"w1": 0.0, "w2": 0.0}, set[str]()
    for second, (asks, answers) in enumerate(each, 1):
        for _ in range(asks):
            published.line(handed("w", topic))
        owed = min(owed + asks * MAX_ANSWERS, 64 * MAX_ANSWERS)
        for _ in range(answers):
            published.line(message("w", 60, "f1/v/alice"))
            published.line(message("e", 60, "f1/v/alice"))
        asked, owed = min(owed, answers), max(0, owed - answers)
        for user, more in (("w1", answers - asked), ("w2", answers)):
            levels[user] = max(0.0, levels[user] - 20.0) + more
        late = {user for user in levels if levels[user] > 200.0} - over
        assert {user for user, _, _ in watching.look(float(second))} == late
        over |= late
        levels = {user: 0.0 if levels[user] > 200.0 else levels[user] for user in levels}


@pytest.mark.parametrize(
    ("topic", "size", "goes"),
    [
        ("f1/v/alice", 60, False),
        ("f1/r/alice/7", 60, False),
        ("f1/v/bob", 60, True),
        ("f1/v/alice", 250_000, True),
        ("f1/w/w1", 60, True),
    ],
)
def test_what_a_device_asks_is_for_answers_to_that_device(topic: str, size: int, goes: bool) -> None:
    watching, published = workers()
    published.line(handed("w", "f1/d/w1/alice"))
    for _ in range(MAX_ANSWERS):
        published.line(message("w", size, topic))
    said = watching.look(1.0)
    assert [(user, kind) for user, kind, _ in said] == ([("w1", "rate")] if goes else [])
    assert all("unasked messages a second" in what for _, _, what in said)


def test_a_worker_does_not_save_up_what_many_devices_ask() -> None:
    watching, published = workers()
    devices = [f"d{number}" for number in range(100)]
    for device in devices * 10:
        published.line(handed("w", f"f1/o/v1/{device}"))
    for device in devices[:25]:
        for _ in range(10 * MAX_ANSWERS):
            published.line(message("w", 60, f"f1/v/{device}"))
    assert watching.look(1.0) == []
    for device in devices[25:]:
        for _ in range(10):
            published.line(message("w", 60, f"f1/v/{device}"))
    assert watching.look(2.0) == []
    for _ in range(1600 + 2 * 20 + 200):
        published.line(message("w", 60, "f1/v/d99"))
    assert [user for user, _, _ in watching.look(3.0)] == ["w1"]


def test_a_broker_lets_a_worker_say_as_much_as_the_protocol_has_it_say() -> None:
    assert rates.ANSWERS == MAX_ANSWERS


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_acknowledgements_of_what_a_worker_is_asked_are_no_packets_of_its_own(qos: int) -> None:
    watching, published = workers()
    for _ in range(3000):
        published.line(handed("w", "f1/d/w1/alice", qos))
        for packet in (["PUBACK"], ["PUBREC", "PUBCOMP"])[qos - 1] if qos else ():
            published.line(f"Received {packet} from w (Mid: 7, RC:0)".encode())
        published.line(f"Received PUBLISH from w (d0, q{qos}, r0, m7, 'f1/v/alice', ... (60 bytes))".encode())
        if qos == 2:
            published.line(b"Received PUBREL from w (Mid: 7)")
    assert published.others["w1"] == 0
    assert watching.look(1.0) == []
    for _ in range(2001):
        published.line(b"Received PINGREQ from w")
    assert [(user, kind) for user, kind, _ in watching.look(1.0)] == [("w1", "rate")]


def test_nobody_is_banned_without_a_bound() -> None:
    limits = ClientLimits(client_messages=0, client_kb=0, client_connections=0)
    watching, published = guard(limits, connected(*((f"a{number}", "alice") for number in range(99))))
    for _ in range(1000):
        published.line(message("a1", 250_000))
    assert watching.look(0.1) == []


@pytest.mark.parametrize("what", ["messages", "other packets"])
async def test_a_flood_is_cut_off_and_nobody_else_notices(tmp_path: Path, what: str) -> None:
    directory = made(tmp_path / "d")
    good("add-device", directory, "alice", "bob")
    with (directory / "broker.toml").open("a") as settings:
        settings.write("client_messages = 30\nput_out = 0.5\n")
    alice, bob = (as_client(directory / "hand-out" / "edge" / name) for name in ("alice", "bob"))

    async def flood(settings: LinkSettings) -> None:
        async with mqtt_link(settings) as link:
            await link.wait_up(60)
            for number in count():
                await asyncio.sleep(0)
                await link.wait_up(60)  # a filter is remembered while the link is down
                if what == "messages":
                    await link.publish("f1/e/alice", b"x", qos=1, retain=True)
                else:
                    await link.subscribe(f"f1/v/alice/{number}", 0)

    log = tmp_path / "log"
    with running(directory, log):
        async with mqtt_link(bob) as other:
            await other.wait_up(60)
            # Mosquitto cuts lines off behind 1,000 bytes, so before the user of a client with such an id.
            with pytest.raises(LinkError):
                await flood(replace(alice, client_id=2000 * "x", give_up_after=0.5))
            async with asyncio.timeout(60):
                with pytest.raises(LinkError):
                    await flood(alice)
            await other.publish("f1/e/bob", b"x", qos=1, retain=True)
            assert other.counters.disconnects == 0
            async with asyncio.timeout(60):  # and is let in again when its time is over
                while True:
                    try:
                        async with mqtt_link(alice) as link:
                            await link.wait_up(60)
                            break
                    except LinkError:
                        await asyncio.sleep(0.1)
    told = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert any("client id of some 900" in text and "its connection was ended" in text for text in told)
    (line,) = [text for text in told if text.startswith("user alice was refused: rate")]
    assert f"{what} a second; it is banned for 0.5 s" in line


async def test_a_worker_that_answers_who_asked_nothing_is_banned_and_who_was_asked_stays(
    tmp_path: Path,
) -> None:
    directory, log = made(tmp_path / "d"), tmp_path / "log"
    good("add-device", directory, "alice")
    good("add-worker", directory, "w1", "--version", "v1")
    good("add-worker", directory, "evil", "--version", "other")
    w1, evil = (as_client(directory / "hand-out" / "worker" / name) for name in ("w1", "evil"))
    alice = replace(
        as_client(directory / "hand-out" / "edge" / "alice"), subscriptions=(Subscription("f1/v/alice"),)
    )

    async def answers(link: Link) -> None:
        """More than a worker may say unasked, by twenty asks."""
        async for event in link.events():
            if isinstance(event, Inbound):
                for _ in range(250):
                    await link.publish("f1/v/alice", b"asked")

    async def forges() -> None:
        async with mqtt_link(evil) as link:
            await link.wait_up(20)
            while True:
                await link.publish("f1/v/alice", b"forged")
                await asyncio.sleep(0)

    with running(directory, log):
        async with (
            mqtt_link(alice) as device,
            mqtt_link(replace(w1, subscriptions=(Subscription("f1/d/w1/+"),))) as worker,
            running_task(answers(worker), "answers"),
        ):
            await device.wait_up(20)
            await worker.wait_up(20)
            heard = Counter[bytes]()

            async def hear() -> None:
                async for event in device.events():
                    if isinstance(event, Inbound):
                        heard[event.payload] += 1

            async with running_task(hear(), "hear"):
                for number in range(1, 11):
                    for _ in range(2):
                        await device.publish("f1/d/w1/alice", b"asks", qos=1)
                    await until(lambda number=number: heard[b"asked"] == number * 500)  # type: ignore[misc]
                async with asyncio.timeout(60):
                    with pytest.raises(LinkError):
                        await forges()
                with pytest.raises(LinkRefused):
                    async with mqtt_link(evil) as link:
                        await link.wait_up(60)
                forged = heard[b"forged"]
                await device.publish("f1/d/w1/alice", b"asks", qos=1)
                await until(lambda: heard[b"asked"] == 5250)
                assert worker.counters.disconnects == device.counters.disconnects == 0
                assert heard[b"forged"] == forged
    told = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    (line,) = [text for text in told if "was refused: rate" in text]
    assert line.startswith("user evil was refused: rate of ")
    assert "unasked messages a second; it is banned for 60 s" in line


Labels = frozenset[tuple[str, str]]


def figures(port: int) -> dict[tuple[str, Labels], float]:
    page = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=20.0)
    assert page.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> tuple[str, Labels]:
    return f"flexspec_broker_{name}", frozenset(labels.items())


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
    connections = connected(("c of alice", "alice"), ("d", "alice"), ("e", "bob"))
    assert connections.counts() == {"alice": 2, "bob": 1}
    connections.line("Client d already connected, closing old connection.")
    connections.line(new("d", "alice"))
    connections.line("Client d disconnected, not authorised.")  # a stranger, who claims its id
    assert connections.counts() == {"alice": 2, "bob": 1}
    connections.line(end)
    connections.line(end)
    assert connections.counts() == {"alice": 1, "bob": 1}
    assert connections.user_of("c of alice") == "alice"


def test_it_is_shown_to_this_machine_only() -> None:
    everywhere = MetricsOptions(metrics_port=0, metrics_host="0.0.0.0")  # noqa: S104  refused
    with pytest.raises(UsageError, match="could be read by others"), shown(dict, everywhere):
        pass


async def test_what_a_running_broker_refuses_is_counted_and_logged(tmp_path: Path) -> None:
    directory, log = made(tmp_path / "d", "--keys"), tmp_path / "log"
    good("add-device", directory, "alice", "bob")
    port = free_port()
    with (directory / "broker.toml").open("a") as settings:
        settings.write(f"metrics_port = {port}\n")
    denied, there = series("refused_total", user="alice", kind="publish"), series("connections", user="alice")
    with running(directory, log):
        async with mqtt_link(as_client(directory / "hand-out" / "edge" / "alice")) as link:
            await link.wait_up(60)
            for _ in range(3):
                with pytest.raises(PublishRefused) as refused:
                    await link.publish("f1/v/bob", b"forged", qos=1)
                assert refused.value.reason_code == NOT_AUTHORIZED
            for topic in ("$share/w/f1/o/v1/+", "f1/v/alice", "f1/w/+"):
                await link.subscribe(topic, 1)
            # Mosquitto's log is read on its own way, which may be behind its answers.
            await until(
                lambda: figures(port).get(series("refused_total", user="alice", kind="subscribe")) == 1
            )
            found = figures(port)
            assert (found[denied], found[there], found[series("statement")]) == (3, 1, 1)
            assert httpx2.get(f"http://127.0.0.1:{port}/readyz").text == "ready\n"
            good("revoke", directory, "alice")
        await until(lambda: there not in figures(port))
        found = figures(port)
    revision = json.loads((directory / "identities.json").read_text())["revision"]
    known = {"clients": 1, "revision": revision, "statement": 2, "revoked_credentials": 1, "put_out": 0}
    assert {name: found[series(name)] for name in known} == known
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/metrics")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [line["message"] for line in lines if line["logger"] == "broker.watching.refusals"]
    assert [line.partition(" (")[0] for line in told] == [
        "user alice was refused: publish on f1/v/bob",
        "user alice was refused: subscribe to $share/w/f1/o/v1/+: it may read a part of that only, or nothing",
    ]
