"""Real brokers, listeners and daemons with one thing wrong, and the doctor that looks at them."""

import asyncio
import json
import os
import signal
import socketserver
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

import cloud_worker.__main__ as cloud
import edge_node.cli.main as edge
from broker.access import AccessRules
from broker.files import write_private
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from cloud_worker.doctor import WorkerDoctor
from cloud_worker.engine.interface import Facts
from cloud_worker.settings import from_arguments as cloud_config
from edge_node.config import from_arguments as edge_config
from edge_node.doctor.examine import EdgeDoctor
from flexspec_mq.demo.children import as_child, python
from flexspec_mq.doctor.checks import Finding, State
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.share_groups import new_groups
from lab.simulator.world import FINGERPRINT
from tests.daemons import Daemon, FakeDrafter, FakeEngine, worker_at
from tests.edge_node.api.served import links_to, speech

QUICK = 1.0
"""Seconds to listen to workers that renew their status every 0.2 s."""
EDGE, WORKER = "truck", "w1"
GROUPS = new_groups()
USERS = tuple(
    User(name, role, hashed(f"secret-of-{name}")) for name, role in ((EDGE, Role.EDGE), (WORKER, Role.WORKER))
)


async def look(
    broker_at: str, *flags: str, fingerprint: bytes = FINGERPRINT, listening: float = QUICK
) -> list[Finding]:
    """Findings of an edge node's doctor; its draft is a pure function, all else is real."""
    model = DraftModel(replace(speech(), fingerprint=fingerprint), cast("Any", FakeDrafter()))
    given = ("doctor", "--broker", broker_at, "--draft", "without-weights", *flags)
    if "--edge" not in flags:
        given = (*given, "--edge", EDGE)
    if "--api-port" not in flags:
        given = (*given, "--api-port", "0")
    config = edge_config(edge.build_parser().parse_args(given)).settings
    doctor = EdgeDoctor(config, lambda _settings, _tell: model, listening)
    return await doctor.examine(lambda _text: None, 50.0)


async def look_at_worker(broker_at: str, *flags: str) -> list[Finding]:
    """Findings of a worker's doctor; its target has no weights, all else is real."""
    given = ("doctor", "--broker", broker_at, "--target", "without-weights", *flags)
    if "--worker" not in flags:
        given = (*given, "--worker", WORKER)
    config = cloud_config(cloud.build_parser().parse_args(given)).settings
    model = cast("Any", speech())
    return await WorkerDoctor(config, lambda _settings: model, QUICK).examine(lambda _text: None, 50.0)


def faults(findings: Sequence[Finding]) -> list[str]:
    """Faults, warnings included, as the doctor names them."""
    bad = (State.FAILED, State.WARNING)
    return [finding.fault or finding.name for finding in findings if finding.state in bad]


def the_fault(findings: Sequence[Finding], fault: str, *detail: str, advice: Sequence[str] = ()) -> Finding:
    """The only fault there is, whose detail and advice hold these words."""
    assert faults(findings) == [fault], findings
    finding = next(finding for finding in findings if finding.fault == fault)
    assert finding.state is State.FAILED
    assert [words for words in detail if words not in finding.detail] == [], finding
    assert [words for words in advice if words not in finding.advice] == [], finding
    return finding


def named(findings: Sequence[Finding], name: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.name == name)
    return finding


def at(where: PrivateBroker) -> str:
    return f"{where.host}:{where.port}"


@asynccontextmanager
async def worker(
    where: PrivateBroker,
    name: str = WORKER,
    user: User | None = None,
    facts: Facts | None = None,
    **settings: Any,
) -> AsyncIterator[Daemon]:
    """A worker whose target is a pure function."""
    engine = FakeEngine(facts=facts)
    known = {"username": user.name, "password": f"secret-of-{user.name}"} if user else {}
    async with worker_at(links_to(where, **known), name, engine, **settings) as daemon:
        yield daemon


@contextmanager
def with_rules(without: Iterable[str] = (), *more: str) -> Iterator[PrivateBroker]:
    """A broker with users, whose access file lacks some lines, and has others."""
    file = AccessRules.file

    def rules(users: AccessRules) -> str:
        lines = [*file(users).splitlines(), *more]
        for line in without:
            lines.remove(line)
        return "\n".join(lines) + "\n"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AccessRules, "file", rules)
        with PrivateBroker(BrokerSettings(port=0, users=USERS)) as where:
            yield where


def login(folder: Path, user: User, password: str = "") -> tuple[str, ...]:
    """Flags of a user's login, and of a worker's groups."""
    secret = folder / user.name
    write_private(secret, f"{password or f'secret-of-{user.name}'}\n")
    flags = ("--username", user.name, "--password-file", str(secret))
    if user.role is not Role.WORKER:
        return flags
    groups = folder / "share-groups"
    write_private(groups, GROUPS.text())
    return (*flags, "--share-groups", str(groups))


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A listener that gives every connection the same answer to its first packet, then hangs up; its port."""

    class Answers(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Told(NamedTuple):
    """Output of a command and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def failures(self) -> list[str]:
        findings = self.document["findings"]
        return [finding["fault"] for finding in findings if finding["state"] == "failed"]


async def doctor(*arguments: str, env: dict[str, str] | None = None) -> Told:
    """Run ``flexspec doctor …`` to its end, which comes with the test's at the latest."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *python("flexspec_mq.cli", "doctor", *arguments),
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, "PYTHONWARNINGS": "default", **(env or {})},
        preexec_fn=as_child(signal.SIGKILL),
    )
    async with asyncio.timeout(100.0):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Told(process.returncode, out.decode(), err.decode())
