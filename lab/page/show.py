"""Ten tasks of a newcomer on the page; each fails where the page would leave them alone."""

import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx2
from playwright.async_api import expect

import edge_node
from lab.page.browser import DESKTOP, PHONE, SCHEMES, PageView
from lab.page.deployment import FAMILY, NEW, OLD, Fleet
from lab.testbed.link.proxy import ProxyLink
from lab.testbed.process import output

HEAD = Path(str(files("flexspec_mq_default") / "heads" / "style"))
QUESTION = "Why is the sky blue?"
LONG = "Write a long story about a fisherman and the sea."
CODE = "Write a Python function count_words(text) that returns how many words a text has."
RUNS = "assert (count_words(' to be or\\nnot  to be '), count_words('')) == (6, 0)"
"""Behind the code of an answer."""
LIMITS = ("prlimit", "--cpu=20", f"--as={2**30}", "--fsize=0", "--nofile=32")
"""Bounds of a program that a model wrote: seconds of a processor, bytes of memory and of a file, files."""
IMAGE = Path(edge_node.__file__).parent / "page" / "icon.svg"
OUTAGE = 30.0
"""Seconds for which nothing passes the link of the pair's device."""
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
        """Ask, and read the answer, which is the text that the API tells."""
        await view.option(temperature=0, seed=1, max_tokens=60)
        text = await view.answered(await view.ask(QUESTION))
        assert text == await self._told("kiosk", QUESTION, 60), text
        self.told["ask"] = text
        await self.look(view, "first")

    async def writers(self, view: PageView) -> None:
        """See who wrote what."""
        turn = view.see("li.turn").last
        spans = turn.locator(".answer span")
        pieces = await spans.evaluate_all("all => all.map(it => [it.dataset.writer, it.textContent])")
        assert "".join(text for _, text in pieces) == self.told["ask"]
        assert len({writer for writer, _ in pieces} & WRITERS) >= 2, pieces
        legend = await view.see("#legend").inner_text()
        assert all(writer in legend for writer, _ in pieces)
        self.told["who"] = (await turn.locator(".figures").inner_text()).partition("\n")[0]

    async def slow(self, view: PageView) -> None:
        """Find out why it is slow, at the device whose round trip takes 0.6 s."""
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

    async def outage(self, view: PageView, link: ProxyLink) -> None:
        """See an outage pass, in the middle of an answer that comes whole and as without it."""
        await view.option(temperature=0, seed=1, max_tokens=400)
        before = await view.answered(await view.ask(LONG))
        await view.see("#new").click()
        turn = await view.ask(LONG)
        await view.until("li.turn[data-state=writing]")
        await asyncio.sleep(1.0)
        began = time.monotonic()
        link.stall(OUTAGE)
        link.cut()
        await view.until("#banner[data-kind=link]")
        await view.until(".answer [data-writer=unverified]")
        await asyncio.sleep(OUTAGE / 15)
        during = await view.see("#banner").inner_text()
        await self.look(view, "outage")
        left = began + OUTAGE - time.monotonic()
        assert left > 1.0, f"the pictures took {-left:.1f} s too long"
        await asyncio.sleep(left - 0.5)
        label = "Unverified: "  # for who does not see its colour
        shown, _, unverified = (await turn.locator(".answer").text_content() or "").partition(label)
        await view.until("#banner[data-kind=back]")
        await expect(turn.locator("[data-writer=unverified]")).to_have_count(0, timeout=1000 * _PATIENCE)
        back = time.monotonic() - began - OUTAGE
        after = await view.see("#banner-words").inner_text()
        text = await view.answered(turn)
        assert text == before, text
        assert text.startswith(shown), shown
        pairs = zip(unverified, text[len(shown) :], strict=False)
        right = len([*takewhile(lambda both: both[0] == both[1], pairs)])
        self.told["outage"] = (
            f"{' '.join(during.split())} / {after} / {len(unverified)} provisional characters, of which {right} were "
            f"confirmed, {back:.1f} s after the link was back / {unverified!r}"
        )

    async def versions(self, view: PageView) -> None:
        """See which version answered, when a canary comes while the page is open."""
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

    async def retry(self, view: PageView) -> None:
        """Have a question answered again: by another seed, which makes the same text again where it is asked for."""
        await view.option(temperature=1, seed=1, max_tokens=40)
        await view.see("#new").click()
        first = await view.answered(await view.ask(QUESTION))
        await view.see("[data-act=retry]").click()
        turn = view.see("li.turn")
        other = await view.answered(turn)
        figures = await turn.locator(".figures").inner_text()
        seed = int(re.search(r"seed (\d+)", figures)[1])  # type: ignore[index]
        assert other != first, other
        assert other == await self._told("kiosk", QUESTION, 40, temperature=1, seed=seed), seed
        self.told["retry"] = figures.partition("\n")[2]

    async def image(self, view: PageView) -> None:
        """Drop an image, and paste one: page and API say that none is read, and all that was there stays."""
        await view.see("#prompt").fill("Which bird is this?")
        turns = await view.see("li.turn").count()
        await view.drop(IMAGE)
        await view.until("#not-taken", IMAGE.name)
        await self.look(view, "image")
        await view.paste_image()
        self.told["image"] = await (await view.until("#not-taken", "image.png")).inner_text()
        assert await view.see("#prompt").input_value() == "Which bird is this?"
        assert await view.see("li.turn").count() == turns
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        refused = await self._post("kiosk", {"messages": [{"role": "user", "content": [part]}]})
        assert refused.status_code == 400, refused.text
        self.told["image, by the API"] = refused.json()["error"]["message"]
        assert "images" in self.told["image, by the API"]

    async def kept(self, view: PageView) -> None:
        """Find conversations again, after a reload and a crash of the node, both in the middle of an answer."""
        await view.see("#options summary").click()
        await view.see("#keep").check()
        await view.see("#options summary").click()
        for question, happen in ((QUESTION, view.page.reload), (LONG, partial(self.fleet.restart, "boat"))):
            await view.see("#new").click()
            await view.option(temperature=0, seed=1, max_tokens=120)
            await view.ask(question)
            await view.until("li.turn:is([data-state=writing], [data-state=done])")
            await happen()
            text = await view.answered(view.see("li.turn"))
            assert text == await self._told("boat", question, 120), text
        await view.page.reload()
        assert await view.answered(view.see("li.turn")) == text
        await view.see("#earlier").select_option(label=QUESTION)
        self.told["kept"] = await view.answered(view.see("li.turn", QUESTION))
        assert self.told["kept"] == await self._told("boat", QUESTION, 120)
        await self.look(view, "kept")
        await view.see("#forget").click()
        await view.until("#examples")
        assert await view.page.evaluate("localStorage.length") == 0

    async def phone(self, view: PageView) -> None:
        """Do it with a finger, on a phone."""
        await view.until("#key-dialog[open]")
        await self.see(view, "phone-key")
        await view.see("#key-input").fill(self.fleet.key)
        await view.see("#key-form [type=submit]").tap()
        await view.until("#link[data-state=online]")
        await self.see(view, "phone-welcome")
        await view.see("#options summary").tap()
        await view.see("#max-tokens").fill("40")
        await view.see(".check").tap()
        assert await view.see("#keep").is_checked()
        await self.see(view, "phone-options")
        await view.see("#options summary").tap()
        await view.see("#examples button").nth(2).tap()
        turn = view.see("li.turn")
        await view.answered(turn)
        await self.see(view, "phone-answer")
        await turn.locator("[data-act=retry]").tap()
        await view.answered(turn)
        await view.see(".inline", "Who wrote").tap()
        await view.until(".answer [data-writer]")
        await turn.locator("[data-act=edit]").tap()
        await self.see(view, "phone-edit")
        await view.see("#edit-cancel").tap()
        for part in ("fleet", "live", "chat"):
            await view.see(f"nav [href='#{part}']").tap()
            await expect(view.see(f"#{part}-title")).to_be_in_viewport()
        await view.see("#forget").tap()
        await view.until("#examples")

    async def code(self, view: PageView) -> None:
        """Copy code of an answer, and run it; then see how much of an answer the device's draft wrote."""
        await view.option(temperature=0, seed=1, max_tokens=300)
        turn = await view.ask(CODE)
        await view.answered(turn)
        code = await view.copied(turn.locator("[data-act=code]").first)
        await output("the copied code", [*LIMITS, sys.executable, "-I", "-c", f"{code}\n{RUNS}"])
        await self.look(view, "code", at=".code")
        self.told["code"] = await turn.locator(".figures").inner_text()
        await view.see("#new").click()
        await view.see("#who").check()
        await view.option(temperature=0, seed=1, max_tokens=70)
        await view.answered(await view.ask(QUESTION))
        self.told["a pair's"] = await view.see(".figures").inner_text()
        await self.look(view, "ask")

    async def see(self, view: PageView, name: str) -> None:
        """Look for barriers in a view, and take its picture if documents show it."""
        self.barriers[name] = [*await view.barriers(), *await view.misfits()]
        if name in _PICTURES:
            await view.page.screenshot(path=self.pictures / f"page-{name}.png")

    async def look(self, view: PageView, name: str, *, at: str = "") -> None:
        """See it in both colours, on a desk and on a phone."""
        for scheme in SCHEMES:
            for kind, size in (("", DESKTOP), ("-phone", PHONE)):
                await view.look(scheme, size)
                if at:
                    await view.see(at).scroll_into_view_if_needed()
                await self.see(view, f"{name}-{scheme}{kind}")
        await view.look()

    async def _told(self, device: str, question: str, limit: int, **sampling: float) -> str:
        """Answer of a device by its API, without the page."""
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": limit}
        answer = await self._post(device, {**body, "temperature": 0, "seed": 1, **sampling})
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    async def _post(self, device: str, body: dict[str, Any]) -> httpx2.Response:
        url = f"{self.fleet.devices[device].url}/v1/chat/completions"
        headers = {"authorization": f"Bearer {self.fleet.key}"}
        async with httpx2.AsyncClient(timeout=_PATIENCE, trust_env=False) as http:
            return await http.post(url, json=body, headers=headers)
