"""A target whose tokenizer is not quite the draft's: what goes all the same, and what is said before anybody asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_field

from broker.launcher import PrivateBroker
from cloud_worker.engine.interface import Facts
from edge_node.api.client import RunningNode, find_node
from flexspec_mq.controller.plan import Plan
from lab.simulator.world import EOS, FINGERPRINT, VOCAB
from schemas.status import TokenizerStatus
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import Served, alone, content, said, served, speech

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS = speech().tokenizer_status
OTHER_TEMPLATE = replace_field(OURS, template="00" * 8)
OTHER_IDS = replace_field(OURS, vocabulary="00" * 16)
OTHER_END = replace_field(OURS, eos=(3, EOS))
OTHERS = "the vocabularies differ by their contents"
TEMPLATES = "the chat templates differ; prompts are written by the device's"


class Another(FakeEngine):
    """A target with another tokenizer; with None for its status, an older worker that tells a fingerprint alone."""

    def __init__(self, tokenizer: TokenizerStatus | None, fingerprint: bytes = bytes(16)) -> None:
        self._own = (tokenizer, fingerprint)
        super().__init__()

    @property
    def facts(self) -> Facts:
        tokenizer, fingerprint = self._own
        return replace(super().facts, tokenizer=tokenizer, fingerprint=fingerprint)


async def readiness(api: Served) -> tuple[int, dict[str, str]]:
    answer = await api.get("/readyz")
    return answer.status_code, answer.json()


async def test_a_target_with_another_chat_template_is_asked_and_the_difference_is_said(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto, engine=Another(OTHER_TEMPLATE)) as api:
        assert await readiness(api) == (200, {"status": "ready", "reason": TEMPLATES})
        node = await asyncio.to_thread(find_node, "127.0.0.1", api.port)
        assert node == RunningNode("127.0.0.1", api.port, "")
        answer = await api.chat(seed=3, max_tokens=40)
        assert content(answer) == alone("hello", 3, 40)
        assert answer.json()["usage"]["flexspec"]["accepted"] > 0
        # Statuses are renewed several times a second here; a warning comes once.
        first = api.node.directory.status(api.version)
        await until(lambda: api.node.directory.status(api.version) is not first)
        (warning,) = [one.getMessage() for one in caplog.records if one.name == "edge_node.fleet.models"]
        assert warning.endswith(f"at worker {first and first.worker} is not quite the draft's: {TEMPLATES}")


@pytest.mark.parametrize(
    ("engine", "why", "refusal"),
    [
        (
            Another(OTHER_IDS),
            f"its vocabulary has {VOCAB} tokens as ours, and some of them are others",
            OTHERS,
        ),
        (
            Another(replace_field(OTHER_IDS, tokens=9)),
            f"its vocabulary has 9 tokens and ours {VOCAB}",
            OTHERS,
        ),
        (
            Another(OTHER_END, FINGERPRINT),
            f"it ends texts with id 3 or id {EOS} and we with id {EOS}",
            f"the target ends texts with token 3, {EOS}, the device with {EOS}",
        ),
        (Another(None), "the worker does not say in what it differs", OTHERS),
    ],
    ids=["other tokens", "more tokens", "another end", "older worker"],
)
async def test_a_target_whose_ids_mean_others_or_whose_texts_end_elsewhere_makes_the_node_not_ready(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture, engine: Another, why: str, refusal: str
) -> None:
    async with served(mosquitto, engine=engine) as api:
        reason = f"the draft is for another tokenizer than the target's: {why}"
        assert await readiness(api) == (503, {"status": "not ready", "reason": reason})
        assert f"{why}; no text of it can be written with this draft" in caplog.text
        message = said(await api.chat(max_tokens=5), 503, "no_worker")["message"]
        assert refusal in message
        assert "`flexspec-edge doctor` says what differs" in message


async def test_one_worker_that_fits_makes_the_node_ready(mosquitto: PrivateBroker) -> None:
    async with (
        served(mosquitto, engine=Another(OTHER_IDS)) as other,
        served(mosquitto, version=other.version) as api,
    ):
        await until(lambda: len(api.node.directory.online()) == 2)
        assert await readiness(api) == (200, {"status": "ready"})


async def test_what_other_versions_have_concerns_nobody(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto) as api, served(mosquitto, engine=Another(OTHER_IDS)) as other:
        await until(lambda: other.version in api.node.directory.versions())
        assert await readiness(api) == (200, {"status": "ready"})
        assert f"the tokenizer of {other.version} at" in caplog.text
        assert caplog.text.count("is not quite the draft's") == 1, "the node that asks for it says so alone"


async def test_an_open_is_no_longer_than_it_was_where_the_fingerprints_are_equal(
    mosquitto: PrivateBroker,
) -> None:
    async def bytes_up(engine: FakeEngine) -> int:
        async with served(mosquitto, engine=engine, plan=Plan(draft_length=0, in_flight=1, qos=1)) as api:
            usage = (await api.chat(seed=3, max_tokens=1)).json()["usage"]["flexspec"]
            return int(usage["bytes_up"])

    equal = [await bytes_up(Another(OURS, FINGERPRINT)), await bytes_up(FakeEngine())]
    # Names are drawn, and shorter ones take a few bytes less.
    assert max(equal) + 12 <= await bytes_up(Another(OTHER_TEMPLATE)) <= min(equal) + 24
