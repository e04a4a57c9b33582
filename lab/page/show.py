"""Five tasks of a newcomer on the page; each fails where the page would leave them alone."""

import asyncio
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import httpx2

from lab.page.browser import DESKTOP, PHONE, SCHEMES, PageView
from lab.page.deployment import FAMILY, NEW, OLD, Fleet

HEAD = Path(str(files("flexspec_mq_default") / "heads" / "style"))
QUESTION = "Why is the sky blue?"
LONG = "Write a long story about a fisherman and the sea."
OUTAGE = 6.0
"""Seconds for which nothing passes the kiosk's link."""
_PATIENCE = 120.0
_PICTURES = ("ask-light", "ask-light-phone", "slow-light", "outage-light", "versions-dark")
"""Views that documents show."""
WRITERS = {"device", "worker", "target", "lookup", "grammar", "cloud"}


@dataclass(slots=True)
class Show:
    """A newcomer at a device's page.

    Attributes:
        fleet: deployment.
        pictures: folder for them.
        told: words of the page, by task.
        barriers: barriers and pages too wide, by view.
    """

    fleet: Fleet
    pictures: Path
    told: dict[str, str] = field(default_factory=dict)
    barriers: dict[str, list[str]] = field(default_factory=dict)

    async def enter(self, view: PageView) -> None:
        """Give the key that the page asks for."""
        await view.until("#key-dialog[open]")
        await self.look(view, "key")
        await view.see("#key-input").fill(self.fleet.key)
        await view.page.keyboard.press("Enter")
        await view.until("#link[data-state=online]")
        await view.until("#workers [data-worker=w2]")

    async def ask(self, view: PageView) -> None:
        """1: ask, and read the answer, which is the text that the API tells."""
        await view.option(temperature=0, seed=1, max_tokens=60)
        text = await view.answered(await view.ask(QUESTION))
        assert text == await self._told(QUESTION, 60), text
        self.told["ask"] = text
        await self.look(view, "ask")

    async def writers(self, view: PageView) -> None:
        """2: see who wrote what."""
        turn = view.see("li.turn").last
        spans = turn.locator(".answer span")
        pieces = await spans.evaluate_all("all => all.map(it => [it.dataset.writer, it.textContent])")
        assert "".join(text for _, text in pieces) == self.told["ask"]
        assert len({writer for writer, _ in pieces} & WRITERS) >= 2, pieces
        legend = await view.see("#legend").inner_text()
        assert all(writer in legend for writer, _ in pieces)
        self.told["who"] = (await turn.locator(".figures").inner_text()).partition("\n")[0]

    async def slow(self, view: PageView) -> None:
        """3: find out why it is slow, at the device whose round trip takes 0.6 s."""
        await view.option(temperature=0, seed=1, max_tokens=16)
        await view.answered(await view.ask(QUESTION))
        await view.see("li.turn a[href='#time']").last.click()
        await view.until("#why", "the way to the worker and back")
        shown = await view.see("#round-trip").inner_text()
        number, unit = re.match(r"([\d.,]+)\s(m?s)", shown).groups()  # type: ignore[union-attr]
        trip = float(number.replace(",", "")) * (1.0 if unit == "s" else 1e-3)
        assert 0.6 < trip < 1.0, shown
        self.told["slow"] = await view.see("#why").inner_text()
        await self.look(view, "slow")

    async def outage(self, view: PageView) -> None:
        """4: see an outage pass, in the middle of an answer that comes whole and as without it."""
        await view.option(temperature=0, seed=1, max_tokens=200)
        await view.see("#new").click()
        turn = await view.ask(LONG)
        await view.until("li.turn[data-state=writing]")
        await asyncio.sleep(1.0)
        link = self.fleet.links["kiosk"]
        link.stall(OUTAGE)
        link.cut()
        await view.until("#banner[data-kind=link]")
        await view.until(".answer [data-writer=unverified]", "Unverified")
        await asyncio.sleep(OUTAGE / 2)
        during = await view.see("#banner").inner_text()
        await self.look(view, "outage")
        await view.until("#banner[data-kind=back]")
        self.told["outage"] = f"{' '.join(during.split())} / {await view.see('#banner-words').inner_text()}"
        assert await view.answered(turn) == await self._told(LONG, 200)

    async def versions(self, view: PageView) -> None:
        """5: see which version answered, when a canary comes while the page is open."""
        await self.fleet.operator.publish(NEW, HEAD, "--share", "50")
        await view.until(f"#versions [data-version={NEW}][data-state=canary]", "2 workers")
        await view.until("#history", NEW)
        await view.option(temperature=0, seed=1, max_tokens=40)
        for state, version in (("stable", OLD), ("canary", NEW)):
            await view.see("#new").click()
            await view.see("#model").select_option(f"{FAMILY}:{state}")
            turn = await view.ask("Name four things that a healthy breakfast can have.")
            await view.answered(turn)
            assert await turn.get_attribute("data-version") == version
            self.told[f"version {version}"] = (await turn.locator(".figures").inner_text()).partition("\n")[2]
        await self.look(view, "versions", at="#fleet-title")

    async def look(self, view: PageView, name: str, *, at: str = "") -> None:
        """Look for barriers in all views, and take pictures of some."""
        for scheme in SCHEMES:
            for kind, size in (("", DESKTOP), ("-phone", PHONE)):
                await view.look(scheme, size)
                if at:
                    await view.see(at).scroll_into_view_if_needed()
                found = await view.barriers()
                found += [] if await view.fits() else ["wider than the window"]
                self.barriers[one := f"{name}-{scheme}{kind}"] = found
                if one in _PICTURES:
                    await view.page.screenshot(path=self.pictures / f"page-{one}.png")
        await view.look()

    async def _told(self, question: str, limit: int) -> str:
        """Answer of the kiosk by its API, without the page."""
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": limit}
        url = f"{self.fleet.devices['kiosk'].url}/v1/chat/completions"
        headers = {"authorization": f"Bearer {self.fleet.key}"}
        async with httpx2.AsyncClient(timeout=_PATIENCE, trust_env=False) as http:
            answer = await http.post(url, json={**body, "temperature": 0, "seed": 1}, headers=headers)
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text
