"""The page as a chat, in a real Chromium: hostile Markdown, copies, retries, conversations that are kept, a phone."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="make test-page installs it")

from broker.launcher import PrivateBroker
from lab.page.browser import PHONE, PageView, chromium, opened
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import alone, served

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = ["a", "blockquote", "br", "code", "del", "em", "h3", "hr", "li", "ol", "p", "pre", "strong", "ul"]
ALLOWED = {*TEXT, "table", "tbody", "td", "th", "thead", "tr", "div", "button", "small"}
HOSTILE = (
    "[a](javascript:alert(1))", "[a](JaVaScRiPt:alert(1))", "[a](java\tscript:alert(1))", "[a](data:text/html,x)",
    "[a](vbscript:x)", "[a](&#106;avascript:alert(1))", "<javascript:alert(1)>", "[a](//evil.example/x)", "[a](/v1)",
    "![a](https://evil.example/a.png)", '![a](x"onerror="alert(1))', "[![a](https://evil.example/b.png)](javascript:x)",
    "<script>alert(1)</script>", "<img src=https://evil.example/c.png onerror=alert(1)>", "<svg onload=alert(1)>",
    "<iframe src=https://evil.example></iframe>", '<a href="javascript:alert(1)">a</a>', "<style>*{color:red}</style>",
    '<p style="color:red" id="prompt">a</p>', "a <b onclick=alert(1)>b</b>", "<!-- a --> b", "&lt;script&gt;x",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>", "<form action=/v1><input name=a></form>",
    "| a | <img src=x> |\n|---|---|\n| [x](javascript:1) | `<b>` |", "```html\n<script>alert(1)</script>\n```",
    '```"><img src=x>\na\n```', "[a]: javascript:alert(1)\n\n[a]", "[__proto__] [constructor]", "- [x] <input>",
    '<https://a.example/"onmouseover=alert(1)>', ">" * 10_000, "> " * 10_000 + "a", "[" * 10_000, "1. " * 10_000,
    "*a_ " * 250_000, "[a](" * 250_000, "<div>" * 200_000,
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as found:
        yield found


async def say(view: PageView, text: str) -> None:
    """Have the next answer be this text, as if a model had written it."""

    async def answer(route: Any) -> None:
        chunk = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
        body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        headers = {"content-type": "text/event-stream", "x-request-id": "chatcmpl-x"}
        await route.fulfill(status=200, headers=headers, body=body)

    await view.page.unroute("**/v1/chat/completions")
    await view.page.route("**/v1/chat/completions", answer)


async def keep(view: PageView) -> None:
    """Switch it on that conversations are kept."""
    await view.see("#options summary").click()
    await view.see("#keep").check()
    await view.see("#options summary").click()


async def test_hostile_markdown_makes_no_element_and_asks_nobody(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:
        for text in HOSTILE:
            await say(view, text)
            turn = await view.ask("hello")
            await view.answered(turn)
            found = await turn.locator(".answer").evaluate(
                "it => [[...new Set([...it.querySelectorAll('*')].map(e => e.localName))],"
                "[...it.querySelectorAll('a')].map(a => [a.getAttribute('href'), a.rel, a.target])]"
            )
            assert set(found[0]) <= ALLOWED, text[:80]
            for href, rel, target in found[1]:
                assert href.startswith(("http://", "https://", "mailto:")), text[:80]
                assert (rel, target) == ("noopener noreferrer", "_blank")
            await view.see("#new").click()
        assert await view.breaches() == []


async def test_code_is_copied_and_an_answer_is_asked_for_again(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:
        await view.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        text = "# A title\n\nSome *text*.\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
        await say(view, text)
        turn = await view.ask("hello")
        await view.answered(turn)
        for name, copied in (("code", "print(1)"), ("copy", text)):
            await turn.locator(f"[data-act={name}]").click()
            await view.until(f"[data-act={name}]", "Copied")
            assert await view.page.evaluate("navigator.clipboard.readText()") == copied
        assert await view.barriers() == []
        await view.page.unroute("**/v1/chat/completions")
        await view.see("[data-act=retry]").click()
        await view.answered(view.see("li.turn").last)
        assert await view.see("li.turn").count() == 1
        assert await view.breaches() == []


async def test_conversations_are_kept_only_where_that_is_switched_on(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:
        await view.option(max_tokens=20)
        await view.answered(await view.ask("hello"))
        await view.page.reload()
        await view.until("#examples")
        assert await view.see("li.turn").count() == 0
        await keep(view)
        await view.option(max_tokens=20)
        text = await view.answered(await view.ask("hello"))
        await view.page.reload()
        assert await view.answered(view.see("li.turn")) == text
        await view.see("#forget").click()
        assert await view.see("li.turn").count() == 0
        assert await view.page.evaluate("localStorage.length") == 0
        assert await view.breaches() == []


async def test_a_phone_has_targets_for_fingers(browser: Any, mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, opened(browser, api.url, size=PHONE, who=False) as view:
        await view.see("#examples button").first.click()
        await view.answered(view.see("li.turn"))
        await view.see("#options summary").click()
        assert await view.misfits() == []
        assert await view.barriers() == []
        await view.see("#send").evaluate("it => it.style = 'min-height: 43px; margin-left: 400px'")
        assert len(await view.misfits()) == 2


async def test_an_image_is_not_taken_and_nothing_is_lost(
    browser: Any, mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    (image := tmp_path / "a cat.png").write_bytes(b"")
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:
        await view.answered(await view.ask("hello"))
        await view.see("#prompt").fill("half a question")
        for give, name in ((partial(view.drop, image), "a cat.png"), (view.paste_image, "image.png")):
            await give()
            await view.until("#not-taken", name)
        assert "a cat.png" in (await view.see("#announcer").text_content() or "")
        assert await view.barriers() == []
        assert (await view.see("#prompt").input_value(), view.page.url) == ("half a question", f"{api.url}/")
        await view.page.evaluate("navigator.clipboard.writeText(', whole')")
        await view.see("#prompt").press("Control+V")
        assert await view.see("#prompt").input_value() == "half a question, whole"
        await view.see("#prompt").press("Enter")
        await view.answered(view.see("li.turn").nth(1))
        assert await view.see("#not-taken").is_hidden()
        assert await view.breaches() == []


async def test_an_answer_goes_on_after_a_reload_and_an_earlier_question_is_changed(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    engine = FakeEngine(lambda _: time.sleep(0.05))
    async with served(mosquitto, engine=engine) as api, opened(browser, api.url, who=False) as view:
        await keep(view)
        await view.option(seed=7, max_tokens=120, temperature=0)
        await view.ask("hello")
        await view.until("li.turn[data-state=writing]")
        await view.page.reload()
        assert await view.answered(view.see("li.turn"))
        await view.option(max_tokens=10)
        await view.answered(await view.ask("again"))
        await view.see("[data-act=edit]").first.click()
        assert await view.see("#prompt").input_value() == "hello"
        await view.see("#prompt").fill("something else")
        await view.page.keyboard.press("Enter")
        turn = view.see("li.turn").first
        await view.until(".question", "something else")
        await view.answered(turn)
        assert await view.see("li.turn").count() == 1
        assert await view.breaches() == []


async def test_kept_conversations_are_there_after_their_nodes_restart(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with AsyncExitStack() as life:
        api = await life.enter_async_context(served(mosquitto, grace=0.2))
        async with opened(browser, api.url, who=False) as view:
            await keep(view)
            await view.option(max_tokens=20)
            texts = [await view.answered(await view.ask("hello"))]
            await view.see("#new").click()
            texts.append(await view.answered(await view.ask("other")))
            await life.aclose()
            async with served(mosquitto, api_port=api.port):
                await view.page.reload()
                assert await view.answered(view.see("li.turn")) == texts[1]
                await view.see("#earlier").select_option(label="hello")
                assert await view.answered(view.see("li.turn")) == texts[0]
                await view.option(max_tokens=10)
                await view.answered(await view.ask("and now?"))
                assert await view.see("li.turn").count() == 2
                assert await view.breaches() == []


async def test_what_one_tab_forgets_is_gone_in_the_other(browser: Any, mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:
        await keep(view)
        await view.option(max_tokens=20)
        await view.answered(await view.ask("hello"))
        other = await view.page.context.new_page()
        await other.goto(api.url)
        await other.locator("li.turn[data-state=done]").wait_for()
        assert (await api.get("/v1/outbox")).json()["data"]
        await other.locator("#forget").click()
        await view.see("li.turn").wait_for(state="detached")
        await view.until("#examples")
        assert not await view.see("#keep").is_checked()
        assert await view.page.evaluate("localStorage.length") == 0
        await until(lambda: not api.api.texts.outbox.counts.get("unread"))
        await view.answered(await view.ask("hello again"))
        assert await view.page.evaluate("localStorage.length") == 0
        assert await view.breaches() == []


async def test_a_browser_keeps_30_conversations_and_a_megabyte(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    script = """async ([names, turns, length, taken]) => {
        localStorage.clear();
        localStorage.setItem("taken", "x".repeat(taken));
        const { keep, all } = await import("/page/kept.js");
        const turn = (at) => ({ question: `${at}`, text: "x".repeat(length), writers: [], sizes: [], state: "done" });
        for (let name = 0; name < names; name += 1) {
            keep({ name: `${name}`, turns: Array.from({ length: turns }, (_, at) => turn(at)) });
        }
        const found = all().map(({ name, turns }) => [Number(name), turns.map(({ question }) => Number(question))]);
        return [found, localStorage.getItem("flexspec.conversations").length];
    }"""
    async with served(mosquitto) as api, opened(browser, api.url, who=False) as view:

        async def kept(names: int, turns: int, length: int, taken: int = 0) -> list[list[Any]]:
            found, size = await view.page.evaluate(script, [names, turns, length, taken])
            assert size <= 1_000_000
            return cast("list[list[Any]]", found)

        assert await kept(35, 2, 10) == [[name, [0, 1]] for name in range(34, 4, -1)]
        await view.page.reload()
        assert await view.see("#earlier option").count() == 30
        assert await view.see("li.turn").count() == 2
        assert [name for name, _ in await kept(35, 1, 90_000)] == [*range(34, 23, -1)]
        assert await kept(2, 30, 90_000) == [
            [1, [*range(19, 30)]]
        ]  # the oldest turns of one that is too long
        assert await kept(1, 1, 1_100_000) == []
        few = await kept(35, 1, 90_000, 5_000_000)  # the browser has less room than that
        assert [name for name, _ in few] == [34, 33]
        assert await view.breaches() == []


async def test_another_answer_has_another_seed_and_a_changed_question_the_same(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    async with served(mosquitto) as api, opened(browser, api.url) as view:
        seeds: list[Any] = []

        def asked(request: Any) -> None:
            if request.url.endswith("/v1/chat/completions"):
                seeds.append(request.post_data_json.get("seed"))

        view.page.on("request", asked)
        await view.option(seed=7, max_tokens=40, temperature=1)
        assert await view.answered(await view.ask("hello")) == alone("hello", 7, 40)
        for _ in range(2):
            await view.see("[data-act=retry]").click()
            await view.answered(view.see("li.turn").last)
        await view.see("[data-act=edit]").click()
        await view.page.keyboard.press("Enter")
        assert await view.answered(view.see("li.turn").last) == alone("hello", 7, 40)
        await say(view, "")  # which is an answer as well
        for _ in range(2):
            await view.see("[data-act=retry]").click()
            await view.until("li.turn[data-state=done]", "The answer is empty.")
        assert seeds == [7, None, None, 7, None, None]
        assert await view.breaches() == []
