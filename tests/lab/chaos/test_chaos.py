"""Chaos itself: schedules, the storm, and a small run of real daemons over TLS with keys."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from lab.benchmarks.attacks.ways import WAYS
from lab.chaos.__main__ import main
from lab.chaos.history import Struck, read_history
from lab.chaos.schedule import Sizes, schedule
from lab.chaos.weather import Weather, stormy
from lab.testbed.memory_broker import MemoryBroker

SIZES = Sizes(answers=80, faults=150, least=3, most=9, most_prompt=30, ways=tuple(WAYS))
PROMPTS = [range(length) for length in range(1, 60)]


def test_a_schedule_is_its_seeds_alone() -> None:
    made = schedule(7, SIZES, PROMPTS)
    assert made == schedule(7, SIZES, PROMPTS)
    assert made != schedule(8, SIZES, PROMPTS)
    assert (len(made.asks), len(made.faults)) == (80, 150)
    assert len({ask.dice.seed for ask in made.asks}) == 80
    assert all(ask.after is None or ask.after < ask.number for ask in made.asks)
    assert {fault.target for fault in made.faults} == {
        *SIZES.edges,
        "w1",
        "w2",
        "w3",
        "broker",
        "disk",
        *WAYS,
    }
    kinds = "attack blackhole clock cut down full join kill stop storm up"
    assert {fault.kind for fault in made.faults} == set(kinds.split())
    lanes = defaultdict(list)
    for fault in made.faults:
        lanes[fault.lane].append(fault.at)
    assert all(a <= b for times in lanes.values() for a, b in pairwise(times))
    assert len({fault.lane for fault in made.faults if fault.target in {"w1", "w2"}}) == 1


async def test_a_storm_loses_doubles_and_reorders() -> None:
    weather, broker = Weather(random.Random(4)), MemoryBroker()
    listening = LinkSettings(client_id="wet", subscriptions=(Subscription("t", 0),))
    seen: list[int] = []
    async with (
        broker.link(LinkSettings(client_id="calm")) as calm,
        stormy(broker.link, weather)(listening) as wet,
    ):
        await calm.wait_up(5)
        await wet.wait_up(5)

        async def read() -> None:
            async for event in wet.events():
                seen.extend([int(event.payload)] if isinstance(event, Inbound) else [])

        reader = asyncio.create_task(read())
        for rate, first in ((0.0, 0), (0.1, 100)):
            weather.rate = rate
            for number in range(first, 4 * first + 100):
                await calm.publish("t", str(number).encode())
                if number % 20 == 0:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    assert seen[:100] == list(range(100))
    late = seen[100:]
    # Binomial around 40 of 400 with standard deviation 6: from 10 to 70 is five of them.
    assert 330 <= len(set(late)) < 390
    assert len(late) > len(set(late))
    assert late != sorted(late)


@pytest.mark.timeout(120)
def test_a_small_run_of_real_daemons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--answers", "8", "--faults", "6", "--edges", "1", "--attacks", "polls", "--seed", "3"]
    code = main([*flags, "--history", str(tmp_path / "h")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    found = json.loads(printed.splitlines()[-1])["results"]["tiny"]
    assert (found["answers"], found["broken rules"]) == (8, 0)
    assert found["committed"] >= found["tokens"] > 100
    history = read_history((tmp_path / "h" / "tiny").glob("*.jsonl"))
    assert sum(isinstance(record, Struck) for record in history) == 6
