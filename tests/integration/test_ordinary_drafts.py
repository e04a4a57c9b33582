"""An ordinary pair of models by the daemons as processes: one vocabulary, and a template that differs by a blank."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.launcher import PrivateBroker
from lab.testbed.process import Process
from tests.integration.processes import events_of, start, start_worker
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = ("cat", "dog")
VERSION = "ordinary"
DIFFERS = "the chat templates differ; prompts are written by the device's"


@dataclass
class Pair:
    """Checkpoint folders."""

    target: Path
    draft: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")

    def saved(name: str, width: int, words: tuple[str, ...], template: str) -> Path:
        model = tiny_llama(max_position_embeddings=1024, hidden_size=width)
        return save(folder / name, model, byte_level_tokenizer(words, template))

    return Pair(
        saved("target", 32, WORDS, TEMPLATE.replace("'<s>assistant:'", "'<s>assistant: '")),
        saved("draft", 16, WORDS, TEMPLATE),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(mosquitto: PrivateBroker, pair: Pair) -> AsyncIterator[Process]:
    made = await start_worker(mosquitto, VERSION, "--target", str(pair.target), "--version", VERSION)
    await made.event()
    yield made
    await made.kill()


def asking(broker: PrivateBroker, *flags: str) -> tuple[str, ...]:
    wanted = ("ask", "Which one?", "--events", "--version", VERSION, "--max-tokens", "60", "--ignore-eos")
    plan = ("--policy", "fixed", "--ahead", "0", "--worker-draft", "0", "--no-lookup")
    return (*wanted, *plan, "--broker", f"{broker.host}:{broker.port}", *flags)


async def asked(broker: PrivateBroker, *flags: str) -> tuple[dict[str, Any], str]:
    """The end of an answer, and standard error."""
    ask = await start("edge_node", *asking(broker, *flags))
    return (await events_of(ask))[-1], ask.said


@pytest.mark.usefixtures("worker")
async def test_a_smaller_model_drafts_as_it_is_and_the_text_is_the_targets(
    mosquitto: PrivateBroker, pair: Pair
) -> None:
    drafted, said = await asked(mosquitto, "--draft", str(pair.draft))
    alone, _ = await asked(mosquitto, "--draft", "none", "--tokenizer", str(pair.draft))
    assert drafted["tokens"] == alone["tokens"]
    assert len(alone["tokens"]) == 60
    assert drafted["stats"]["drafted"] > 0 == alone["stats"]["drafted"]
    assert said.count(DIFFERS) == 1
