"""Statuses that lie: what they recommend changes no text, and where there are keys what they claim is not shown."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.tasks import running as running_task
from flexspec_mq.keys.documents import KeyRole
from flexspec_mq.keys.identity_file import KeyIdentity, read_identity
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import PartialSampling
from schemas.status import VersionStatus, WorkerStatus
from tests.broker.deployments import as_client, good, made, running
from tests.daemons import Daemon, until, worker_at
from tests.edge_node.api.served import Opinionated, Served, content, links_to, served, text_at
from tests.keys.deployments_of_keys import status_by
from tests.transport.reading import linked

CODEC = Codec()
RECOMMENDED = PartialSampling(temperature=0.25)
RARELY: dict[str, Any] = {"status_every": 60.0}
"""So that a liar's status is the newest one."""


def said(
    worker: str,
    version: str,
    versions: tuple[VersionStatus, ...] = (),
    temperature: float = 100.0,
    state: Literal["online", "gone"] = "online",
) -> WorkerStatus:
    """A status that tempts devices."""
    return WorkerStatus(
        state=state, epoch=1, at=time.time(), worker=worker, version=version, versions=versions,
        recommended=PartialSampling(temperature), life=9,
    )  # fmt: skip


async def written(api: Served, seed: int, **more: Any) -> tuple[str, float]:
    """A chat's text, and the temperature that its answer tells."""
    answer = await api.chat(seed=seed, max_tokens=30, ignore_eos=True, **more)
    return content(answer), answer.json()["usage"]["flexspec"]["temperature"]


async def models(api: Served) -> set[str]:
    return {model["id"] for model in (await api.get("/v1/models")).json()["data"]}


@pytest.mark.parametrize("temperature", [1.5, 100.0])
async def test_what_another_worker_recommends_changes_no_text(
    mosquitto: PrivateBroker, temperature: float
) -> None:
    """Without keys too: the worker that takes the session says what it is."""
    async with (
        mqtt_link(LinkSettings(port=mosquitto.port, client_id=f"liar-{temperature}")) as link,
        served(mosquitto, engine=Opinionated(RECOMMENDED), worker=RARELY) as api,
    ):
        await link.wait_up()
        liar = f"liar{temperature}"
        topic = topics.worker_status_topic(liar)
        await link.publish(
            topic, CODEC.encode_status(said(liar, api.version, (), temperature)), qos=1, retain=True
        )
        await until(lambda: len(api.node.directory.online()) == 2)
        counters = api.daemons[0].worker.machine.counters
        for seed, opened in ((1, 2), (2, 3), (3, 4)):  # one that began otherwise was begun again
            assert await written(api, seed) == (text_at(0.25, seed, 30), 0.25)
            assert counters.opened == opened
        assert await written(api, 4, temperature=1.5) == (text_at(1.5, 4, 30), 1.5)
        assert counters.opened == 5
        await until(lambda: not api.daemons[0].worker.machine.live)
        await link.publish(topic, b"", qos=1, retain=True)


async def test_a_text_is_begun_again_once_where_workers_disagree(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, workers=0) as api:
        link, version = links_to(mosquitto), api.version
        cold, warm = Opinionated(RECOMMENDED), Opinionated(PartialSampling(temperature=0.75))
        async with (
            worker_at(link, "asd-1", cold, version=version, **RARELY) as first,
            worker_at(link, "asd-2", warm, version=version, **RARELY) as second,
        ):
            await until(lambda: len(api.node.directory.online()) == 2)
            for seed in range(8):
                text, temperature = await written(api, seed)
                assert temperature in {0.25, 0.75}
                assert text == text_at(temperature, seed, 30)
            opened = [one.worker.machine.counters.opened for one in (first, second)]
            assert all(opened)
            assert 8 < sum(opened) <= 16


async def test_a_text_goes_on_as_it_began_where_the_next_worker_recommends_otherwise(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, workers=0) as api:
        link, version = links_to(mosquitto), api.version
        slow, other = Opinionated(RECOMMENDED), Opinionated(PartialSampling(temperature=0.75))
        async with worker_at(link, "asg-1", slow, version=version) as first:
            await until(lambda: version in api.node.directory.versions())
            slow.before = lambda _: time.sleep(0.003)
            asking = asyncio.create_task(api.chat(seed=1, max_tokens=400, ignore_eos=True))
            await until(lambda: len(slow.batches) > 10)
            async with worker_at(link, "asg-2", other, version=version) as second:
                await first.kill()
                answer = await asking
                assert second.worker.machine.counters.opened == 1
        assert content(answer) == text_at(0.25, 1, 400)
        assert answer.json()["usage"]["flexspec"]["temperature"] == 0.25


