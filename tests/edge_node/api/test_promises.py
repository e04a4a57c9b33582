"""Whether a worker promises to keep an answer that is to be delivered is told, whichever it is."""

import logging
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.settings import QuotaSettings
from tests.edge_node.api.served import alone, content, served

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("kept", [60, 0])
async def test_a_text_says_for_how_long_its_worker_would_keep_it(
    mosquitto: PrivateBroker, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "edge_node.completion.generator")
    async with served(mosquitto, worker={"quotas": QuotaSettings(deliver_for=kept)}) as node:
        asked: dict[str, Any] = {"seed": 3, "temperature": 0, "max_tokens": 20, "ignore_eos": True}
        answer = await node.chat(offline="deliver", **asked)
        assert content(answer) == alone("hello", 3, 20, ignore_eos=True)
        assert answer.json()["usage"]["flexspec"]["delivers"] == kept
        assert ("waits for this device like any other" in caplog.text) is (kept == 0)
        hold = await node.chat(**asked)
        assert hold.json()["usage"]["flexspec"]["delivers"] == 0
        assert caplog.text.count("waits for this device like any other") == (kept == 0)
