"""``flexspec top``: any state of a node on any screen, and a real node through the program."""

import asyncio
import io
import json
import random
import re
import signal
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from rich.cells import cell_len
from rich.console import Console

from broker.launcher import PrivateBroker
from flexspec_mq.chat.api import api_at
from flexspec_mq.chat.overview import MAX_OVER, Overview, Screenful
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.chat.top import follow, main, show
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LinkRefused
from lab.testbed.deployment import free_port
from schemas.node import EVENTS, TextView
from tests.chat.test_chat_terminal import ESCAPE, on_terminal
from tests.daemons import PATIENCE, FakeEngine, until
from tests.doctor.setups import answering
from tests.edge_node.api.served import Served, served

WORDS = (
    *("", "truck-17", "x" * 300, "two\nlines\tand more", "[red]markup[/]", "\x1b]0;owned\x07", "\x1b[2J\x9b31m"),
    *("a\rb", "\x08\x00\x7f\x85\u2028", "日本語の文字", "e\u0301👩‍🚀\u202e", "no worker serves version 'base'"),
)  # fmt: skip

STREAM = "200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def drawn(kind: inspect.Type, chance: random.Random) -> Any:  # noqa: PLR0911  one for each type
    """Any value of a type, as JSON has it."""
    match kind:
        case inspect.Metadata():
            return drawn(kind.type, chance)
        case inspect.StructType():
            named = {field.name: field for field in kind.fields}
            return {
                name: drawn(field.type, chance)
                for name, field in named.items()
                if field.required or chance.random() < 0.8
            }
        case inspect.UnionType():
            return drawn(chance.choice(kind.types), chance)
        case inspect.ListType() | inspect.VarTupleType():
            return [drawn(kind.item_type, chance) for _ in range(chance.choice((0, 1, 2, 7)))]
        case inspect.DictType():
            return {drawn(kind.key_type, chance): drawn(kind.value_type, chance) for _ in range(7)}
        case inspect.LiteralType():
            return chance.choice(kind.values)
        case inspect.StrType(pattern=str(pattern)):
            return (
                "0123456789abcdef" * (1 + ("32" in pattern))
                if "a-f" in pattern
                else chance.choice(("w1", "x" * 64))
            )
        case inspect.StrType():
            return chance.choice(WORDS)[: kind.max_length or 300]
        case inspect.IntType() | inspect.FloatType():
            least = next((bound for bound in (kind.ge, kind.gt) if bound is not None), -5)
            most = 2**53 if kind.le is None else kind.le
            number = min(max(chance.choice((0, 1, 7, 1234, 2**31 - 1, 2**53, -5)), least), most)
            return most if number == kind.gt else number
        case inspect.BoolType():
            return chance.random() < 0.5
        case _:  # bytes, none
            return None if isinstance(kind, inspect.NoneType) else ""


@pytest.mark.parametrize("seed", range(40))
def test_any_state_fits_any_screen_and_steers_no_terminal(seed: int) -> None:
    chance = random.Random(seed)
    seen = Overview(away=chance.choice(WORDS))
    for kind in chance.choices(list(EVENTS.values()), k=chance.randrange(12)):
        event = drawn(inspect.type_info(kind), chance)
        seen.take(msgspec.json.decode(msgspec.json.encode(event), type=kind))
    assert set(seen.report()) == set(EVENTS)
    if seen.node is not None:
        seen.take(msgspec.structs.replace(seen.node, texts=0))
        assert all(text.state != "writing" for text in seen.texts.values()), "what nobody writes is over"
    for width, height in ((80, 24), (chance.randint(1, 200), chance.randint(1, 60))):
        console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
        lines = console.render_lines(Screenful(seen, "http://127.0.0.1:8080", fits=True), pad=False)
        assert len(lines) <= height
        for line in lines:
            text = "".join(segment.text for segment in line)
            assert cell_len(text) <= width
            assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)


def test_texts_that_are_over_are_forgotten_one_after_the_other() -> None:
    seen = Overview()
    for number in range(40):
        seen.take(TextView(id=f"{number}", state="writing"))
        seen.take(TextView(id=f"{number}", state="over"))
    assert list(seen.texts) == [f"{number}" for number in range(40 - MAX_OVER, 40)]


def worker_of(api: Served) -> str:
    return api.node.name.replace("ae", "aw") + "-0"


