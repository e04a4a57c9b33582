"""Signed documents that expire: nothing new is begun by them, texts that go on end as they should, and all is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.deployment.folder import Deployment
from broker.launcher import PrivateBroker
from cloud_worker.metrics import WorkerMetrics
from flexspec_mq.catalogue.refusals import Reason
from flexspec_mq.daemon.dated import LIFETIME
from flexspec_mq.transport.mqtt import mqtt_link
from tests.broker.deployments import as_client, good, made, running
from tests.daemons import Daemon, FakeEngine, until, worker_at
from tests.edge_node.api.served import Served, alone, content, links_to, said, served
from tests.edge_node.families import STABLE, Family, publisher, version

HOLDS = 5.0
"""Seconds for which a document holds when a test begins."""
LONG = 500


def slow() -> FakeEngine:
    """An engine whose long texts outlast a document."""
    return FakeEngine(before=lambda _: time.sleep(0.03))


def asked(api: Served, limit: int = LONG) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(api.chat(seed=1, max_tokens=limit, ignore_eos=True))


async def ready(api: Served) -> tuple[int, str]:
    answer = await api.get("/readyz")
    return answer.status_code, answer.text


async def writes(api: Served) -> None:
    assert content(await asked(api, 20)) == alone("hello", 1, 20, ignore_eos=True)


@asynccontextmanager
async def deployed(directory: Path) -> AsyncIterator[tuple[Daemon, Path]]:
    """A worker of a deployment, and the folder of a device."""
    honest = directory / "hand-out" / "worker" / "honest"
    serves = worker_at(
        mqtt_link, "honest", slow(), as_client(honest), version="base",
        keys=honest / "keys.json", share_groups=honest / "share-groups", status_every=0.2,
    )  # fmt: skip
    async with serves as daemon:
        yield daemon, directory / "hand-out" / "edge" / "kitchen"


async def test_a_statement_that_expired_begins_no_text_until_a_newer_one_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a newer one, which revokes somebody, is withheld; by a deployment of the commands and its broker."""
    directory = made(tmp_path / "d", "--keys")
    good("add-worker", directory, "honest", "--version", "base")
    good("add-device", directory, "kitchen")
    began = time.time()
    Deployment(directory, lambda: began - LIFETIME + HOLDS).rotate_keys()
    with running(directory, tmp_path / "log"):
        async with deployed(directory) as (daemon, kitchen):
            device: dict[str, Any] = {"edge": "kitchen", "keys": kitchen / "keys.json"}
            there = served(None, workers=0, version="base", edge=device, at=as_client(kitchen))
            async with there as api:
                await until(lambda: "base" in api.node.directory.versions())
                await writes(api)
                goes_on = asked(api)
                await until(lambda: time.time() > began + HOLDS)
                error = said(await api.chat(), 503, "no_worker")
                assert "the deployment's statement expired on 20" in error["message"]
                assert "`flexspec-broker renew` signs a new one" in error["message"]
                status, why = await ready(api)
                assert (status, "the deployment's statement expired" in why) == (503, True)
                # The worker leaves too: a device that knows better need not ask it.
                await until(lambda: not api.node.directory.online())
                assert "the deployment's statement expired" in daemon.worker.not_ready
                assert not goes_on.done()
                assert content(await goes_on) == alone("hello", 1, LONG, ignore_eos=True)
                (expires,) = (statement.expires for statement in api.node.wire.dated)
                assert await api.metric("flexspec_edge:statement_expires_seconds") == expires
                shown = [
                    metric for metric in WorkerMetrics(daemon.worker).collect() if "expire" in metric.name
                ]
                assert [sample.value for metric in shown for sample in metric.samples] == [expires]
                good("renew", directory)
                await until(api.node.directory.online)
                await writes(api)
                assert (await ready(api))[0] == 200
            again = served(None, workers=0, version="base", edge=device, at=as_client(kitchen))
            async with again as api:  # its file has the old one; the broker the new one
                await writes(api)
    lines = [record.getMessage() for record in caplog.records]
    told = [line for line in lines if line.startswith("the deployment's statement expired on")]
    assert (
        1 <= len(told) <= 2
    )  # by the worker, and by the device, if it was not renewed before it looked again
    assert sum("expires on" in line for line in lines) == 2


async def test_a_key_set_that_expired_begins_no_text_and_its_keys_sign_nothing(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """A thief of an online key, which was replaced since, where the new key set is withheld."""
    family, began = Family(), time.time()
    name = f"{family.name}-a"
    async with (
        publisher(mosquitto, family) as publish,
        worker_at(links_to(mosquitto), f"{family.name}-w", slow(), version=name),
        served(mosquitto, workers=0, family=family.followed(tmp_path)) as api,
    ):
        known = api.node.models.followed
        assert known is not None
        await publish.keys(1, began + HOLDS)
        await publish.catalogue(version(name, STABLE))
        await until(lambda: known.catalogue is not None and name in api.node.directory.versions())
        await writes(api)
        goes_on = asked(api)
        await until(lambda: time.time() > began + HOLDS)
        error = said(await api.chat(), 503, "no_catalogue")
        assert f"key set 1 of {family.name} expired on 20" in error["message"]
        assert "`flexspec head trust`" in error["message"]
        assert (await ready(api))[0] == 503
        assert (await api.get("/v1/models")).json()["data"] == []
        await publish.catalogue(version("evil", STABLE))
        await until(lambda: known.refused[Reason.EXPIRED])
        await publish.keys(2, began)  # nor does one that is over when it comes
        await until(lambda: known.refused[Reason.EXPIRED] == 2)
        assert content(await goes_on) == alone("hello", 1, LONG, ignore_eos=True)
        await publish.keys(3)
        await until(lambda: not known.lapsed)
        assert known.catalogue is not None
        assert known.catalogue.versions[0].name == "evil"  # its signer counts again: it was not replaced
        await publish.catalogue(version(name, STABLE))
        await until(lambda: known.catalogue is not None and known.catalogue.versions[0].name == name)
        await writes(api)
