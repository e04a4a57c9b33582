"""The tests' stand-in for vLLM answers as a real one did, and fails as it is told to."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from flexspec_mq.models.default import default_model_path
from lab.engines.wire import REQUESTS, ask, record
from tests.engine_server import EngineServer

RECORDED = Path(__file__).parent / "recorded/vllm-0.32.json"
LOGPROB = 0.7
"""Nats by which processors may differ in a log-probability of weights and activations in bfloat16."""
UNREAD = {
    "created", "id", "root", "permission", "token_strs", "text_offset", "service_tier", "system_fingerprint",
    "routed_experts", "prompt_logprobs", "kv_transfer_params", "ec_transfer_params", "metrics", "token_ids",
    "prompt_token_ids", "prompt_tokens_details", "completion_tokens_details",
}  # fmt: skip
"""Fields that nobody here reads, or that differ by nature."""


def same(ours: Any, theirs: Any, where: str) -> None:
    """The same but for unread fields, log-probabilities that are close, and which of the unlikely tokens are told."""
    if isinstance(theirs, dict):
        if where.endswith("top_logprobs"):
            near = {name: value for name, value in theirs.items() if value >= max(theirs.values()) - LOGPROB}
            assert len(ours) == len(theirs), where
            assert near.keys() <= ours.keys(), where
            theirs = near
        for key in theirs.keys() - UNREAD:
            same(ours[key], theirs[key], f"{where} {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), (where, ours, theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, where)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=LOGPROB), where
    else:
        assert ours == theirs, where


@pytest.mark.model
def test_all_that_is_asked_is_answered_as_by_vllm() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert recorded.keys() == REQUESTS.keys()
    with EngineServer(default_model_path(), name="smollm2", max_context=2048, dtype=torch.bfloat16) as server:
        came = record(server.url, "smollm2")
    for name, theirs in recorded.items():
        same(came[name], theirs, name)


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[EngineServer]:
    with EngineServer(tiny, name="tiny") as server:
        yield server


PROMPT = {"prompt": [5, 6, 7], "max_tokens": 9, "temperature": 0, "ignore_eos": True}


def written(server: EngineServer, then: Callable[[int], object] = lambda _: None) -> list[int]:
    """Tokens of a stream until it ends or breaks; `then` is told how many there are after each."""
    body = {"model": "tiny", **PROMPT, "stream": True, "logprobs": 0}
    tokens: list[int] = []
    with (
        contextlib.suppress(httpx2.TransportError),
        httpx2.stream("POST", f"{server.url}/v1/completions", json=body) as answer,
    ):
        for line in answer.iter_lines():
            if line and line != "data: [DONE]":
                (name,) = json.loads(line.removeprefix("data: "))["choices"][0]["logprobs"]["tokens"]
                tokens.append(int(name.removeprefix("token_id:")))
                then(len(tokens))
    return tokens


def test_one_request_confirms_what_it_streams(server: EngineServer) -> None:
    text = written(server)
    prompts = [[5, 6, 7, *text[:count]] for count in range(9)]
    with httpx2.Client(base_url=server.url) as http:
        body = {**PROMPT, "max_tokens": 1, "logprobs": 0, "prompt": prompts}
        told = ask(http, "tiny", "/v1/completions", body)["answer"]["choices"]
    assert [choice["logprobs"]["tokens"] for choice in told] == [[f"token_id:{token}"] for token in text]


def test_it_fails_as_it_is_told_to(server: EngineServer) -> None:
    text = written(server)
    with httpx2.Client(base_url=server.url) as http:
        server.faults.errors = 1
        assert [ask(http, "tiny", "/v1/completions", PROMPT)["status"] for _ in range(2)] == [500, 200]
    server.faults.cut_after = 4
    assert written(server) == text[:4]
    server.faults.cut_after, server.faults.slow = None, 0.02
    killed = written(server, lambda count: server.kill() if count == 3 else None)
    assert 3 <= len(killed) < len(text)
    server.faults.slow = 0.0
    assert written(server) == []
    server.start()
    assert written(server) == text
