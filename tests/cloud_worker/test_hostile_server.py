"""Whatever a server of models sends, one session fails, the server is named, and memory is bounded."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from cloud_worker.engine.interface import StepResult
from cloud_worker.engine.load import load_engine
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq import waiting
from flexspec_mq.errors import UsageError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.protocol.worker.types import WorkItem
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import NOISE_VERSION, Identity, Sampling
from tests.cloud_worker.works import work
from tests.daemons import FakeDrafter, link_to, read, wanting
from tests.daemons import until as happens
from tests.engine_server import EngineServer

Body = dict[str, Any]
Lie = Callable[["LyingServer", Body], Response]
VOCABULARY = 300
"""Rows of the tiny model."""
MEGABYTE = 2**20
PIECE = 64 * 1024
ENDLESS = 160 * MEGABYTE
"""Bytes after which what has no end ends all the same: far more than a worker may take."""
MOST_SENT = 96 * MEGABYTE
"""64 MB of a stream, and what the buffers of two sockets hold."""
MOST_MEMORY = 320 * MEGABYTE
COLOUR = Grammar.from_choice(["red", "green"])


class LyingServer(EngineServer):
    """A server with vLLM's wire that lies where it is asked for tokens.

    Attributes:
        lie: answers in its place; None has it tell the truth.
        listed: answers where it is asked for its models, in place of the truth.
        tokens: answers where it is asked to tokenize.
        sent: bytes of what has no end.
    """

    lie: Lie | None = None
    listed: Response | None = None
    tokens: Response | None = None
    sent = 0

    def truth(self, body: Body) -> Body:
        """Its honest answer."""
        told: Body = json.loads(bytes(super()._completions({**body, "stream": False}).body))
        return told

    def endless(self, head: bytes, piece: bytes, pause: float = 0.0, status: int = 200) -> Response:
        """An answer that goes on and on."""

        async def pieces() -> AsyncIterator[bytes]:
            yield head
            while self.sent < ENDLESS:
                yield piece
                self.sent += len(piece)
                await asyncio.sleep(pause)

        return StreamingResponse(pieces(), status)

    def raw(self, sent: bytes) -> Response:
        """Bytes that are no answer of HTTP's, on all of its connections; behind them an answer that comes too late."""

        def write() -> None:
            for connection in list(self._server.server_state.connections):
                connection.transport.write(sent)

        self._loop.call_soon_threadsafe(write)
        time.sleep(0.1)
        return JSONResponse({})

    def _models(self) -> Response:
        return super()._models() if self.listed is None else self.listed

    def _tokenize(self, body: Body) -> Response:
        return super()._tokenize(body) if self.tokens is None else self.tokens

    def _completions(self, body: Body) -> Response:
        return super()._completions(body) if self.lie is None else self.lie(self, body)


def tokens_told(name: str) -> Lie:
    """The truth, but for a token's name."""

    def lie(server: LyingServer, body: Body) -> Response:
        told = server.truth(body)
        for choice in told["choices"]:
            choice["logprobs"]["tokens"] = [name for _ in choice["logprobs"]["tokens"]]
        return streamed(told) if body.get("stream") else JSONResponse(told)

    return lie


def changed(change: Callable[[Body], object]) -> Lie:
    """The truth, but for what is done to it."""

    def lie(server: LyingServer, body: Body) -> Response:
        change(told := server.truth(body))
        return streamed(told) if body.get("stream") else JSONResponse(told)

    return lie


