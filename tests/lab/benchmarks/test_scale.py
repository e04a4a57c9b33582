"""The benchmark of scale: its null model is a pure function, it counts right, and it runs from end to end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cloud_worker.engine.interface import Facts
from cloud_worker.engine.simulated import FREE, Cost, SimulatedEngine
from flexspec_mq.codec import Codec
from flexspec_mq.protocol.worker.types import WorkItem
from lab.benchmarks import scale
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.cpu import Sample, Use, between, machine_ticks, process_ticks, take
from lab.benchmarks.scale_parts.generator import prompt_of, seed_of
from lab.benchmarks.scale_parts.orders import Order, Outcome
from lab.benchmarks.scale_parts.sessions import Texts, steady_rate
from lab.benchmarks.scale_parts.stopwatch import Stopwatch
from lab.testbed.site.figures import parse_figures, since
from schemas.messages import Draft, Fin, Identity, Poll, Verdict
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

CODEC = Codec()

pytestmark = pytest.mark.alone

FACTS = Facts(null.FINGERPRINT, null.CONTEXT, null.VOCABULARY, "exact", None, "none", "none")


def item(seed: int, context: tuple[int, ...], draft: tuple[int, ...], session: int = 1) -> WorkItem:
    identity = Identity(1, null.FINGERPRINT, 0.0, 0, 1.0, seed, null.EOS, True, 100)
    return WorkItem(
        key=("e", session),
        version="v",
        start=len(context) - 2,
        digest=0,
        context=context,
        prompt_length=2,
        draft=draft,
        identity=identity,
        seq=0,
        waiting_since=0.0,
    )


def test_the_null_model_is_a_pure_function_in_which_every_token_counts() -> None:
    text = null.text(7, (5, 6), 20)
    assert text == null.text(7, (5, 6), 20)
    assert len(set(text)) > 15
    assert all(0 < token < null.VOCABULARY for token in text)
    assert null.text(8, (5, 6), 20)[0] != text[0]
    assert null.text(7, (4, 6), 20)[0] != text[0]
    assert null.token(7, (5, 6, *text[:-1])) == text[-1]
    assert null.token(7, (5, 7, *text[:-1])) != text[-1]


@pytest.mark.parametrize("right", [0.0, 0.8, 1.0])
def test_the_null_draft_is_right_as_often_as_it_is_told(right: float) -> None:
    prefixes = [(number, 2, 3) for number in range(1000)]
    hits = sum(null.draft_token(1, prefix, right) == null.token(1, prefix) for prefix in prefixes)
    assert abs(hits / 1000 - right) < 0.06  # more than four standard deviations
    assert [null.draft_token(1, one, right) for one in prefixes] == [
        null.draft_token(1, one, right) for one in prefixes
    ]


@pytest.mark.parametrize("shared", [1, 3, 16])
def test_what_shares_a_step_and_what_was_drafted_change_no_text(shared: int) -> None:
    """Every session writes the text that it writes alone, in as many rounds as foretold."""
    k, right, limit, prompt = 4, 0.7, 30, (5, 6)
    engine = SimulatedEngine(FACTS, null.decide, FREE)
    texts: dict[int, list[int]] = {seed: [] for seed in range(shared)}
    rounds = dict.fromkeys(texts, 0)
    while any(len(text) < limit for text in texts.values()):
        for seed, text in texts.items():
            if len(text) < limit:
                context = (*prompt, *text)
                draft: list[int] = []
                while text and len(draft) < min(k, limit - len(text) - 1):
                    draft.append(null.draft_token(seed, (*context, *draft), right))
                engine.add(item(seed, context, tuple(draft), seed))
        result = engine.step()
        assert result.batch == len(result.decided)
        for one, tokens in result.decided:
            texts[one.key[1]] += tokens
            rounds[one.key[1]] += 1
    assert engine.idle()
    for seed, text in texts.items():
        assert text == null.text(seed, prompt, limit)
        assert rounds[seed] == null.rounds(seed, prompt, limit, k=k, right=right)


def test_a_step_of_a_modelled_device_takes_its_time_and_no_processor() -> None:
    engine = SimulatedEngine(FACTS, null.decide, Cost(step=0.05, token=0.01))
    engine.add(item(1, (5, 6), (7, 8)))
    began, used = time.perf_counter(), time.process_time()
    result = engine.step()
    assert time.perf_counter() - began >= 0.05 + 0.01 * 4
    assert time.process_time() - used < 0.04
    assert result.fed == 4
    # What was read once is not read again: the last token and the draft are.
    engine.add(item(1, (5, 6, *result.decided[0][1]), (9,)))
    assert engine.step().fed == 2
    engine.free(("e", 1))
    engine.add(item(1, (5, 6), ()))
    assert engine.step().fed == 2


def test_no_two_texts_of_a_run_share_a_seed() -> None:
    order = Order(version="v", seed=3, limit=1, starts=0.0)
    seeds = {
        seed_of(order, edge, session, n) for edge in range(20) for session in range(4) for n in range(20)
    }
    assert len(seeds) == 1600
    assert prompt_of(1) == prompt_of(1) != prompt_of(2)


def test_processor_time_is_read_behind_any_name() -> None:
    line = "12 (a) b (c)) S 1 12 12 0 -1 4194560 9 8 7 6 250 50 3 4 20 0 1 0 100 1 2"
    assert process_ticks(line) == 300
    assert machine_ticks("cpu  1 2 3 400 50 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == (19, 8)


def test_processor_time_of_this_process() -> None:
    before = take({"me": os.getpid()})
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    use = between(before, take({"me": os.getpid()}))
    assert 0.15 / use.seconds <= use.processes["me"] <= 1.3
    assert use.busy > 0.0


def test_the_limit_is_named() -> None:
    def used(busy: float, **processes: float) -> Use:
        return between(
            Sample(0.0, dict.fromkeys(processes, 0.0), 0.0, 0.0), Sample(1.0, processes, busy, 0.0)
        )

    cores = len(os.sched_getaffinity(0))
    assert "no process" in used(0.1, broker=0.1).limit()
    assert "broker fills a core" in used(0.96, broker=0.95).limit()
    full = used(float(cores), a=0.5 * cores)
    assert f"all {cores} cores" in full.limit()
    assert full.others == pytest.approx(0.5 * cores)


def test_figures_are_read_and_subtracted() -> None:
    page = '# HELP x y\nx_total{kind="a b"} 3.0\nz 1.5e+02\n'
    found = parse_figures(page)
    assert found == {'x_total{kind="a b"}': 3.0, "z": 150.0}
    assert since({"z": 50.0}, found) == {'x_total{kind="a b"}': 3.0, "z": 100.0}


def test_shares_and_counts_of_generators_add_up() -> None:
    total = Outcome(rounds_us=[1], texts=2, workers={"w1": 1, "w2": 1}, behind=0.5, failures=["x"])
    total.add(Outcome(rounds_us=[2], texts=3, workers={"w2": 2, "w3": 1}, behind=0.1, polls=4))
    assert (total.rounds_us, total.texts, total.polls, total.behind) == ([1, 2], 5, 4, 0.5)
    assert total.workers == {"w1": 1, "w2": 3, "w3": 1}
    assert total.failures == ["x"]


def test_only_the_time_in_which_all_write_counts() -> None:
    trace = [[(0.0, 1), (1.0, 1), (2.0, 1), (3.0, 1)], [(1.0, 1), (2.5, 2), (3.5, 1)]]
    assert steady_rate(Outcome(trace=trace, begin=1.0, end=3.0)) == pytest.approx((2 + 2) / 2)


def test_texts_of_one_prompt_are_compared_as_far_as_both_go() -> None:
    texts = Texts()
    texts.add(0, [1, 2, 3])
    texts.add(1, [9])
    texts.add(0, [1, 5])
    assert (texts.compared, texts.different) == (2, 1)


def test_a_round_is_from_the_first_sending_of_a_batch_to_its_tokens() -> None:
    watch = Stopwatch()
    watch.received(CODEC.encode(Verdict(5, 1, 0, 0, (), 1, Fin.NONE, 0, 0, "w", 60)))
    watch.sent(CODEC.encode(Draft(5, 1, 1, 0, 0, 1, (3,), 0)))
    time.sleep(0.02)
    watch.sent(CODEC.encode(Poll(5, 1, 2, 0, 0, 1, (3,), 0)))
    watch.received(CODEC.encode(Verdict(5, 1, 2, 0, (), 1, Fin.NONE, 0, 0)))
    assert watch.rounds == []
    watch.received(CODEC.encode(Verdict(5, 1, 2, 0, (3, 4), 1, Fin.NONE, 0, 0)))
    watch.received(CODEC.encode(Verdict(5, 1, 2, 0, (3, 4), 1, Fin.NONE, 0, 0)))
    assert len(watch.rounds) == 1
    assert watch.rounds[0][1] >= 0.02


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rounds", "0"], "--rounds 0"),
        (["--right", "1.5"], "--right 1.5"),
        (["--draft-length", "0"], "--draft-length 0"),
        (["--step-ms", "nan"], "--step-ms nan"),
        (["--rates", "200", "100"], "--rates"),
        (["--edges", "2", "--generators", "3"], "--generators 3"),
        (["--sections", "edges", "edges"], "twice"),
        (["--worker-seconds", "0"], "--worker-seconds 0"),
        (["--seconds", "-1"], "--seconds -1"),
    ],
)
def test_bad_values_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert named in printed.err
    assert printed.out == ""


def results(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert scale.main(arguments) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["benchmark"] == "scale"
    found: dict[str, Any] = printed["results"]
    return found


def test_workers_and_edges_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--sections", "workers", "edges", "--rounds", "1", "--ramp", "0.2", "--worker-seconds", "0.5"]
    more = ["--writers", "8", "--batch", "2", "--step-ms", "3"]
    load = [
        "--edges",
        "8",
        "--generators",
        "2",
        "--rates",
        "50",
        "--level-seconds",
        "0.5",
        "--seconds",
        "0.5",
    ]
    found = results([*flags, *more, *load], capsys)
    for row in found["workers"]["cases"]:
        assert (row["wrong"], row["failures"]) == (0, [])
        assert row["texts"] == sum(sum(turn) for turn in row["texts_by_worker"]) >= 8
        assert row["rounds_per_s"] > 0
    by_name = {row["case"]: row for row in found["workers"]["cases"]}
    assert by_name["the same, room for 2 and 6"]["busy"] > 0
    assert len(by_name["modelled device, 2 workers"]["texts_by_worker"][0]) == 2
    ratio = found["workers"]["ratio"]
    assert ratio["met"] is (ratio["value"] >= ratio["least"])
    for row in (*found["edges"]["levels"], found["edges"]["held"]):
        assert (row["wrong"], row["failures"]) == (0, [])
        assert row["texts"] > 0
        assert set(row["cpu"]) == {"broker", "base-w0", "base-w1", "generator 0", "generator 1"}
        assert row["p50_ms"] <= row["p99_ms"]


def test_sessions_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama(max_position_embeddings=512)
    checkpoint = str(save(tmp_path, model, byte_level_tokenizer()))
    flags = ["--sections", "sessions", "--rounds", "1", "--tokens", "8", "--target", checkpoint]
    found = results([*flags, "--dtype", "float32"], capsys)["sessions"]
    assert found["tokens_different"] == 0 < found["tokens_compared"]
    assert [row["case"].rpartition(" ")[2] for row in found["cases"]] == ["1", "4", "16"] * 2
    for row in found["cases"]:
        assert row["tokens_per_s"] > 0
        assert 1 <= row["sessions_per_step"] <= 16
    assert found["cases"][0]["of_one"] == found["cases"][3]["of_one"] == 1.0
