"""The audit of a server's texts: its own pass, another token is told as a tie, and anything else is refused."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from flexspec_mq.models.text import decode
from lab.benchmarks.exact.sampling import Params
from lab.engines.audit import MOST, Auditor, Otherwise
from tests.engine_server import EngineServer
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

PROMPT = (700, 701, 702)
SAMPLING = (Params(0.0, 0, 1.0, 0), Params(0.7, MOST, 1.0, 5))
TOKENS = 12


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokens are words, but for one in a hundred, so that a text says which they are."""
    tokenizer = byte_level_tokenizer(tuple(f" w{number}." for number in range(30_000)))
    model = tiny_llama(len(tokenizer), max_position_embeddings=2048, head_dim=16)
    return save(tmp_path_factory.mktemp("words"), model, tokenizer)


@pytest_asyncio.fixture
async def audit(words: Path) -> AsyncIterator[Auditor]:
    with EngineServer(words, name="tiny") as server:
        async with httpx2.AsyncClient(base_url=server.url) as http:
            yield Auditor(http, "tiny", server.text)


@pytest.mark.parametrize("sampling", SAMPLING)
async def test_a_text_is_followed_token_by_token(audit: Auditor, sampling: Params) -> None:
    ids: list[int] = []
    while len(ids) < TOKENS:
        ids += await audit.written([*PROMPT, *ids], sampling, TOKENS - len(ids))
    text = decode(audit.target.tokenizer, ids)
    assert await audit.ties(PROMPT, text, TOKENS, sampling) == []

    place = 4
    row = await audit.row([*PROMPT, *ids[:place]])
    other = next(token for token in row if token > 300 and token != ids[place])
    changed = [*ids[:place], other]
    while len(changed) < TOKENS:
        changed += await audit.written([*PROMPT, *changed], sampling, TOKENS - len(changed))
    (tie,) = await audit.ties(PROMPT, decode(audit.target.tokenizer, changed), TOKENS, sampling)
    assert (tie.place, tie.logprobs) == (place, (row[other], row[ids[place]]))
    assert tie.margin > 0
    with pytest.raises(Otherwise):
        await audit.ties(PROMPT, f"日{text}", TOKENS, sampling)
    assert len(await audit.ties(PROMPT, text, TOKENS, Params(0.7, MOST, 1.0, 6))) > TOKENS // 2