def streamed(*events: Body) -> Response:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return Response("".join([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")


def said(text: str | bytes, status: int = 200) -> Lie:
    return lambda _server, _body: Response(text, status, media_type="application/json")


def bomb(_server: LyingServer, _body: Body) -> Response:
    return Response(gzip.compress(bytes(32 * MEGABYTE)), headers={"content-encoding": "gzip"})


def unlikely(told: Body) -> None:
    for choice in told["choices"]:
        choice["logprobs"]["top_logprobs"] = [
            {f"token_id:{VOCABULARY + 7}": -0.1} for _ in choice["logprobs"]["tokens"]
        ]


def appended(told: Body) -> None:
    told["choices"][0]["logprobs"]["tokens"].append("token_id:1")


OBJECTS = '{"choices": [{"logprobs": {"tokens": [], "top_logprobs": [{}' + ",{}" * 2_600_000 + "]}}]}"
EVENT = b'data: {"choices":[{"index":0,"logprobs":{"tokens":["token_id:7"]}}]}\n\n'
NOTHING = b'data: {"choices": [], "id": "%s"}\n' % (1000 * b"x")
DIGITS = 5000 * "1"
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: %s\r\n\r\n{" % DIGITS.encode()


class Case(NamedTuple):
    """A lie.

    Attributes:
        name: Name of it.
        lie: answers.
        words: Words that tell it.
        drafts: whether the server is asked to verify a draft, else to write by itself.
        gone: whether the session waits until the server tells the truth again, else it ends by an error of its own.
    """

    name: str
    lie: Lie
    words: str
    drafts: bool = True
    gone: bool = False


CASES = [
    Case("a body without an end", lambda s, _: s.endless(b'{"id": "', b"x" * PIECE), "more than 8000000"),
    Case("objects without an end", lambda s, _: s.endless(b'{"choices": [{}', b",{}" * 20_000), "more than 8000000"),
    Case("objects, nearly 8 MB of them", said(OBJECTS), "likeliest of 2600001 tokens"),
    Case("a bomb of gzip", bomb, "in gzip"),
    Case("two megabytes of brackets", said('{"error": ' + "[" * 2_000_000), "what it should not"),
    Case("a token behind the vocabulary", tokens_told(f"token_id:{VOCABULARY}"), f"token {VOCABULARY} of"),
    Case("a token of 2^31 and more", tokens_told("token_id:2147483655"), "tells a token as"),
    Case("a token of 2^24 and less", tokens_told("token_id:16777215"), "token 16777215 of"),
    Case("a token of 5,000 digits", tokens_told("token_id:" + DIGITS), "tells a token as"),
    Case("a token below 0", tokens_told("token_id:-1"), "tells a token as"),
    Case("Arabic digits", tokens_told("token_id:٣"), "tells a token as"),
    Case("a likely token behind the vocabulary", changed(unlikely), f"token {VOCABULARY + 7} of"),
    Case("rows of other tokens", changed(appended), "likeliest of"),
    Case("too few rows", changed(lambda told: told["choices"].pop()), "decided 3 tokens of 4"),
    Case("too many rows", changed(lambda told: told["choices"].append(told["choices"][0])), "decided 5 tokens of 4"),
    Case("a number of 5,000 digits", said(f'{{"choices": [{{"index": {DIGITS}}}]}}'), "what it should not"),
    Case("half a character", said(r'{"id": "\ud800", "choices": []}'), "what it should not"),
    Case("no UTF-8", said(b'{"error": "\xff\xfe"}'), "what it should not"),
    Case("a refusal", said('{"error": {"message": "no such thing"}}', 400), "answered 400: .*no such thing"),
    Case("a refusal without an end", lambda s, _: s.endless(b"no ", b"x" * PIECE, status=400), "400: no x{297}$"),
    Case("blanks, one by one", lambda s, _: s.endless(b" ", b" ", 0.05), "owes an answer for", gone=True),
    Case("a length of 5,000 digits", lambda s, _: s.raw(LENGTH), "bad Content-Length", gone=True),
    Case("headers without an end", lambda s, _: s.raw(b"HTTP/1.1 200 OK\r\n" + 100_000 * b"a: b\r\n"), "", gone=True),
    Case("a line without an end", lambda s, _: s.endless(b"data: ", b"x" * PIECE), "line of more than 1000000", False),
    Case("comments without an end", lambda s, _: s.endless(b"", b":\n" * 20_000), "more than 64000000", False),
    Case("empty events without an end", lambda s, _: s.endless(b"", 60 * NOTHING), "more than 64000000", False),
    Case("tokens without an end", lambda s, _: s.endless(b"", 500 * EVENT), "wrote more where", False),
    Case("a stream of nothing", lambda _s, _: streamed(), "wrote nothing where", False),
    Case("a silent stream", lambda s, _: s.endless(b"", b":\n", 0.05), "owes an answer for", drafts=False, gone=True),
    Case("a stream of such tokens", tokens_told(f"token_id:{VOCABULARY}"), f"token {VOCABULARY} of", drafts=False),
    Case("a long farewell", lambda _s, _: streamed({"error": 900_000 * "x"}), "stream off: x{300}$", False, gone=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[LyingServer]:
    with LyingServer(tiny, name="tiny") as server:
        assert server.text.vocab_size == VOCABULARY
        yield server


def connected(server: EngineServer, tiny: Path) -> ServerEngine:
    settings = WorkerSettings(worker="w1", engine="vllm", engine_url=server.url, target=str(tiny))
    engine = load_engine(settings, lambda _: None)
    assert isinstance(engine, ServerEngine)
    return engine


@pytest.fixture(scope="module")
def engine(server: LyingServer, tiny: Path) -> Iterator[ServerEngine]:
    engine = connected(server, tiny)
    yield engine
    engine.close()


def item_of(
    engine: ServerEngine, session: int, draft: tuple[int, ...], grammar: Grammar | None = None
) -> WorkItem:
    """The first item of a greedy text."""
    digest = None if grammar is None else grammar.digest(engine_name())
    identity = Identity(
        NOISE_VERSION, engine.facts.fingerprint, Sampling(seed=1), (2,), grammar is None, 40, digest
    )
    return work(identity, (5, 6, 7), draft=draft, key=("edge", session))


def until(engine: ServerEngine, found: Callable[[StepResult], bool]) -> StepResult:
    """Step until that is found."""
    for _ in range(60):  # a step waits for a second at most
        if found(result := engine.step()):
            return result
    raise AssertionError("nothing came of it")


def peak() -> int:
    """Largest resident memory of this process since `watch_memory`."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


def watch_memory() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


SESSIONS = itertools.count(1)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_lie_ends_one_session_and_the_server_is_named(
    case: Case, server: LyingServer, engine: ServerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.gone:
        for name, seconds in (("PATIENCE", 1.0), ("RETRY_AWAITED", 0.1)):
            monkeypatch.setattr(waiting, name, seconds)
    draft = (1, 2, 3) if case.drafts else ()
    lied, honest = (item_of(engine, next(SESSIONS), draft) for _ in range(2))
    monkeypatch.setattr(server, "lie", case.lie)
    server.sent, before = 0, watch_memory()
    engine.add(lied)
    if not case.gone:
        ((item, error),) = until(engine, lambda result: bool(result.failed)).failed
        assert item is lied
        told = error.message
        monkeypatch.setattr(server, "lie", None)
        engine.add(honest)
    else:
        until(engine, lambda _: bool(engine.trouble))
        told, honest = engine.trouble, lied
        monkeypatch.setattr(server, "lie", None)
    assert told.startswith(server.url)
    assert re.search(case.words, told)
    assert len(told) < 500
    assert server.sent < MOST_SENT
    assert peak() - before < MOST_MEMORY
    ((item, tokens),) = until(engine, lambda result: bool(result.decided)).decided
    assert item is honest
    assert tokens
    engine.free(honest.key)


def test_a_token_that_a_grammar_forbids_is_not_taken(
    server: LyingServer, engine: ServerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked among the allowed ones where none of the likeliest is allowed."""
    assert engine.grammars is not None
    kept = engine.grammars.compile(COLOUR)  # noqa: F841  as its open holds it
    lied = item_of(engine, next(SESSIONS), (), COLOUR)

    def lie(server: LyingServer, body: Body) -> Response:
        if "allowed_token_ids" not in body:
            return changed(nothing_likely)(server, body)
        assert 5 not in body["allowed_token_ids"]
        return tokens_told("token_id:5")(server, body)

    monkeypatch.setattr(server, "lie", lie)
    engine.add(lied)
    ((item, error),) = until(engine, lambda result: bool(result.failed)).failed
    assert item is lied
    assert re.search("token 5, which the grammar forbids", error.message)


def nothing_likely(told: Body) -> None:
    for choice in told["choices"]:
        choice["logprobs"]["top_logprobs"] = None


LONG = json.dumps({"data": [{"id": "x" * 100_000}]})


@pytest.mark.parametrize(
    ("lies", "words"),
    [
        ({"listed": f'{{"data": [{{"id": "tiny", "max_model_len": {DIGITS}}}]}}'}, "what it should not"),
        ({"listed": '{"data": [{"id": "tiny", "max_model_len": -5}]}'}, "what it should not"),
        ({"listed": LONG}, "what it should not"),
        ({"listed": json.dumps({"data": [{"id": 1000 * "x"} for _ in range(1000)]})}, "serves x+"),
        ({"listed": b" " * 9_000_000}, "more than 8000000"),
        ({"tokens": f'{{"tokens": [{DIGITS}]}}'}, "what it should not"),
        ({"tokens": '{"tokens": [-1]}'}, "what it should not"),
        ({"lie": tokens_told("token_id:" + DIGITS)}, "tells a token as"),
        ({"lie": tokens_told(f"token_id:{VOCABULARY}")}, f"token {VOCABULARY} of"),
        ({"lie": changed(appended)}, "likeliest of"),
        ({"lie": changed(lambda told: told["choices"].clear())}, "decided 0 tokens of 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_start_beside_such_a_server_ends_in_words(
    lies: Body, words: str, server: LyingServer, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, lie in lies.items():
        answer = Response(lie, media_type="application/json") if name != "lie" else lie
        monkeypatch.setattr(server, name, answer)
    with pytest.raises(UsageError, match=words) as raised:
        connected(server, tiny)
    assert raised.value.message.startswith(server.url)
    assert len(raised.value.message) < 600


LLAMA = {
    "models": [{"name": "tiny.gguf", "model": "tiny.gguf", "type": "model", "capabilities": ["completion"]}],
    "object": "list",
    "data": [
        {"id": "tiny.gguf", "aliases": [], "tags": [], "object": "model", "created": 1764633600,
         "owned_by": "llamacpp", "meta": {"vocab_type": 2, "n_vocab": 300, "n_ctx_train": 2048}},
    ],
}  # fmt: skip
"""Answer of llama.cpp's server, as its ``server-context.cpp`` makes it."""


def test_the_server_of_llama_cpp_is_told_by_its_name(
    server: LyingServer, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ``/tokenize`` too, which reads another field and finds no tokens in ours."""
    monkeypatch.setattr(server, "listed", JSONResponse(LLAMA))
    monkeypatch.setattr(server, "tokens", JSONResponse({"tokens": []}))
    with pytest.raises(UsageError, match=r"is llama\.cpp's server") as raised:
        connected(server, tiny)
    assert "--target FILE.gguf" in raised.value.hint


async def test_a_token_that_nobody_has_leaves_a_worker_with_its_other_sessions(
    server: LyingServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spared, lied = wanting(3, limit=60), wanting(4, limit=60)

    def lie(server: LyingServer, body: Body) -> Response:
        prompt = body["prompt"][0] if isinstance(body["prompt"][0], list) else body["prompt"]
        if prompt[0] == lied.prompt[0]:
            return tokens_told("token_id:2147483655")(server, body)
        return EngineServer._completions(server, body)

    broker = MemoryBroker()
    engine = await asyncio.to_thread(connected, server, tiny)
    monkeypatch.setattr(server, "lie", lie)
    worker = CloudWorker(WorkerSettings(worker="w1", drain=0.0), engine)
    run = asyncio.create_task(worker.run(broker.link, link_to("w-w1")))
    node = EdgeNode(
        EdgeSettings(edge="edge", wait=60), FakeDrafter(), engine.facts.fingerprint, server.text.eos
    )
    async with node.running(broker.link, link_to("e-edge")):
        other = node.generate(lied)
        await happens(lambda: worker.machine.counters.failed)
        tokens, finish = await read(node.generate(spared))
        node.cancel(other)
        assert (await read(other))[0] == ()
    assert not run.done()
    worker.stop()
    await run
    assert len(tokens) == 60
    assert finish.error is None
    assert f"{server.url} tells a token as 'token_id:2147483655'" in caplog.text
