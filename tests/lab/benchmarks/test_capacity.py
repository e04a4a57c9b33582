"""The benchmark of capacity: costs and figures, replayed drafts, crowds in simulated time and at real daemons."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cloud_worker.engine.interface import Facts
from cloud_worker.engine.simulated import SimulatedEngine
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.settings import PlanOptions
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.worker.types import WorkItem
from lab.benchmarks.capacity import __main__ as capacity
from lab.benchmarks.capacity import cost as costs
from lab.benchmarks.capacity.curves import carried
from lab.benchmarks.capacity.strategies import (
    COLOCATED,
    DEFAULT,
    DEVICE,
    STRATEGIES,
    STREAMING,
)
from lab.benchmarks.capacity.virtual_crowd import Place, VirtualCrowd
from lab.benchmarks.replay.crowds import arrivals, order_of, texts_each
from lab.benchmarks.replay.figures import TextRun, best_other, carried_clients, carried_rate, figures
from lab.benchmarks.replay.generator import Work, replaying_node, until_told
from lab.benchmarks.replay.orders import Order, Writer
from lab.simulator.accelerator import Accelerator, Modelled
from lab.simulator.cost import DraftForward, DraftTimes, TargetForward
from lab.simulator.recording import Recording, keep_recording
from lab.simulator.replayed_drafter import by_seed
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import link_to, until
from tests.lab.simulator.recordings import ABOUT, CONTEXT, LIMIT, VOCABULARY, made

COST = Accelerator(weights=8.0, row=0.1, session=0.05, draft=0.25)


RECORDING = made()


def place(strategy: str, recording: Recording = RECORDING, *, cost: Accelerator = COST) -> Place:
    times = Modelled(cost, DraftTimes(token=10.0), request=0.0, broker=0.0)
    return Place(recording, STRATEGIES[strategy], times, rtt_ms=20.0, seed=5)


def a_run(client: int, rate: float, *, problem: str = "") -> TextRun:
    return TextRun(client, 1.0, ((1.0 + 5 / rate, 5), (1.0 + 10 / rate, 5)), problem)


# Figures


def test_a_crowd_is_carried_at_what_nine_texts_in_ten_have() -> None:
    runs = [a_run(0, 5.0), *(a_run(client, 10.0 + client) for client in range(1, 10))]
    assert carried_rate(runs) == pytest.approx(11.0)
    assert carried_rate([*runs[2:], a_run(1, 100.0, problem="failed"), a_run(0, 1.0)]) == pytest.approx(1.0)
    found = figures(runs)
    assert found["texts"] == 10
    assert found["wrong"] == 0
    assert found["tokens_per_s"] == pytest.approx(5.0 + sum(10.0 + client for client in range(1, 10)))
    assert found["gap_p99_ms"] == pytest.approx(1000.0)
    assert figures([a_run(0, 5.0), a_run(1, 5.0, problem="another text")])["wrong"] == 1


def test_carried_clients_lie_between_the_crowds_that_were_measured() -> None:
    rates = {1: 100.0, 4: 80.0, 16: 20.0, 64: 5.0}
    assert carried_clients(rates, 120.0) == 0.0
    assert carried_clients(rates, 80.0) == pytest.approx(4.0)
    assert carried_clients(rates, 40.0) == pytest.approx(8.0)  # as far from 80 as from 20
    assert carried_clients(rates, 5.0) == 64.0
    assert carried_clients(rates, 1.0) == 64.0
    assert carried_clients({1: 10.0, 2: 0.0}, 5.0) == 1.0


def test_ours_is_compared_with_the_best_of_the_others() -> None:
    assert best_other({STREAMING: 4.0, DEVICE: 8.0, DEFAULT: 10.0}, DEFAULT) == 1.25
    assert best_other({STREAMING: 0.0, DEFAULT: 3.0}, DEFAULT) is None
    levels = {
        STREAMING: {1: {"rate": 40.0}, 4: {"rate": 10.0}},
        DEFAULT: {1: {"rate": 80.0}, 4: {"rate": 20.0}},
    }
    (row,) = carried(levels, [20.0])
    assert row["clients"] == pytest.approx({STREAMING: 2.0, DEFAULT: 4.0})
    assert row["of_best"] == pytest.approx(2.0)


def test_clients_ask_for_the_same_texts_whatever_is_compared() -> None:
    first = order_of(range(8), 1, 2)
    assert [next(first) for _ in range(8)] != list(range(8))
    again, other = order_of(range(8), 1, 2), order_of(range(8), 1, 3)
    taken = [next(again) for _ in range(16)]
    assert sorted(taken[:8]) == list(range(8))
    assert taken[8:] == taken[:8]
    assert [next(other) for _ in range(8)] != taken[:8]
    assert texts_each(4, 2, 24) == 6
    assert texts_each(100, 2, 24) == 2


def test_texts_arrive_at_their_rate_in_the_mean() -> None:
    times = arrivals(4.0, 4000, 1)
    assert times == sorted(times) == arrivals(4.0, 4000, 1)
    # A sum of 4000 exponential times: 1.6 % of standard deviation, and six of these for a false alarm of 1e-9.
    assert times[-1] == pytest.approx(1000.0, rel=0.1)


# The model


def test_a_step_costs_the_larger_of_weights_and_rows_and_its_sessions() -> None:
    assert COST.forward(TargetForward(1, 1)) == pytest.approx(8.05)
    assert COST.forward(TargetForward(10, 80)) == pytest.approx(8.5)
    assert COST.forward(TargetForward(10, 90)) == pytest.approx(9.5)
    assert COST.call(DraftForward(10)) == pytest.approx(0.25 * 8.5)
    assert COST.gain(4) == 2.0


def test_the_roofline_beforehand() -> None:
    assert costs.streaming_rate(COST, 10) == pytest.approx(1000 / 8.5)
    assert costs.colocated_rate(COST, 10, k=4, tokens=2.5) == pytest.approx(2500 / (8.5 + 8.5))
    alone = costs.device_rate(COST, 1, k=4, tokens=2.5, token_ms=10.0, rtt_ms=20.0)
    crowded = costs.device_rate(COST, 2000, k=4, tokens=2.5, token_ms=10.0, rtt_ms=20.0)
    assert alone < 2500 / (60 + 8.0)
    # Saturated, all but those on the way are in each step: 5 rows and a session for each 2.5 tokens.
    assert crowded * 2000 == pytest.approx(2500 / 0.55, rel=0.1)
    assert costs.clients(lambda n: 100 / n, 5.0) == pytest.approx(20.0)
    assert costs.clients(lambda n: 100 / n, 101.0) == 0.0


# Simulated time


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("clients", [1, 9])
def test_every_text_of_a_simulated_crowd_is_the_targets(strategy: str, clients: int) -> None:
    crowd = VirtualCrowd(place(strategy))
    runs = crowd.closed(clients, 3)
    assert [run.problem for run in runs] == [""] * (3 * clients)
    assert {run.client for run in runs} == set(range(clients))
    assert len(VirtualCrowd(place(strategy)).open(5.0, 20)) == 18


def test_another_text_is_seen() -> None:
    crowd = VirtualCrowd(place(STREAMING))
    texts = by_seed(RECORDING)
    for key, text in texts.items():
        texts[key] = msgspec.structs.replace(text, tokens=(text.tokens[0] % 7 + 1, *text.tokens[1:]))
    crowd.worker._texts = texts
    assert {run.problem for run in crowd.closed(1, 6)} == {"another text"}


def test_a_stream_alone_takes_a_step_for_each_token() -> None:
    whole = msgspec.structs.replace(RECORDING, texts=RECORDING.texts[1:3])
    (run, *_) = VirtualCrowd(place(STREAMING, whole)).closed(1, 1)
    assert run.seconds == pytest.approx(0.02 + LIMIT * COST.forward(TargetForward(1, 1)) / 1000)
    assert run.gaps == pytest.approx([COST.forward(TargetForward(1, 1)) / 1000] * (LIMIT - 1))
    assert run.drafted == 0


def test_drafts_beside_the_target_take_their_rows_and_forwards() -> None:
    perfect = made(right=1.0)
    crowd = VirtualCrowd(place(COLOCATED, msgspec.structs.replace(perfect, texts=perfect.texts[1:3])))
    (run, *_) = crowd.closed(1, 1)
    step = (COST.forward(TargetForward(1, 5)) + 4 * COST.call(DraftForward(1))) / 1000
    # 24 tokens: four steps of five, and one for the rest, with a draft of the tokens that are left.
    rest = (COST.forward(TargetForward(1, 4)) + 3 * COST.call(DraftForward(1))) / 1000
    assert run.seconds == pytest.approx(0.02 + 4 * step + rest)
    assert crowd.worker_figures()["worker_accepted"] > 0


def test_drafts_of_devices_take_the_devices_time_only() -> None:
    classic = replace(STRATEGIES[DEVICE], plan=PlanOptions(policy="fixed", draft_length=4, ahead=0))
    perfect = made(right=1.0)
    texts = msgspec.structs.replace(perfect, texts=perfect.texts[1:3])
    crowd = VirtualCrowd(replace(place(DEVICE, texts), strategy=classic))
    (run, *_) = crowd.closed(1, 1)
    found = crowd.worker_figures()
    assert found["calls_per_step"] == 0
    assert found["accepted"] > 0
    # A batch of four takes a device 40 ms, in which no other is in flight, and the text has six of them.
    assert run.seconds >= 4 * 0.04
    assert run.drafted >= LIMIT * 4 // 5 - 1


# Real daemons


def recorded_engine(recording: Recording) -> SimulatedEngine:
    texts = by_seed(recording)

    def decide(item: WorkItem) -> tuple[int, ...]:
        return texts[item.identity.seed, item.identity.temperature].decide(item.start, item.draft)

    facts = Facts(
        bytes.fromhex(recording.fingerprint), CONTEXT, VOCABULARY, "exact", None, "recorded", "recorded"
    )
    return SimulatedEngine(facts, decide)


@pytest.mark.parametrize("rate", [None, 200.0])
async def test_real_edges_write_the_recorded_texts(rate: float | None) -> None:
    broker = MemoryBroker()
    worker = CloudWorker(WorkerSettings(worker="w", drain=0.0), recorded_engine(RECORDING))
    plans = [STRATEGIES[name].plan for name in STRATEGIES]
    order = Order(
        version="base",
        writers=tuple(Writer(edge=number, plan=plan) for number, plan in enumerate(plans)),
        seed=1,
        each=2,
        rate=rate,
        count=20,
    )
    async with running(worker.run(broker.link, link_to("w-w")), "worker"), AsyncExitStack() as stack:
        await worker.ready.wait()
        nodes = [replaying_node(f"d{number}", RECORDING, 0.0) for number in range(len(plans))]
        for node in nodes:
            await stack.enter_async_context(node.running(broker.link, link_to(f"e-{node.name}")))
        work = Work(nodes, RECORDING, order)
        await work.carry_out()
    assert [run.problem for run in work.runs] == [""] * (2 * len(plans) if rate is None else 18)
    assert all(run.up and run.down for run in work.runs)
    drafted = {run.client for run in work.runs if run.drafted}
    if rate is None:
        assert list(STRATEGIES).index(DEVICE) in drafted
        assert list(STRATEGIES).index(STREAMING) not in drafted


async def test_an_order_without_an_end_goes_on_until_the_next_line() -> None:
    broker = MemoryBroker()
    worker = CloudWorker(WorkerSettings(worker="w", drain=0.0), recorded_engine(RECORDING))
    writers = tuple(Writer(edge=number, plan=PlanOptions()) for number in range(2))
    lines = asyncio.StreamReader()
    async with running(worker.run(broker.link, link_to("w-w")), "worker"), AsyncExitStack() as stack:
        await worker.ready.wait()
        nodes = [replaying_node(f"d{number}", RECORDING, 0.0) for number in range(2)]
        for node in nodes:
            await stack.enter_async_context(node.running(broker.link, link_to(f"e-{node.name}")))
        work = Work(nodes, RECORDING, Order(version="base", writers=writers, seed=1, each=None))
        async with running(until_told(work, lines), "others") as told:
            await until(lambda: len(work.runs) >= 8)
            assert not told.done()
            lines.feed_data(b"\n")
            await told
        assert not any(node.sessions for node in nodes)
    assert {run.problem for run in work.runs} == {""}


# The command


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--growth", "1"], "--growth"),
        (["--clients", "4", "4"], "--clients"),
        (["--rates", "0"], "--rates"),
        (["--draft-shares", "-1"], "--draft-shares"),
        (["--weights-ms", "0", "--row-ms", "0"], "no time"),
        (["--draft", "none"], "without a draft"),
        (["--offered", "0"], "--offered"),
        (["--device-ms", "-3"], "--device-ms"),
        (["--ordinary", "0"], "--ordinary"),
        (["--sections", "cpu", "cpu"], "--section"),
    ],
)
def test_bad_values_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert capacity.main(arguments) == UsageError.exit_code
    assert named in capsys.readouterr().err


def test_an_accelerator_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, prompts = tmp_path / "recording.json", tmp_path / "prompts.jsonl"
    prompts.write_text('{"question_id": 1, "category": "qa", "prompt": "Why?"}\n')
    about = msgspec.structs.replace(
        ABOUT, target="default", draft="default", questions=("qa 1",), temperatures=(0.0,), seed=0
    )
    keep_recording(path, msgspec.structs.replace(RECORDING, about=about))
    flags = [
        "--recording",
        str(path),
        "--prompts",
        str(prompts),
        "--tokens",
        str(LIMIT),
        "--temperatures",
        "0",
    ]
    flags += ["--sections", "accelerator", "--jobs", "1", "--draft-shares", "0.1", "--most-clients", "3"]
    assert capacity.main([*flags, "--rates", "20", "60", "--offered", "0.5", "--open-texts", "20"]) == 0
    out = capsys.readouterr().out
    assert "tokens/s each" in out
    results = msgspec.json.decode(out.splitlines()[-1])["results"]["accelerator"]
    (share,) = results["draft_shares"]
    assert [row["rate"] for row in share["carried"]] == [20.0, 60.0]
    assert set(share["carried"][0]["clients"]) == set(STRATEGIES)
    assert results["wrong"] == 0