async def refused(link: Link, worker: str, status: bytes, api: Served, why: KeyReason) -> None:
    """Write a status that is refused, wholly or in part, and wait until it is."""
    before = api.node.refused.get(why, 0)
    await link.publish(topics.worker_status_topic(worker), status, qos=1, retain=True)
    await until(lambda: api.node.refused.get(why, 0) > before)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A deployment with keys by the commands, which runs: a device, and workers of one version each."""
    directory = made(tmp_path_factory.mktemp("statuses") / "d", "--keys")
    good("add-worker", directory, "honest", "--version", "base")
    good("add-worker", directory, "liar", "--version", "other")
    good("add-device", directory, "kitchen")
    with running(directory, directory.parent / "log"):
        yield directory / "hand-out"


@dataclass
class Place:
    """A device of a deployment, its honest worker, the files of a liar, and what the honest one has said."""

    api: Served
    worker: Daemon
    honest: KeyIdentity
    liar: KeyIdentity
    heard: list[bytes]


@asynccontextmanager
async def place(deployment: Path, as_whom: str) -> AsyncIterator[tuple[Place, Link]]:
    """A link on which everybody's statuses are heard, and written as one of the workers may."""
    honest, liar, kitchen = (deployment / at for at in ("worker/honest", "worker/liar", "edge/kitchen"))
    device: dict[str, Any] = {"edge": "kitchen", "keys": kitchen / "keys.json"}
    serves = worker_at(
        mqtt_link, "honest", Opinionated(RECOMMENDED), as_client(honest), version="base",
        keys=honest / "keys.json", share_groups=honest / "share-groups", **RARELY,
    )  # fmt: skip
    heard: list[bytes] = []
    mine = replace(as_client(deployment / "worker" / as_whom), client_id="writes")
    async with (
        linked(mine) as link,
        running_task(_hear(link, heard), "hears"),
        serves as daemon,
        served(None, workers=0, version="base", edge=device, at=as_client(kitchen)) as api,
    ):
        await until(lambda: "base" in api.node.directory.versions() and heard)
        one, other = (read_identity(at / "keys.json", KeyRole.WORKER) for at in (honest, liar))
        yield Place(api, daemon, one, other, heard), link


async def _hear(link: Link, heard: list[bytes]) -> None:
    await link.subscribe("f1/w/honest")
    async for event in link.events():
        heard += [event.payload] if isinstance(event, Inbound) else []


async def test_a_worker_of_another_version_says_nothing_of_ours(
    deployment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed by itself, by nobody, or under the credential of the version's worker; on the topic that it may write."""
    async with place(deployment, "liar") as (here, link):
        api, own = here.api, partial(status_by, here.liar)
        both = tuple(VersionStatus(name=name) for name in ("base", "ghost", "other"))
        for seed, (status, why, known) in enumerate(
            (
                (own(said("liar", "base")), KeyReason.CREDENTIAL, {"base"}),
                (CODEC.encode_status(said("liar", "base", both)), KeyReason.CREDENTIAL, {"base"}),
                (
                    own(said("liar", "base", both), here.honest.status_credential),
                    KeyReason.CREDENTIAL,
                    {"base"},
                ),
                (own(said("liar", "base", both)), KeyReason.CREDENTIAL, {"base", "other"}),
            )
        ):
            await refused(link, "liar", status, api, why)
            assert await models(api) == known
            assert await written(api, seed) == (text_at(0.25, seed, 30), 0.25)
            assert here.worker.worker.machine.counters.opened == seed + 1  # nothing was begun in vain
        assert (await api.chat(model="ghost")).status_code == 404
        await link.publish("f1/w/liar", own(said("liar", "other", state="gone")), qos=1, retain=True)
    line = "refused, credential: on f1/w/liar: worker liar may not serve what it says it does: base"
    assert any(record.getMessage().startswith(line) for record in caplog.records)


async def test_whoever_runs_the_broker_has_no_word_in_a_workers_name(deployment: Path) -> None:
    """It may write what it likes, with all that it ever heard: no text is begun in vain, and nobody waits."""
    async with place(deployment, "honest") as (here, link):
        api, kept, credential = here.api, here.heard[-1], here.honest.status_credential
        here.worker.worker.publish_status()
        await until(lambda: here.heard[-1] != kept)
        genuine = here.heard[-1]
        news = said("honest", "base")
        forged = (
            (CODEC.encode_status(news), KeyReason.CREDENTIAL),
            (CODEC.encode_status(said("honest", "base", state="gone")), KeyReason.CREDENTIAL),
            (genuine.replace(b'"temperature":0.25', b'"temperature":100.0'), KeyReason.FORGED),
            (status_by(here.liar, news, credential), KeyReason.FORGED),
            (status_by(here.liar, news), KeyReason.CREDENTIAL),
            (kept, KeyReason.REPLAYED),
        )
        assert kept != genuine != forged[2][0]
        for seed, (status, why) in enumerate(forged):
            await refused(link, "honest", status, api, why)
            assert await models(api) == {"base"}
            assert await written(api, seed) == (text_at(0.25, seed, 30), 0.25)
            assert here.worker.worker.machine.counters.opened == seed + 1
        await here.worker.kill()
        await until(lambda: not api.node.directory.online())
        for status, _ in forged:
            await link.publish("f1/w/honest", status, qos=1, retain=True)
        await link.publish("f1/w/honest", genuine, qos=1, retain=True)  # the last word before it went
        assert (await api.chat()).status_code == 503
        assert not api.node.directory.online()
