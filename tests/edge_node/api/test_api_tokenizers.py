"""A target whose tokenizer is not quite the draft's: what goes all the same, and what is said before anybody asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_field

from broker.launcher import PrivateBroker
from cloud_worker.engine.interface import Facts
from edge_node.api import client
from edge_node.api.client import RunningNode, find_node
from flexspec_mq.protocol.edge.types import SessionRequest
from lab.simulator.world import EOS, FINGERPRINT, VOCAB
from schemas.messages import Identity, Sampling
from schemas.status import TokenizerStatus
from tests.daemons import TARGET, FakeEngine, until
from tests.edge_node.api.served import (
    CONTEXT,
    TEMPLATE,
    Served,
    another,
    content,
    said,
    served,
    shown,
    speech,
    tokenizer,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER_TEMPLATE = replace_field(speech().tokenizer_status, rows=0, template="00" * 8, eos=(3, EOS))
OTHER_IDS = replace_field(OTHER_TEMPLATE, vocabulary="00" * 16)
ASKS = "{% for m in messages %}{{ '?' + m['content'] }}{% endfor %}!"
ENDS = f"it ends texts with id 3 or id {EOS} and the draft with id {EOS}"


def silent(tokenizer: TokenizerStatus | None) -> Facts:
    """A target whose worker tells its tokenizer in short and nothing more, or with None its fingerprint alone."""
    return replace(FakeEngine().facts, tokenizer=tokenizer, fingerprint=bytes(16))


def written(prompt: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """The target's text that ends with id 3 too."""
    identity = Identity(2, FINGERPRINT, Sampling(seed=seed), (3, EOS), False, 40)
    return TARGET.text(SessionRequest(session=1, version="base", identity=identity, prompt=prompt))[0]


async def readiness(api: Served) -> tuple[int, dict[str, str]]:
    answer = await api.get("/readyz")
    told = answer.json()
    assert told.pop("connection")["state"] == ("online" if answer.status_code == 200 else "degraded")
    return answer.status_code, told


async def test_a_target_with_another_chat_template_and_end_is_written_by_its_own(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"the chat templates differ; prompts are written by the target's; {ENDS}"
    async with served(mosquitto, engine=FakeEngine(facts=another(ASKS))) as api:
        ids = tuple(tokenizer().encode("?hello!"))
        ended = ((seed, tokens) for seed in range(99) if (tokens := written(ids, seed))[-1] == 3)
        seed, tokens = next(ended)
        answer = await api.chat(seed=seed, max_tokens=40)
        assert content(answer) == shown(tokens)
        assert answer.json()["usage"]["prompt_tokens"] == len(ids)
        assert (await api.get("/v1/models")).json()["data"][0]["max_model_len"] == CONTEXT
        assert await readiness(api) == (200, {"status": "ready", "reason": words})
        node = await asyncio.to_thread(find_node, "127.0.0.1", api.port)
        assert node is not None
        assert node.state.startswith("online for ")
        assert node == RunningNode("127.0.0.1", api.port, "", node.state)
        monkeypatch.setattr(client, "_MOST", 10)  # of what anything says that listens there
        assert await asyncio.to_thread(find_node, "127.0.0.1", api.port) is None
        # Statuses are renewed several times a second here; a warning comes once.
        first = api.node.directory.status(api.version)
        await until(lambda: api.node.directory.status(api.version) is not first)
        (warning,) = [one.getMessage() for one in caplog.records if one.name == "edge_node.fleet.models"]
        assert warning.endswith(f"at worker {first and first.worker} is not quite the draft's: {words}")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (another(TEMPLATE, "zz"), f"its vocabulary has {VOCAB} tokens as ours, and some of them are others"),
        (silent(OTHER_IDS), f"its vocabulary has {VOCAB} tokens as ours, and some of them are others"),
        (silent(OTHER_TEMPLATE), "how its texts are written cannot be read"),
        (silent(None), "the worker does not say in what it differs"),
    ],
    ids=["told", "ids", "template", "nothing"],
)
async def test_a_target_whose_ids_mean_others_makes_the_node_not_ready(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture, facts: Facts, why: str
) -> None:
    async with served(mosquitto, engine=FakeEngine(facts=facts)) as api:
        message = said(await api.chat(max_tokens=5), 503, "no_worker")["message"]
        assert f"the tokenizer of this node is not the target's: {why}" in message
        reason = f"the draft is for another tokenizer than the target's: {why}"
        assert await readiness(api) == (503, {"status": "not ready", "reason": reason})
        assert f"{why}; no text of it can be written with this draft" in caplog.text


async def test_one_worker_that_fits_makes_the_node_ready(mosquitto: PrivateBroker) -> None:
    async with (
        served(mosquitto, engine=FakeEngine(facts=silent(OTHER_IDS))) as other,
        served(mosquitto, version=other.version) as api,
    ):
        await until(lambda: len(api.node.directory.online()) == 2)
        assert await readiness(api) == (200, {"status": "ready"})


async def test_what_other_versions_have_concerns_nobody(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(mosquitto) as api,
        served(mosquitto, engine=FakeEngine(facts=silent(OTHER_IDS))) as other,
    ):
        await until(lambda: other.version in api.node.directory.versions())
        assert await readiness(api) == (200, {"status": "ready"})
        assert f"the tokenizer of {other.version} at" in caplog.text
        assert caplog.text.count("is not quite the draft's") == 1, "the node that asks for it says so alone"
