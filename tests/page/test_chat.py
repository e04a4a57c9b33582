"""The page as a chat, in a real Chromium: hostile Markdown, copies, retries, conversations that are kept, a phone."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("playwright.async_api", reason="make test-page installs it")

from broker.launcher import PrivateBroker
from lab.page.browser import PHONE, PageView, chromium, opened
from tests.daemons import FakeEngine
from tests.edge_node.api.served import served

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
        await view.see("#options summary").click()
        await view.see("#keep").check()
        await view.see("#options summary").click()
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
        small = await view.page.evaluate(
            "[...document.querySelectorAll('button, select, summary, nav a, .inline')].filter(e => e.offsetParent)"
            ".map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().height]).filter(it => it[1] < 44)"
        )
        assert small == []
        assert await view.fits()
        assert await view.barriers() == []


async def test_an_answer_goes_on_after_a_reload_and_an_earlier_question_is_changed(
    browser: Any, mosquitto: PrivateBroker
) -> None:
    engine = FakeEngine(lambda _: time.sleep(0.05))
    async with served(mosquitto, engine=engine) as api, opened(browser, api.url, who=False) as view:
        await view.see("#options summary").click()
        await view.see("#keep").check()
        await view.see("#options summary").click()
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
