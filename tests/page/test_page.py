"""The page of an edge node in a real Chromium: an answer, an outage, a canary, another key; nobody is kept out."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="make test-page installs it")

from broker.launcher import PrivateBroker
from edge_node.outbox.journal import Journal
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from flexspec_mq.protocol.worker.types import WorkItem
from lab.page.browser import DESKTOP, PHONE, SCHEMES, PageView, chromium, opened
from tests.daemons import PATIENCE, FakeDrafter, FakeEngine, until, worker_at
from tests.edge_node.api.served import alone, links_to, served
from tests.edge_node.families import CANARY, STABLE, Family, publisher, version

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEED, LENGTH = 7, 120
KEYS = ("the first key", "the second key")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as found:
        yield found


def slow(_items: Sequence[WorkItem]) -> None:
    time.sleep(0.03)


async def begin(view: PageView, question: str = "hello") -> Any:
    """Ask for a text that is known; returns the turn."""
    await view.option(seed=SEED, max_tokens=LENGTH, temperature=0)
    return await view.ask(question)


async def whole(view: PageView, turn: Any, question: str = "hello") -> str:
    """The answer, which must be the target's own."""
    text = await view.answered(turn)
    assert text == alone(question, SEED, LENGTH)
    return text


async def test_an_answer_says_who_wrote_it_and_nobody_is_kept_out(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto, workers=2) as api, opened(browser, api.url) as view:
        turn = await begin(view)
        text = await whole(view, turn)
        spans = view.see(".answer span")
        pieces = await spans.evaluate_all("all => all.map(it => [it.dataset.writer, it.textContent])")
        writers = [writer for writer, _ in pieces]
        assert "".join(piece for _, piece in pieces) == text
        assert set(writers) == {"device", "target"}
        assert all(one != other for one, other in pairwise(writers))
        assert set(writers) <= set(await view.see("#legend dt").all_text_contents())
        assert await turn.get_attribute("data-version") == api.version
        await view.until("#why", "verdict comes each")
        await view.until("#workers [data-worker]", "1")
        for scheme in SCHEMES:
            for size in (DESKTOP, PHONE):
                await view.look(scheme, size)
                assert await view.barriers() == []
                assert await view.misfits() == []
        assert await view.breaches() == []


async def test_an_outage_passes(browser: Any, mosquitto: PrivateBroker) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        served(
            mosquitto, engine=FakeEngine(slow), drafter=FakeDrafter(accuracy=1.0), through=link.port
        ) as api,
        opened(browser, api.url) as view,
    ):
        turn = await begin(view)
        await view.until("li.turn[data-state=writing]")
        link.stall(2.0)
        link.cut()
        await view.until("#banner[data-kind=link]", "No link")
        await view.until("#link[data-state=offline]")
        assert await turn.get_attribute("data-state") in {"waiting", "writing"}
        await view.until(".answer [data-writer=unverified]", "Unverified: ")
        assert "unverified" in (await view.see("#announcer").text_content() or "")
        assert await view.barriers() == []
        await view.until("#banner[data-kind=back]", "back after")
        await whole(view, turn)
        assert await view.see(".answer [data-writer=unverified]").count() == 0
        await view.until(".figures", "Written by the draft alone: ")
        await view.until("#plan", "of what the draft wrote alone was confirmed")
        await view.until(f"#devices [data-device={api.node.name}]", "away for 2")
        assert "Answer complete" in (await view.see("#announcer").text_content() or "")
        assert await view.breaches() == []


async def test_what_nobody_could_verify_stays_marked(browser: Any, mosquitto: PrivateBroker) -> None:
    async def impatient(route: Any) -> None:
        asked = route.request.post_data_json
        await route.continue_(post_data=json.dumps({**asked, "wait": 3}))

    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        served(mosquitto, through=link.port) as api,
        opened(browser, api.url) as view,
    ):
        await whole(view, await begin(view))
        link.stall(60.0)
        link.cut()
        await view.until("#link[data-state=offline]")
        await view.page.route("**/v1/chat/completions", impatient)
        turn = await begin(view, "again")
        written = await view.answered(turn, "unverified")
        assert written.startswith("Unverified: ")
        assert len(written) > 30
        assert "Answer ends unverified" in (await view.see("#announcer").text_content() or "")
        for size in (DESKTOP, PHONE):
            await view.look(size=size)
            assert await view.barriers() == []
        assert await view.breaches() == []


