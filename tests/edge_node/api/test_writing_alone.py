"""The draft writes on while nobody answers, over a real broker and a link that is cut."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from edge_node.limits import BatteryGauge
from edge_node.text.generator import Writing
from edge_node.text.spec import TextSpec
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.energy.meters import Batteries
from flexspec_mq.errors import LinkDown
from flexspec_mq.links import LINKS
from flexspec_mq.protocol.effects import FinishReason
from schemas.messages import PartialSampling
from tests.daemons import PATIENCE, FakeDrafter, FakeEngine, until
from tests.edge_node.api.served import Served, alone, served

pytestmark = pytest.mark.asyncio
LIMIT = 120
CUT_S = 2.5


def options(**more: object) -> TextSpec:
    asked = {
        "prompt": "user.hello,assistant.",
        "offline": "provisional",
        "seed": 3,
        "sampling": PartialSampling(0.0),
        "limit": LIMIT,
        "ignore_eos": True,
        **more,
    }
    return TextSpec(**asked)  # type: ignore[arg-type]


class Reader:
    """View of a text by its reader: confirmed and provisional text, and all provisional texts that stood."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self.text = ""
        self.provisional = [""]
        self.news = asyncio.Event()

    async def read(self) -> None:
        async for parts in self.writing.pieces():
            if isinstance(parts, str):
                self.provisional.append(parts)
            else:
                self.text += "".join(piece for piece, _ in parts)
            self.news.set()


@asynccontextmanager
async def reading(here: Served, asked: TextSpec) -> AsyncIterator[Reader]:
    async with here.api.texts._generator.writing(asked) as writing:
        yield Reader(writing)


@asynccontextmanager
async def cut_off(broker: PrivateBroker, accuracy: float = 0.9) -> AsyncIterator[tuple[Served, Proxy]]:
    engine, drafter = FakeEngine(lambda _: time.sleep(0.1)), FakeDrafter(accuracy)
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", broker.port)).listening() as link,
        served(broker, engine=engine, through=link.port, drafter=drafter) as here,
    ):
        yield here, link


@pytest.mark.parametrize("accuracy", [1.0, 0.0])
async def test_a_text_that_is_cut_off_goes_on_as_provisional_and_ends_as_the_targets_own(
    mosquitto: PrivateBroker, accuracy: float
) -> None:
    async with cut_off(mosquitto, accuracy) as (here, link), reading(here, options()) as reader:
        task = asyncio.create_task(reader.read())
        while not reader.text:
            await reader.news.wait()
            reader.news.clear()
        link.stall(CUT_S)
        while not reader.provisional[-1] and not task.done():
            await reader.news.wait()
            reader.news.clear()
        assert not task.done(), "it stands there while the link is cut"
        await task
        assert reader.text == alone("hello", 3, LIMIT, ignore_eos=True)
        figures = reader.writing.figures()
        assert figures.provisional > 0
        assert figures.provisional_confirmed == accuracy * figures.provisional
        assert here.node._estimates.version(here.version, 0.0).provisional.share == accuracy


@asynccontextmanager
async def away(broker: PrivateBroker, **more: object) -> AsyncIterator[Served]:
    """A node that has lost its link, and finds no other."""
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", broker.port)).listening() as link,
        served(broker, through=link.port, drafter=FakeDrafter(1.0), **more) as here,  # type: ignore[arg-type]
    ):
        link.stall(600)
        link.cut()
        await until(lambda: not here.node.link.is_up)
        yield here


async def test_where_nobody_can_be_reached_a_text_is_provisional_from_its_beginning_to_its_end(
    mosquitto: PrivateBroker,
) -> None:
    async with away(mosquitto) as here:
        async with reading(here, options()) as reader:
            await reader.read()
        assert (reader.text, reader.writing.finish.reason) == ("", FinishReason.PROVISIONAL)
        assert alone("hello", 3, LIMIT, ignore_eos=True).startswith(reader.provisional[-1])
        assert reader.writing.figures().provisional == LIMIT - 1, "the target decides the last token"
        with pytest.raises(LinkDown):
            async with reading(here, options(offline="hold")):
                raise AssertionError("it began")


async def test_a_text_that_nobody_took_within_its_patience_ends_as_provisional(
    mosquitto: PrivateBroker,
) -> None:
    async with away(mosquitto) as here:
        began = time.monotonic()
        async with reading(here, options(wait=3.0)) as reader:
            await reader.read()
        assert reader.writing.finish.reason is FinishReason.PROVISIONAL
        assert time.monotonic() - began >= 3.0


async def test_a_device_with_a_low_battery_or_without_leave_writes_nothing_alone(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    supply = tmp_path / "BAT0"
    supply.mkdir()
    for name, value in {
        "type": "Battery",
        "capacity": 9,
        "status": "Discharging",
        "energy_now": 10**7,
    }.items():
        (supply / name).write_text(f"{value}\n")
    async with away(mosquitto) as here:
        here.node._battery = BatteryGauge(Batteries(tmp_path), 0.1)
        for asked in (options(wait=2.0), options()):
            with pytest.raises(LinkDown):
                async with asyncio.timeout(PATIENCE), reading(here, asked) as reader:
                    await reader.read()
    async with away(mosquitto, edge={"provisional_tokens": 0}) as here:
        with pytest.raises(LinkDown):
            async with reading(here, options()):
                raise AssertionError("it began")
