"""Drafts that were not made for their target, over a real broker: what fits drafts, all else streams or is refused.

The target has two tokens beside the vocabulary that it was trained with; its template writes one of them.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
import torch
from transformers import AutoTokenizer

from broker.launcher import PrivateBroker
from cloud_worker.__main__ import main as cloud
from edge_node.cli.main import main as edge
from flexspec_mq import waiting
from flexspec_mq.daemon.printable import printable
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.models.text import decode
from lab.benchmarks.exact.reference import Reference, Text
from lab.benchmarks.exact.sampling import Params
from tests.integration.processes import start, start_worker
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, edit, save, tiny_llama

pytestmark = pytest.mark.timeout(600)

TOKENS, EOS = 60, (2, 262)
WORDS, OTHER_WORDS = ("the", "cat"), ("cat", "the")
MISFIT = "2 ids mean other tokens, such as 259: 'cat' in the draft and 'the' in the target"


def checkpoint(
    folder: Path,
    rows: int,
    added: tuple[str, ...] = (),
    template: str = TEMPLATE,
    words: tuple[str, ...] = WORDS,
) -> Path:
    """A tiny model. All of them have the same weights, but for the rows that one lacks."""
    tokenizer = byte_level_tokenizer(words, template)
    tokenizer.add_tokens(list(added))
    model = tiny_llama(280, max_position_embeddings=512, head_dim=16)
    model.resize_token_embeddings(rows)
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) :] = 0  # as of a trained model: padding is never written
    save(folder, model, tokenizer)
    edit("generation_config.json", eos_token_id=[2] if not added else [*EOS])(folder)
    return folder


def exported(folder: Path) -> Path:
    """A checkpoint as a device runs it, with all of its bits, so that it drafts what it would write."""
    return write_onnx(folder, folder.with_name(f"{folder.name}-graphs"), "float32", 0)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = TEMPLATE.replace("<s>assistant:", "<think>")
    return checkpoint(tmp_path_factory.mktemp("target"), 272, ("<think>", "<end>"), template)


@pytest.fixture(scope="module")
def alone(target: Path) -> list[int]:
    """Text of the target alone, to the prompt that its own template makes, by transformers' own code."""
    prompt = byte_level_tokenizer(WORDS).encode("<s>user:the cat</s>", add_special_tokens=False)
    sampling = Params(0.0, 0, 1.0, 0)
    return Reference(str(target), "bfloat16").write(Text(0, (*prompt, 261), sampling, TOKENS, EOS)).tokens


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(module_mosquitto: PrivateBroker, target: Path) -> AsyncIterator[PrivateBroker]:
    """A broker with a worker on the target, whose own draft lacks the tokens at the end as well."""
    own = exported(checkpoint(target.parent / "own", 262))
    flags = ("--target", str(target), "--version", "tiny", "--draft", str(own))
    worker = await start_worker(module_mosquitto, "w1", *flags)
    await worker.event()
    yield module_mosquitto
    await worker.kill()


def asking(broker: PrivateBroker, draft: Path, *command: str) -> list[str]:
    """Arguments of an edge node with a draft, that takes no text from anywhere else."""
    at = (
        "--broker",
        f"{broker.host}:{broker.port}",
        "--version",
        "tiny",
        "--edge",
        "e1",
        "--draft",
        str(exported(draft)),
    )
    return [*command, *at, "--policy", "fixed", "--no-lookup"]


ASK = ("ask", "the cat", "--events", "--max-tokens", str(TOKENS))
BY_DEVICE = ("--draft-length", "4", "--ahead", "0")
BY_WORKER = ("--draft-length", "0", "--ahead", "64", "--worker-draft", "4")


