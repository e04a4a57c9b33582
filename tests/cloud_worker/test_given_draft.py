"""A worker that gives its draft to devices: the file is made once, told in the status, and given in pieces."""

import asyncio
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.engine import draft
from cloud_worker.engine.load import load_engine
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq import topics
from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.blobs import BlobFetch
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import FakeEngine
from tests.models.test_onnx import decoder
from tests.models.tiny_checkpoints import save
from tests.transport.reading import PATIENCE, linked


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save(tmp_path / "small", decoder("smollm2"))


def settings(folder: Path | str) -> WorkerSettings:
    return WorkerSettings(worker="gives", draft=str(folder), give_draft=True, drain=0.0)


async def test_a_device_gets_the_file_that_the_status_names(
    checkpoint: Path, mosquitto: PrivateBroker
) -> None:
    said: list[str] = []
    offer, mapped = draft.offered(settings(checkpoint), said.append)
    assert offer is not None
    assert mapped is not None
    assert said == ["packing small for devices, once"]
    assert draft.offered(settings(checkpoint), said.append)[0] == offer
    assert len(said) == 1
    assert (offer.file, offer.size) == (blob_name(mapped[:]), len(mapped))
    facts = replace(FakeEngine().facts, offer=offer, offered=mapped)
    worker = CloudWorker(settings(checkpoint), FakeEngine(facts=facts))
    into, asker = BytesIO(), "takes"
    fetch = BlobFetch(asker, offer.file, offer.size, into, lambda: "gives", size=offer.size)
    base = LinkSettings(host=mosquitto.host, port=mosquitto.port, client_id="gives")
    device = LinkSettings(
        host=mosquitto.host,
        port=mosquitto.port,
        client_id=asker,
        subscriptions=(Subscription(topics.blob_topic(asker)),),
    )
    async with asyncio.timeout(PATIENCE), linked(device) as link, asyncio.TaskGroup() as tasks:
        daemon = tasks.create_task(worker.run(mqtt_link, base))

        async def take() -> None:
            async for event in link.events():
                if isinstance(event, Inbound):
                    fetch.take(event.payload)

        taking = tasks.create_task(take())
        await worker.ready.wait()
        assert worker._status("online").offer == offer
        assert await fetch.run(link)
        taking.cancel()
        worker.stop()
        await daemon
    assert into.getvalue() == mapped[:]


def test_who_gives_none_offers_none(checkpoint: Path) -> None:
    assert draft.offered(replace(settings(checkpoint), give_draft=False), print) == (None, None)


def test_a_draft_that_cannot_be_given_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--give-draft needs a draft"):
        load_engine(
            replace(settings("lookup"), target="/no/such/model"), print
        )  # before the target is looked for
    with pytest.raises(ModelError, match="is no checkpoint folder"):
        draft.offered(settings(write_onnx(checkpoint, tmp_path / "graphs")), print)