async def test_a_node_at_one_moment(mosquitto: PrivateBroker, capsys: pytest.CaptureFixture[str]) -> None:
    base = Plan(draft_length=4, in_flight=2, qos=1, ahead=8, worker_draft=8)
    async with served(
        mosquitto, api_key="hush", energy="raspberry-pi-5", policy=lambda: ClosedFormPolicy(base)
    ) as api:
        where = ChatOptions(url=api.url, api_key="hush")
        answer = await api.chat(max_tokens=150, ignore_eos=True, headers=api.key)
        usage = answer.json()["usage"]["flexspec"]
        capsys.readouterr()
        await show(where, once=True, as_json=True)
        told = json.loads(capsys.readouterr().out)
        node, (text,), (plan,), fleet = told["node"], told["text"], told["plan"]["data"], told["fleet"]
        assert (node["edge"], node["tokens"], node["link"]["up"]) == (api.node.name, 150, True)
        assert (text["state"], text["reason"]) == ("over", "length")
        assert {name: text["figures"][name] for name in usage} == usage
        assert plan["plan"] == usage["plan"]
        assert [worker["status"]["worker"] for worker in fleet["workers"]] == [worker_of(api)]
        assert api.node.name in [device["name"] for device in fleet["devices"]]
        await show(where, once=False, as_json=False)  # as there is no terminal
        out = capsys.readouterr().out
        for words in (
            f"{api.node.name} · online for ",
            "150 tokens written",
            f"plan · {api.version} · {plan['plan']['does']}",
            *(other["name"] for other in plan["alternatives"]),
            *plan["estimates"],
            worker_of(api),
        ):
            assert words in out


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (None, 4, "cannot be reached"),
        ('401 No\r\n\r\n{"error": {"message": "no", "code": "invalid_api_key"}}', 4, "--api-key-file"),
        ('404 No\r\n\r\n{"error": {"message": "no", "code": "not_found"}}', 6, "has to be updated"),
        (f"{STREAM}event: node\ndata: {{}}\n\n", 6, "no API of an edge node"),
        (f"{STREAM}: nothing\n\n", 4, "broke"),
        ("200 OK\r\n\r\n<html></html>", 6, "no stream"),
    ],
)
def test_no_node(answer: str | None, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if answer is None:
        assert main(["--once", "--url", f"http://127.0.0.1:{free_port()}"]) == code
    else:
        with answering(f"HTTP/1.0 {answer}".encode()) as port:
            assert main(["--once", "--url", f"http://127.0.0.1:{port}"]) == code
    told = capsys.readouterr()
    assert (told.out, told.err[:7]) == ("", "error: ")
    assert said in told.err
    assert "/retry" not in told.err


async def test_waiting_ends_where_it_mends_nothing() -> None:
    refusal = b'HTTP/1.0 401 No\r\n\r\n{"error": {"message": "no", "code": "invalid_api_key"}}'
    with answering(refusal) as port:
        async with api_at(ChatOptions(url=f"http://127.0.0.1:{port}")) as api, asyncio.timeout(PATIENCE):
            with pytest.raises(LinkRefused):
                await follow(api, Overview())


async def test_a_terminal_waits_for_a_node_and_outlives_it(mosquitto: PrivateBroker) -> None:
    port = free_port()
    async with on_terminal("top", "--url", f"http://127.0.0.1:{port}") as terminal:
        before = terminal.mode
        await terminal.until("waiting for")
        await terminal.until("cannot be reached")
        async with served(
            mosquitto, engine=FakeEngine(before=lambda _: time.sleep(0.02)), api_port=port
        ) as api:
            asking = asyncio.create_task(api.chat(max_tokens=1000, ignore_eos=True))
            for words in (api.node.name, "writing", worker_of(api)):
                await terminal.until(words)
            terminal.resize(9, 40)
            await until(lambda: len(frames := terminal.seen.split("\x1b[H")) > 3 and fits(frames[-2], 9, 40))
            terminal.resize(24, 250)
        with suppress(Exception):
            await asking
        await terminal.until("no events for [^:]*: .*cannot be reached")
        terminal.type(b"\x1a")  # Ctrl-Z
        await terminal.until(r"\x1b\[\?1049l")
        await until(lambda: Path(f"/proc/{terminal.process.pid}/stat").read_text().split()[2] == "T")
        assert terminal.mode == before
        terminal.process.send_signal(signal.SIGCONT)
        async with served(mosquitto, api_port=port) as api:
            await terminal.until(api.node.name)
            await until(
                lambda: len(frames := terminal.seen.split("\x1b[H")) > 2 and "no events" not in frames[-2]
            )
            terminal.type(b"q")
            async with asyncio.timeout(PATIENCE):
                assert await terminal.process.wait() == 0
        assert terminal.mode == before
        assert terminal.seen.endswith("\x1b[?25h\x1b[?1049l")


def fits(frame: str, rows: int, columns: int) -> bool:
    lines = ESCAPE.sub("", frame).split("\r\n")
    gives_way = any(re.fullmatch(r" *… \d+ more *", line) for line in lines)
    return gives_way and len(lines) == rows and all(cell_len(line) <= columns for line in lines)
