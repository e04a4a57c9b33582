"""Chaos itself: schedules, the storm, and small runs of real daemons over TLS with keys."""

import json
import os
import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from lab.benchmarks.attacks.ways import WAYS
from lab.benchmarks.exact.grammars import OF_WORDS
from lab.chaos import restarts
from lab.chaos.__main__ import main
from lab.chaos.history import Struck, read_history
from lab.chaos.schedule import Sizes, schedule
from lab.chaos.weather import Weather

SIZES = Sizes(answers=80, faults=150, least=3, most=9, most_prompt=30, ways=tuple(WAYS))
PROMPTS = [range(length) for length in range(1, 60)]


def test_a_schedule_is_its_seeds_alone() -> None:
    made = schedule(7, SIZES, PROMPTS, OF_WORDS)
    assert made == schedule(7, SIZES, PROMPTS, OF_WORDS)
    assert made != schedule(8, SIZES, PROMPTS, OF_WORDS)
    assert (len(made.asks), len(made.faults)) == (80, 150)
    assert len({ask.sampling.seed for ask in made.asks}) == 80
    assert all(ask.after is None or ask.after < ask.number for ask in made.asks)
    assert 25 < sum(ask.constraint is not None for ask in made.asks) < 55
    assert all(
        sum(ask.offline == mode for ask in made.asks) > 12 for mode in ("hold", "provisional", "deliver")
    )
    assert not any(ask.constraint and ask.ignores_eos for ask in made.asks)
    assert {fault.target for fault in made.faults} == {
        *SIZES.edges,
        "w1",
        "w2",
        "w3",
        "broker",
        "disk",
        *WAYS,
    }
    kinds = "attack away blackhole clock cut down full join kill stop storm up"
    assert {fault.kind for fault in made.faults} == set(kinds.split())
    lanes = defaultdict(list)
    for fault in made.faults:
        lanes[fault.lane].append(fault.at)
    assert all(a <= b for times in lanes.values() for a, b in pairwise(times))
    assert len({fault.lane for fault in made.faults if fault.target in {"w1", "w2"}}) == 1


def test_a_storm_loses_doubles_and_reorders() -> None:
    weather = Weather(random.Random(4))
    assert [weather.arrivals() for _ in range(99)] == [[0.0]] * 99
    weather.rate = 0.1
    copies = [weather.arrivals() for _ in range(4000)]
    # Binomial around 400 of 4,000 with standard deviation 19: 100 is five of them.
    assert abs(sum(not arrivals for arrivals in copies) - 400) < 100
    assert abs(sum(len(arrivals) > 1 for arrivals in copies) - 440) < 100
    assert abs(sum(0.0 < arrivals[0] < 0.4 for arrivals in copies if arrivals) - 700) < 150
    assert all(arrivals == sorted(arrivals) for arrivals in copies)


@pytest.mark.timeout(600)
def test_a_small_run_of_real_daemons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--answers", "8", "--faults", "4", "--edges", "2", "--attacks", "polls", "--seed", "269"]
    code = main([*flags, "--history", str(tmp_path / "h")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    found = json.loads(printed.splitlines()[-1])["results"]["tiny"]
    assert (found["answers"], found["broken rules"]) == (8, 0)
    assert found["committed"] >= found["tokens"] > 100
    history = read_history((tmp_path / "h" / "tiny").glob("*.jsonl"))
    assert sum(isinstance(record, Struck) for record in history) == 4


@pytest.mark.skipif(
    "CI" in os.environ, reason="continuous integration has twelve minutes: make test-lab runs it"
)
@pytest.mark.timeout(600)
def test_a_device_that_is_killed_loses_doubles_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = restarts.main(["--requests", "4", "--kills", "3", "--seed", "1", "--history", str(tmp_path / "h")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    found = json.loads(printed.splitlines()[-1])["results"]
    assert (found["requests"], found["kills"], found["broken rules"]) == (4, 3, 0)
    assert found["committed"] >= found["tokens"] > 50