async def test_an_answer_that_nobody_read_is_found_again_and_stop_is_an_end(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto, engine=FakeEngine(lambda _: time.sleep(0.15))) as api:
        async with opened(browser, api.url) as view:
            await begin(view)
            await view.until("li.turn[data-state=writing]")
        async with opened(browser, api.url) as view:
            await view.until("#outbox [data-state=writing]", "hello")
            assert await view.see("#waiting").text_content() == "1 question under way"
            await view.until("#waiting", "1 answer ready")
            await view.until("#announcer", "An answer is ready: hello")
            for size in (DESKTOP, PHONE):
                await view.look(size=size)
                assert await view.barriers() == []
            await view.look()
            await view.see("#outbox").get_by_text("Show").click()
            assert await whole(view, view.see("li.turn")) == alone("hello", SEED, LENGTH)
            await view.see("#waiting").wait_for(state="hidden")
            turn = await begin(view, "again")
            await view.until("li.turn[data-state=writing]")
            assert len((await api.get("/v1/outbox")).json()["data"]) == 2
            await view.see("#stop").click()
            await view.answered(turn, "stopped")
            (read,) = (await api.get("/v1/outbox")).json()["data"]
            assert (read["prompt"], read["read"]) == ("hello", True)
            assert await view.breaches() == []


async def test_a_stream_that_broke_is_read_on_behind_what_has_come(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with (
        served(mosquitto, engine=FakeEngine(slow)) as api,
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", api.port)).listening() as way,
        opened(browser, f"http://127.0.0.1:{way.port}") as view,
    ):
        turn = await begin(view)
        await view.until("li.turn[data-state=writing]")
        way.cut()
        await view.until(".note", "The edge node went away")
        await whole(view, turn)
        assert api.daemons[0].worker.machine.counters.opened == 1
        assert await view.breaches() == []


async def test_an_answer_goes_on_when_its_node_was_started_again(
    browser: Any, mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    name, path = "page-restarts", tmp_path / "outbox.sqlite"
    lives = partial(served, mosquitto, workers=0, version=name, edge={"edge": name}, grace=0.2)
    async with (
        worker_at(links_to(mosquitto), f"w-{name}", FakeEngine(slow), version=name),
        AsyncExitStack() as life,
    ):
        api = await life.enter_async_context(lives(journal=Journal(path)))
        await until(lambda: name in api.node.directory.versions())
        async with opened(browser, api.url) as view:
            turn = await begin(view)
            await view.until("li.turn[data-state=writing]")
            await life.aclose()
            await view.until(".note", "The edge node went away")
            async with lives(journal=Journal(path), api_port=api.port):
                await whole(view, turn)
            assert await view.breaches() == []


async def test_a_canary_shows_up_and_answers(browser: Any, mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    old, new = version("v1", STABLE), version("v2", CANARY, 20)
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=old.name, family=family.followed(tmp_path)) as api,
        opened(browser, api.url) as view,
    ):
        await publish.keys()
        await publish.catalogue(old)
        await view.until("#versions [data-version=v1][data-state=stable]")
        async with worker_at(links_to(mosquitto), "canary", FakeEngine(), version=new.name):
            await publish.catalogue(old, new)
            await view.until("#versions [data-version=v2][data-state=canary]", "20 %")
            await view.until("#history", "v2")
            await view.see("#model").select_option(f"{family.name}:canary")
            turn = await begin(view)
            await whole(view, turn)
            assert await turn.get_attribute("data-version") == new.name
        assert await view.breaches() == []


async def test_a_key_is_asked_for_once_and_again_when_it_changed(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    engine = FakeEngine(slow)
    async with served(mosquitto, api_key=KEYS[0], engine=engine) as api, opened(browser, api.url) as view:
        port = api.port
        for key in ("no key", KEYS[0]):
            await view.until("#key-dialog[open]")
            assert await view.barriers() == []
            await view.see("#key-input").fill(key)
            await view.page.keyboard.press("Enter")
            if key != KEYS[0]:
                await view.until("#key-error", "wrong")
        await view.until("#link[data-state=online]")
        await whole(view, await begin(view))
        await begin(view, "again")
        await view.until("li.turn[data-state=writing]")
        await view.until("#time", "Where the time goes")
        await view.see("#prompt").fill("a thought")
        api.run.cancel()
        await asyncio.wait([api.run], timeout=PATIENCE)
        await view.until(".note", "The edge node went away")
        async with served(mosquitto, api_key=KEYS[1], api_port=port):
            await view.until("#key-dialog[open]")
            await view.see("#key-input").fill(KEYS[1])
            await view.page.keyboard.press("Enter")
            await view.until("#link[data-state=online]")
            await view.until("#time", "Where the time of the last answer went")
            assert await view.see("#prompt").input_value() == "a thought"
            await view.see("#prompt").press("Enter")
            assert await view.answered(view.see("li.turn").nth(2))
        kept = await view.page.evaluate("[localStorage.length, document.cookie, location.href]")
        assert kept == [0, "", f"{api.url}/?who=1"]
        assert await view.breaches() == []
