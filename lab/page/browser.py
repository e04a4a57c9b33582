"""A real Chromium, and the page of an edge node in it as a person uses it, watched for what it must never do."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright

from flexspec_mq.errors import UsageError

DESKTOP, PHONE, HAND = (1120, 720), (360, 720), (390, 844)
"""Widths and heights in CSS pixels."""
SCHEMES = ("light", "dark")
_NAMES = ("chromium", "chromium-headless-shell")
_PATIENCE, _WRITTEN = 60_000.0, 300_000.0
"""Milliseconds that anything on a page, and that an answer may take on a busy machine."""
_WATCHED = Path(__file__).with_name("watched.js")


@dataclass(slots=True)
class PageView:
    """A page that is open; made by `opened`.

    Attributes:
        page: the browser's.
        origin: the edge node's.
        foreign: requests to anybody else.
        complaints: errors and warnings of the console, and exceptions.
        refused: answers that the browser complains about by itself, as it must: of a key that is asked for, or of a
            text that another node does not know.
    """

    page: Page
    origin: str
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    refused: tuple[str, ...] = ("401", "404", "net::ERR_", "503")

    def see(self, selector: str, words: str = "") -> Locator:
        """Elements by a CSS selector that have these words."""
        return self.page.locator(selector, has_text=words or None)

    async def until(self, selector: str, words: str = "") -> Locator:
        """Wait until an element is visible that has these words; the first one."""
        found = self.see(selector, words).first
        await found.wait_for()
        return found

    async def ask(self, question: str) -> Locator:
        """Ask as a person does, and return the turn."""
        count = await self.see("li.turn").count()
        await self.see("#prompt").fill(question)
        await self.page.keyboard.press("Enter")
        turn = self.see("li.turn").nth(count)
        await turn.wait_for()
        return turn

    async def answered(self, turn: Locator, state: str = "done") -> str:
        """Wait until a turn is over, and return what its answer shows."""
        await turn.locator(f"xpath=self::*[@data-state='{state}']").wait_for(timeout=_WRITTEN)
        return await turn.locator(".answer").text_content() or ""

    async def copied(self, button: Locator) -> str:
        """Copy by a button, and return what the clipboard has then."""
        await self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await button.click()
        await button.filter(has_text="Copied").wait_for()
        text: str = await self.page.evaluate("navigator.clipboard.readText()")
        return text

    async def option(self, **values: object) -> None:
        """Fill in options by their ids."""
        await self.see("#options summary").click()
        for name, value in values.items():
            await self.see(f"#{name.replace('_', '-')}").fill(str(value))
        await self.see("#options summary").click()

    async def breaches(self) -> list[str]:
        """Breaches of its policy: foreign requests, violations, complaints of the console."""
        return [*self.foreign, *self.complaints, *await self.page.evaluate("window.violations")]

    async def barriers(self) -> list[str]:
        """Barriers to people with disabilities that axe-core finds, in one line each."""
        if not await self.page.evaluate("'axe' in window"):
            axe = files("axe_playwright_python").joinpath("axe.min.js")
            await self.page.evaluate(axe.read_text("utf-8"))
        found = await self.page.evaluate("axe.run()")
        return [
            f"{rule['id']}: {node['target']}: {' '.join(node['failureSummary'].split())}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    async def memory(self) -> dict[str, int]:
        """Bytes of JavaScript's heap, nodes and listeners after a collection of garbage."""
        session = await self.page.context.new_cdp_session(self.page)
        try:
            await session.send("Performance.enable")
            await session.send("HeapProfiler.collectGarbage")
            found = await session.send("Performance.getMetrics")
        finally:
            await session.detach()
        wanted = ("JSHeapUsedSize", "Nodes", "Documents", "JSEventListeners")
        return {one["name"]: int(one["value"]) for one in found["metrics"] if one["name"] in wanted}

    async def painted(self) -> list[tuple[int, float]]:
        """Lengths of the newest answer as it was drawn, and when, in seconds since the Unix epoch; forgets them."""
        found: list[tuple[int, float]] = await self.page.evaluate("window.painted.splice(0)")
        return [(length, ms / 1000) for length, ms in found]

    async def paste_image(self) -> None:
        """Paste an image into the question, by the clipboard and the keys for it."""
        await self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await self.page.evaluate("window.copyImage()")
        await self.see("#prompt").press("Control+V")

    async def drop(self, file: Path) -> None:
        """Drop a file, by its whole path, onto the middle of the window."""
        assert self.page.viewport_size
        width, height = self.page.viewport_size["width"], self.page.viewport_size["height"]
        dragged = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        session = await self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": width / 2, "y": height / 2, "data": dragged}
            await session.send("Input.dispatchDragEvent", event)
        await session.detach()

    async def misfits(self) -> list[str]:
        """Whatever has to be scrolled sideways; on a phone also targets that a finger misses."""
        assert self.page.viewport_size
        width = self.page.viewport_size["width"]
        wide = await self.page.evaluate("document.documentElement.scrollWidth")
        small: list[str] = await self.page.evaluate("window.small()") if width < DESKTOP[0] else []
        return [*small, *([f"{wide} pixels wide on a screen of {width}"] if wide > width else [])]

    async def look(self, scheme: str = "light", size: tuple[int, int] = DESKTOP) -> None:
        """Change the colours that the user likes, and the size of the window."""
        await self.page.emulate_media(color_scheme=scheme)
        await self.page.set_viewport_size({"width": size[0], "height": size[1]})


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Chromium without a window.

    Raises:
        UsageError: there is none.
    """
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        raise UsageError("there is no Chromium here", hint="apt-get install chromium, or make test-page")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    who: bool = True,
    touch: bool = False,
) -> AsyncIterator[PageView]:
    """Open an edge node's page in a tab of its own, which shares nothing with others.

    Args:
        browser: where.
        url: address of the node's API.
        size: size of the window.
        scheme: colours.
        who: whether answers are marked by who wrote which word; else they are Markdown.
        touch: whether it is a phone, with fingers in place of a mouse.
    """
    context: BrowserContext = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion="reduce",
        has_touch=touch,
        is_mobile=touch,
    )
    context.set_default_timeout(_PATIENCE)
    try:
        await context.add_init_script(path=_WATCHED)
        page = await context.new_page()
        view = PageView(page, url)

        def asked(request: Any) -> None:
            if not request.url.startswith((f"{url}/", "data:")):
                view.foreign.append(request.url)

        def said(message: Any) -> None:
            told = message.type in {"error", "warning"}
            if told and not any(word in message.text for word in view.refused):
                view.complaints.append(message.text)

        page.on("request", asked)
        page.on("console", said)
        page.on("pageerror", lambda error: view.complaints.append(str(error)))
        await page.goto(f"{url}/?who=1" if who else f"{url}/")
        yield view
    finally:
        await context.close()
