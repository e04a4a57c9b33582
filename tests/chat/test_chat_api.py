"""The chat against the real API: answers, commands, errors, a network that breaks; and what it sends and shows."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.chat.api import Told, api_at, read, refused
from flexspec_mq.chat.session import ChatSession, figures
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.chat.view import View
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.errors import (
    Cancelled,
    FlexSpecError,
    LinkDown,
    RemoteProtocolError,
    UsageError,
    WorkerError,
)
from flexspec_mq.links import LINKS
from schemas.openai import ChatCompletionChunk, Failure, FlexspecUsage, Usage
from tests.daemons import PATIENCE, FakeEngine, until
from tests.doctor.setups import answering
from tests.edge_node.api.served import Served, expected, ids_of, served, shown, tokenizer
from tests.transport.proxy import proxy_to

Output = pytest.CaptureFixture[str]


@asynccontextmanager
async def chat(
    url: str, *, seed: int | None = 5, max_tokens: int = 20, **options: Any
) -> AsyncIterator[ChatSession]:
    async with api_at(ChatOptions(url=url, **{"patience": 2.0, **options})) as api:
        talk = {"max_tokens": max_tokens} if seed is None else {"seed": seed, "max_tokens": max_tokens}
        yield ChatSession(api, talk, View(people=False))


async def interruptible(work: Awaitable[None]) -> None:
    """As the chat takes a turn."""
    async with stoppable(numbers=(signal.SIGINT,)):
        await work


def answer(prompt: str, seed: int, limit: int) -> str:
    return shown(expected(ids_of(prompt), seed, limit)[0])


async def test_models(mosquitto: PrivateBroker, capsys: Output) -> None:
    async with served(mosquitto) as api, served(mosquitto) as other, chat(api.url) as session:
        await until(lambda: other.version in api.api.versions())
        await session.take("/model")
        listed = capsys.readouterr().err
        assert f"  {api.version}\n" in listed
        assert f"  {other.version}\n" in listed
        await session.take(f"/model {other.version}")
        await session.take("/model")
        assert f"* {other.version}\n" in capsys.readouterr().err
        await session.take("hello")
        assert session.version == other.version
        with pytest.raises(UsageError, match="no model nonesuch") as raised:
            await session.take("/model nonesuch")
        assert api.version in raised.value.hint
        assert session.options["model"] == other.version
        session.options["model"] = "gone-since"
        with pytest.raises(UsageError, match="HTTP 404"):
            await session.take("hello")


async def test_seeds(mosquitto: PrivateBroker, capsys: Output) -> None:
    async with served(mosquitto) as api, chat(api.url, seed=None) as session:
        await session.take("/seed")
        assert capsys.readouterr().err == "seed: drawn for each answer\n"
        await session.take("hello")
        drawn = capsys.readouterr().out
        last = session.seed
        await session.take("/seed")
        assert f"the last one was {last}" in capsys.readouterr().err
        await session.take(f"/seed {last}")
        await session.take("/retry")
        assert capsys.readouterr().out == drawn
        assert len(session.exchanges) == 1
        await session.take("/seed none")
        assert "seed" not in session.options


async def test_commands_change_what_is_sent(mosquitto: PrivateBroker, capsys: Output) -> None:
    async with served(mosquitto) as api, chat(api.url) as session:
        options = session.options
        for said in ("/temperature 0.5", "/top-p 0.9", "/min-p 0.1", "/max-tokens 7", "/system be brief"):
            await session.take(said)
        numbers = {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "max_tokens": 7}
        assert options == {"seed": 5, "system": "be brief", **numbers}
        await session.take("hi")
        ids = tokenizer().encode("system.be brief,user.hi,assistant.")
        assert shown(expected(ids, 5, 7)[0]) + "\n" == capsys.readouterr().out
        await session.take("/undo")
        assert session.exchanges == []
        await session.take("hi")
        await session.take("/clear")
        assert session.exchanges == []
        await session.take("/system none")
        assert session.body("x")["messages"] == [{"role": "user", "content": "x"}]
        await session.take("/temperature none")
        assert "temperature" not in options
        await session.take("/help")
        listed = capsys.readouterr().err
        assert all(f"/{name}" in listed for name in ("model", "seed", "retry", "quit"))
        await session.take("//seed")
        assert session.exchanges[-1][0] == "/seed"


@pytest.mark.parametrize("said", ["/sed 5", "/", "/temperature warm", "/seed x", "/undo", "/retry"])
async def test_commands_that_cannot_be_done(said: str) -> None:
    async with chat("http://127.0.0.1:1") as session:
        with pytest.raises(UsageError) as raised:
            await session.take(said)
        if said == "/sed 5":
            assert "/max-tokens" in raised.value.hint


async def test_ctrl_c_keeps_the_part_that_was_written_and_the_chat_goes_on(
    mosquitto: PrivateBroker, capsys: Output
) -> None:
    """Before any text there is none to be kept, and the question can be asked again."""
    engine = FakeEngine()
    engine.gate.clear()
    async with served(mosquitto, engine=engine) as api, chat(api.url, max_tokens=40_000, seed=6) as session:

        async def interrupted(said: str, *, in_mid_answer: bool) -> None:
            asking = asyncio.create_task(interruptible(session.take(said)))
            await until(lambda: api.node.sessions == 1)
            await until(lambda: not in_mid_answer or bool(capsys.readouterr().out.strip()))
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Cancelled):
                await asking
            await until(lambda: api.node.sessions == 0)

        await interrupted("long", in_mid_answer=False)
        assert session.exchanges == []
        engine.gate.set()
        await interrupted("/retry", in_mid_answer=True)
        ((question, kept),) = session.exchanges
        assert question == "long"
        assert kept
        assert "stopped" in capsys.readouterr().err
        await session.take("/undo")
        await session.take("/max-tokens 9")
        await session.take("next")
        assert capsys.readouterr().out == answer("next", 6, 9) + "\n"


async def test_refusals_take_the_question_back(mosquitto: PrivateBroker, capsys: Output) -> None:
    engine = FakeEngine()
    async with served(mosquitto, engine=engine, api_texts=1) as api, chat(api.url) as session:
        engine.gate.clear()
        blocker = asyncio.create_task(api.chat("blocker", max_tokens=2))
        await until(lambda: len(api.api.texts) == 1)
        with pytest.raises(WorkerError, match="429") as raised:
            await session.take("hello")
        assert raised.value.hint == "/retry asks again; the API says: in 1 s"
        assert "request req-" in raised.value.message
        engine.gate.set()
        await blocker
        await until(lambda: not api.api.texts)  # its answer arrives a little earlier
        assert session.exchanges == []
        await session.take("/retry")
        assert capsys.readouterr().out.endswith(answer("hello", 5, 20) + "\n")
    async with served(mosquitto, workers=0, wait=0.3) as api, chat(api.url) as session:
        with pytest.raises(WorkerError, match="503") as raised:
            await session.take("hello")
        assert "in 5 s" in raised.value.hint


async def test_what_nobody_has_verified_is_no_answer(mosquitto: PrivateBroker) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        served(mosquitto, through=link.port) as api,
        chat(api.url) as session,
    ):
        await session.take("hello")
        link.stall(60)
        link.cut()
        session.options |= {"offline": "provisional", "wait": 2.5}
        with pytest.raises(LinkDown, match="nobody has verified"):
            await session.take("again")
        assert len(session.exchanges) == 1
        assert session.unanswered == "again"


# CPython 3.11 leaves a socket that is accepted just as its server closes to the garbage collector, which warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_node_stops_in_mid_answer(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, chat(api.url, max_tokens=40_000) as session:
        asking = asyncio.create_task(session.take("long"))
        await until(lambda: session.version is not None)
        api.run.cancel()
        with pytest.raises(
            LinkDown, match=r"cannot be reached|is stopping"
        ):  # it was not there again in time
            await asking
        assert session.unanswered == "long"
        await asyncio.wait([api.run], timeout=PATIENCE)
        with pytest.raises(LinkDown, match="cannot be reached") as raised:
            await session.take("/retry")
        assert "flexspec-edge serve" in raised.value.hint


def address(api: Served) -> tuple[str, int]:
    host, _, port = api.url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_an_answer_goes_on_where_the_connection_broke_and_starts_no_second_session(
    mosquitto: PrivateBroker, capsys: Output
) -> None:
    slow = FakeEngine(lambda _: time.sleep(0.01))
    slow.gate.clear()
    async with (
        served(mosquitto, engine=slow) as api,
        proxy_to(*address(api)) as proxy,
        chat(f"http://127.0.0.1:{proxy.port}", seed=376, max_tokens=1000) as session,
    ):
        asking = asyncio.create_task(session.take("hello"))
        await until(lambda: api.node.sessions == 1)
        proxy.cut()  # before any text
        await until(lambda: proxy.connections == 2)
        slow.gate.set()
        shown = ""
        for more in (20, 200, 400):
            while len(shown) < more:
                shown += capsys.readouterr().out
                await asyncio.sleep(0.01)
            proxy.cut()
        await asking
        assert shown + capsys.readouterr().out == answer("hello", 376, 1000) + "\n"
        assert api.daemons[0].worker.machine.counters.opened == 1


async def test_a_question_that_failed_goes_on_under_its_key(mosquitto: PrivateBroker, capsys: Output) -> None:
    slow = FakeEngine(lambda _: time.sleep(0.01))
    async with (
        served(mosquitto, engine=slow) as api,
        proxy_to(*address(api)) as proxy,
        chat(f"http://127.0.0.1:{proxy.port}", seed=376, max_tokens=600) as session,
    ):
        asking = asyncio.create_task(session.take("hello"))
        await until(lambda: session.version is not None)
        proxy.stall()
        proxy.cut()
        with pytest.raises(LinkDown):
            await asking
        assert session.exchanges == []
        proxy.resume()
        capsys.readouterr()
        await session.take("/retry")
        assert capsys.readouterr().out == answer("hello", 376, 600) + "\n"
        assert api.daemons[0].worker.machine.counters.opened == 1


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", RemoteProtocolError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello", UsageError),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", FlexSpecError),
        (b"SSH-2.0-OpenSSH_9.6\r\n", LinkDown),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: x\n\n",
            RemoteProtocolError,
        ),
    ],
)
async def test_something_else_answers(said: bytes, kind: type[FlexSpecError]) -> None:
    with answering(said) as port:
        async with chat(f"http://127.0.0.1:{port}", patience=0.2) as session:
            with pytest.raises(kind) as raised:
                await session.take("hello")
    assert type(raised.value) is kind or kind is LinkDown


async def test_an_api_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with chat(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2) as session:
            with pytest.raises(LinkDown, match="said nothing"):
                await session.take("hello")


def unanswered(**options: Any) -> ChatSession:
    """A conversation that nobody answers."""
    return ChatSession(cast("Any", None), options, View(people=False))


def test_a_request_says_all_that_was_said_and_asked_for() -> None:
    talk = unanswered(model="m", system="short", temperature=0.0, seed=-1)
    talk.exchanges.append(("one", "1"))
    assert talk.body("two") == {
        "model": "m", "temperature": 0.0, "seed": -1,
        "messages": [
            {"role": "system", "content": "short"}, {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"},
        ],
    }  # fmt: skip
    assert unanswered().body("x") == {"messages": [{"role": "user", "content": "x"}]}


def test_questions_are_taken_back() -> None:
    talk = unanswered()
    talk.exchanges.append(("one", "1"))
    talk.unanswered = "two"
    assert len(talk.body("x")["messages"]) == 3  # what failed is not sent
    assert talk.take_back() == "two"
    assert talk.take_back() == "one"
    with pytest.raises(UsageError, match="nothing was asked yet"):
        talk.take_back()


def test_pieces_that_are_not_the_text_are_not_believed() -> None:
    choice = '{"delta": {"content": "abc"}, "finish_reason": null}'
    head = f'{{"id": "x", "created": 1, "model": "m", "added later": 1, "choices": [{choice}]'
    body = head + ', "flexspec": {"pieces": [["ab", "device"], ["%s", "worker"]]}}'
    assert Told().take(read(body % "c", ChatCompletionChunk)) == [("ab", "device"), ("c", "worker")]
    assert Told().take(read(body % "d", ChatCompletionChunk)) == [("abc", None)]
    assert Told().take(read(head + "}", ChatCompletionChunk)) == [("abc", None)]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"choices": 5}', b"\xff", b"[" * 100_000])
def test_what_is_no_event_is_a_readable_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="no API of an edge node"):
        read(body, ChatCompletionChunk)


@pytest.mark.parametrize("people", [True, False])
def test_a_refusal_cannot_steer_the_terminal(capsys: Output, people: bool) -> None:
    bad = "\x1b[2J"
    error = refused(Failure(message=f"{bad}no", code="no_worker"), status=503, retry_after=bad, request=bad)
    assert error.exit_code == WorkerError.exit_code
    View(people=people).error(error)
    View(people=people).error(refused(Failure(message=bad, code=7)))
    said = "".join(capsys.readouterr())
    assert bad not in said
    assert said.count("\N{SYMBOL FOR ESCAPE}[2J") == 4


def test_the_line_of_an_answer() -> None:
    extra = FlexspecUsage(
        drafted=50, accepted=20, looked_up=6, rounds=16, worker_accepted=5, bytes_up=12_345, bytes_down=900, seed=7,
        energy_j=12.0, energy_j_per_100=30.0, energy_source="modelled: phone-4g by 4g",
    )  # fmt: skip
    usage = Usage(prompt_tokens=30, completion_tokens=40, total_tokens=70, flexspec=extra)
    assert figures(Told(usage=usage, reason="length", seconds=4.0, first=0.5)).split(" · ") == [
        "40 tokens in 4.0 s, 10.0 a second", "first text 0.50 s", "accepted 20 of 50 (40%), 6 by lookup",
        "5 by the worker's draft", "16 rounds", "12.3 kB up, 900 B down",
        "12.0 J, 30.0 J for 100 tokens (modelled: phone-4g by 4g)", "seed 7", "cut at the limit of tokens",
    ]  # fmt: skip
    limited = Usage(
        prompt_tokens=1, completion_tokens=1100, total_tokens=1101, flexspec=FlexspecUsage(default_limit=1100)
    )
    by_node = "cut at the node's limit of 1,100 tokens; /max-tokens N sets another"
    assert figures(Told(usage=limited, reason="length", seconds=1.0, first=0.5)).endswith(by_node)
    assert figures(Told(reason="stop")) == (
        "0 tokens in 0.0 s, 0.0 a second · first text – · accepted 0 of 0 · 0 rounds · 0 B up, 0 B down · seed –"
    )
