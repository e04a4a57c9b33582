"""Promises of a node: whether an answer is kept for it is told, and what is over is not held."""

import gc
import logging
import weakref
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.settings import QuotaSettings
from edge_node.text.reading import ended
from edge_node.text.spec import IdempotencyKey, TextRequest, TextSpec
from tests.daemons import until
from tests.edge_node.api.served import alone, content, served

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("kept", [60, 0])
async def test_a_text_says_for_how_long_its_worker_would_keep_it(
    mosquitto: PrivateBroker, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "edge_node.text.generator")
    async with served(mosquitto, worker={"quotas": QuotaSettings(deliver_for=kept)}) as node:
        asked: dict[str, Any] = {"seed": 3, "temperature": 0, "max_tokens": 20, "ignore_eos": True}
        answer = await node.chat(offline="deliver", **asked)
        assert content(answer) == alone("hello", 3, 20, ignore_eos=True)
        assert answer.json()["usage"]["flexspec"]["delivers"] == kept
        assert ("waits for this device like any other" in caplog.text) is (kept == 0)
        hold = await node.chat(**asked)
        assert hold.json()["usage"]["flexspec"]["delivers"] == 0
        assert caplog.text.count("waits for this device like any other") == (kept == 0)


async def test_a_text_under_a_key_is_not_held_once_it_is_over_and_read(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as node:
        key = IdempotencyKey("k", b"digest")
        async with node.api.texts.reading(TextRequest(spec=TextSpec(prompt="hello", limit=5)), key) as text:
            await ended(text)
        known = weakref.ref(text)
        del text
        await until(lambda: (gc.collect(), known() is None)[1])