@pytest.mark.parametrize(
    ("rows", "added", "plan"),
    [
        (272, ("<think>", "<end>"), BY_DEVICE),
        (280, ("<more>", "<end>", "<think>"), BY_DEVICE),
        (261, (), BY_DEVICE),
        (261, (), BY_WORKER),
    ],
    ids=[
        "another template",
        "added tokens under other ids",
        "fewer ids",
        "fewer ids at both, the worker drafts",
    ],
)
def test_a_draft_of_nearly_the_same_tokens_drafts_the_targets_own_text(
    broker: PrivateBroker,
    alone: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: int,
    added: tuple[str, ...],
    plan: tuple[str, ...],
) -> None:
    assert edge([*asking(broker, checkpoint(tmp_path / "draft", rows, added), *ASK), *plan]) == 0
    finish = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert finish["tokens"] == alone
    drafted = "worker_accepted" if plan is BY_WORKER else "accepted"
    assert finish["stats"][drafted] > len(alone) / 20  # by chance none; a loaded machine drafts less


def test_a_draft_of_another_vocabulary_is_none_of_a_workers(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = checkpoint(tmp_path / "draft", 272, ("<think>", "<end>"), words=OTHER_WORDS)
    assert cloud(["--target", str(target), "--draft", str(draft), "--prove"]) == 2
    assert f"has another vocabulary than the target {target}: {MISFIT}" in capsys.readouterr().err


def test_a_device_without_a_tokenizer_fetches_the_targets_once(
    broker: PrivateBroker,
    alone: list[int],
    target: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FLEXSPEC_EDGE_REMEMBER", "true")
    at = ("--broker", f"{broker.host}:{broker.port}", "--version", "tiny", "--draft", "none")
    said = []
    for _ in range(2):
        assert edge([*ASK, *at]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out.splitlines()[-1])["tokens"] == alone
        said.append(err)
    assert "the target's tokenizer is here" in said[0]
    assert "tokenizer" not in said[1]
    show = ["memory", "show", "tiny", "--draft", "none"]
    assert edge(show) == 0
    assert capsys.readouterr().out.count(printable(decode(AutoTokenizer.from_pretrained(target), alone))) == 2
    (kept,) = (tmp_path / "flexspec-mq" / "tokenizers").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged, so it is fetched again
    assert edge([*ASK, *at, "--edge", "greedy"]) == 0
    assert "the target's tokenizer is here" in capsys.readouterr().err
    for _ in range(3):
        kept.unlink()
        assert edge([*ASK, *at, "--edge", "greedy"]) == 0
    kept.unlink()
    assert edge(show) == 2
    assert "--tokenizer names a folder" in capsys.readouterr().err
    monkeypatch.setattr(waiting, "STALLED", 1.0)
    assert edge([*ASK, *at, "--edge", "greedy"]) == 5  # a fifth time on one day
    assert "no worker of tiny has given the tokenizer of its target" in capsys.readouterr().err


@pytest.mark.asyncio(loop_scope="module")
async def test_a_device_with_a_draft_of_another_vocabulary_streams_and_says_why(
    broker: PrivateBroker, alone: list[int], target: Path, tmp_path: Path
) -> None:
    draft = checkpoint(tmp_path / "draft", 272, ("<think>", "<end>"), words=OTHER_WORDS)
    serve = ("serve", "--api-port", "0", "--ready-json")
    node = await start("edge_node", *asking(broker, draft, *serve))
    port = (await node.event())["port"]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
        turn = {"role": "user", "content": "the cat"}
        body = {"model": "tiny", "messages": [turn], "temperature": 0, "max_tokens": TOKENS}
        answer = (await http.post("/v1/chat/completions", json=body)).json()
        ready = (await http.get("/readyz")).json()
        assert ready["status"] == "ready"
        assert ready["reason"].startswith(
            f"the draft drafts nothing for it: {MISFIT}; the chat templates differ"
        )
    figures = answer["usage"]["flexspec"]
    expected = decode(AutoTokenizer.from_pretrained(target), alone)
    assert answer["choices"][0]["message"]["content"] == expected.rstrip("\N{REPLACEMENT CHARACTER}")
    assert figures["proposed"] == figures["accepted"] == 0
    await node.kill()
    assert f"is not quite the draft's: the draft drafts nothing for it: {MISFIT}" in node.said
