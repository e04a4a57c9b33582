"""Vectors of a server's, from the device's HTTP through Mosquitto to the server and back."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from broker.launcher import PrivateBroker
from tests.cloud_worker.test_chat_server import site
from tests.engine_server import EngineServer

TEXTS = ["hello", "a second text", "Grüße, 世界"]


@pytest.fixture
def server(tiny: Path) -> Iterator[EngineServer]:
    with EngineServer(tiny, name="org/tiny:1b") as server:
        yield server


async def test_vectors_are_the_servers_own_by_each_api(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    alone = server.vectors(*TEXTS)
    async with site(mosquitto, server, "own") as api:
        asked = {"model": "tiny-1b", "input": TEXTS}
        answer = (await api.post("/v1/embeddings", asked)).json()
        assert [each["embedding"] for each in answer["data"]] == alone
        assert [each["index"] for each in answer["data"]] == [0, 1, 2]
        usage = answer["usage"]
        assert (answer["model"], usage["completion_tokens"]) == ("tiny-1b", 0)
        assert usage["total_tokens"] == usage["prompt_tokens"] > len(TEXTS)
        answer = (await api.post("/v1/embeddings", {**asked, "encoding_format": "base64"})).json()
        packed = [b64decode(each["embedding"]) for each in answer["data"]]
        assert packed == [struct.pack(f"<{len(each)}f", *each) for each in alone]
        made = await api.client.embeddings.create(model="own", input=TEXTS[0], dimensions=7)
        assert made.data[0].embedding == alone[0][:7]
        async with ollama.AsyncClient(api.url, trust_env=False) as client:
            embedded = await client.embed("own", TEXTS)
            assert [[*each] for each in embedded.embeddings] == alone
            assert embedded.prompt_eval_count == usage["prompt_tokens"]
            assert embedded.total_duration
            assert [*(await client.embeddings("own", TEXTS[1])).embedding] == alone[1]
            assert (await client.embed("own", "")).embeddings == []
