"""Rejection sampling and transformers' assisted generation in rounds of real, small models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks import assisted, coupling
from lab.benchmarks.parts.rounds import Job, Rounds, Tally
from lab.benchmarks.pricing.assistant import AssistedRounds
from lab.benchmarks.pricing.rejection import RejectionRounds
from schemas.messages import Identity
from tests.lab.benchmarks.noisy_models import UNLIKELY, checkpoint, fits, packed, pairs_due

TEMPERATURE, TOP_K = 1.0, 4
PARAMS = SamplingParams(TEMPERATURE, TOP_K)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("target"), 0.0)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("draft"), 0.05)


def job(seed: int, limit: int, temperature: float = TEMPERATURE, eos: tuple[int, ...] = ()) -> Job:
    identity = Identity(1, bytes(16), temperature, TOP_K, 1.0, seed, eos, False, limit)
    return Job(str(seed), (5, 60, 7, 33, 120, 4, 90), identity)


Written = list[tuple[int, ...]]


def write(
    rounds: RejectionRounds | AssistedRounds | Rounds, jobs: Sequence[Sequence[Job]]
) -> tuple[Written, Tally]:
    texts: Written = []
    total = Tally()

    def done(_job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        texts.append(tokens)
        assert tally.tokens == len(tokens)
        assert tally.texts == 1
        total.add(tally)

    rounds.run(jobs, done)
    return texts, total


def test_rejection_rounds_write_the_targets_distribution(target: Path, draft: Path) -> None:
    model = packed(target)
    jobs = [[job(100 * series + place, 3) for place in range(50)] for series in range(24)]
    texts, total = write(RejectionRounds(model, packed(draft), k=2, at_once=24), jobs)
    assert len(texts) == 1200
    assert all(len(text) == 3 for text in texts)
    # Neither a perfect draft nor a useless one, or the distribution would prove nothing.
    assert 0.2 < sum(total.reached) / sum(total.offered) < 0.9
    assert fits(texts, pairs_due(model, job(0, 3).prompt, PARAMS)) > UNLIKELY


def test_a_perfect_draft_is_always_accepted(target: Path) -> None:
    model = packed(target)
    jobs = [[job(seed, 13), job(seed + 100, 13)] for seed in range(4)]
    _, total = write(RejectionRounds(model, packed(target), k=3, at_once=3), jobs)
    # A single row takes the same padding as several, so p equals q to the bit here.
    assert total.survival == [1.0, 1.0, 1.0]
    assert total.tokens == 8 * 13
    assert total.rounds == 8 * 4


def test_rejection_rounds_end_with_the_text(target: Path, draft: Path) -> None:
    eos = tuple(range(0, 300, 7))
    jobs = [[job(seed, 20, eos=eos)] for seed in range(12)]
    texts, _ = write(RejectionRounds(packed(target), packed(draft), k=4, at_once=5), jobs)
    assert any(len(text) < 20 for text in texts)
    for text in texts:
        assert not set(text[:-1]) & set(eos)
        assert len(text) == 20 or text[-1] in eos


def test_assisted_generation_is_counted_round_by_round(target: Path, draft: Path) -> None:
    """At temperature 0 and in float32 transformers' rounds are ours, one by one."""
    eos = tuple(range(0, 300, 17))
    jobs = [[job(seed, 24, 0.0, end)] for seed, end in enumerate([(), eos])]
    ours = Rounds(
        EngineCore(packed(target)),
        ModelDrafter(packed(draft), max_context=512),
        Plan(4),
        at_once=2,
    )
    theirs = AssistedRounds(target, draft, k=4, dtype="float32")
    for series in jobs:
        expected, mine = write(ours, [series])
        found, counted = write(theirs, [series])
        assert found == expected
        # transformers tells no confidences.
        assert replace(counted, expected=0.0) == replace(mine, expected=0.0)
        assert 0 < sum(counted.reached) < sum(counted.offered)


def test_assisted_sampling_takes_our_parameters(target: Path, draft: Path) -> None:
    """Were top-k or the temperature taken from elsewhere, pairs would come that cannot or too often."""
    jobs = [[job(seed, 3) for seed in range(400)]]
    texts, total = write(AssistedRounds(target, draft, k=2, dtype="float32"), jobs)
    assert 0.2 < sum(total.reached) / sum(total.offered) < 0.9
    assert fits(texts, pairs_due(packed(target), job(0, 3).prompt, PARAMS)) > UNLIKELY


def test_the_margin_of_texts_that_differ(target: Path) -> None:
    model = packed(target)
    prompt = job(0, 1).prompt
    logits = to_numpy(model.forward([ModelInput(model.new_kv(), [*prompt, 8])]))[0]
    assert assisted.margin(model, prompt, (8, 9, 4), (8, 9, 4)) == []
    assert assisted.margin(model, prompt, (8, 9, 4), (8, 11)) == [pytest.approx(abs(logits[9] - logits[11]))]
    assert assisted.margin(model, prompt, (8, 9), (8, 9, 4)) == [float("inf")]
    found = {"0": assisted.Found(margins=[0.1]), "1": assisted.Found(margins=[0.7]), "2": assisted.Found()}
    told = assisted.ties(found)
    assert (told["differ"], told["largest_margin"], told["no_near_tie"], told["met"]) == (2, 0.7, 1, False)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    lines = [{"category": name, "turns": [turn]} for name, turn in (("b", "Why?"), ("a", "What is it?"))]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return path


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def flags(target: Path, draft: Path, questions: Path) -> list[str]:
    models = ["--draft", str(draft), "--target", str(target), "--dtype", "float32"]
    return [*models, "--prompts", str(questions), "--k", "3", "--tokens", "12"]


def test_coupling(target: Path, draft: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*flags(target, draft, questions), "--temperatures", "0.5", "--repeats", "2"]
    assert coupling.main(arguments) == 0
    results = last_json(capsys.readouterr().out)["results"]
    categories = results["temperatures"]["0.5"]["categories"]
    assert set(categories) == {"a", "b", "all"}
    for one in categories.values():
        said = one["expected"]
        assert 0 < said["bound"] < said["coupling"] < said["rejection"] < 1
        value, *ends = said["gap_points"]
        assert ends == [None, None]  # two questions
        assert value == pytest.approx(100 * (said["rejection"] - said["coupling"]))
        assert said["positions"] == one["rounds"]["coupling"]["tokens"]
        assert one["rounds"]["rejection"]["texts"] == one["rounds"]["coupling"]["texts"]
    assert categories["all"]["rounds"]["coupling"]["texts"] == 4
    assert results["bytes_up_per_round"]["q_fp16"] == 3 * 300 * 2
    assert 20 < results["bytes_up_per_round"]["ids"] < 40


def test_coupling_with_the_target_as_its_draft(
    target: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coupling.main([*flags(target, target, questions), "--temperatures", "1", "--top-p", "0.9"]) == 0
    everything = last_json(capsys.readouterr().out)["results"]["temperatures"]["1"]["categories"]["all"]
    said = everything["expected"]
    assert said["coupling"] == pytest.approx(1.0)
    assert said["rejection"] == pytest.approx(1.0)
    assert said["draft_keeps"] < 300
    assert everything["rounds"]["coupling"]["acceptance"] == 1.0
    assert everything["rounds"]["gap"]["acceptance"] == [0.0, None, None]


def test_assisted(target: Path, draft: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert assisted.main([*flags(target, draft, questions), "--temperatures", "0", "0.7"]) == 0
    results = last_json(capsys.readouterr().out)["results"]
    assert results["texts"]["texts"] == 2
    greedy = results["temperatures"]["0"]["categories"]["all"]
    if not results["texts"]["differ"]:
        assert greedy["ours"] == greedy["transformers"] == results["texts"]["equal"]["ours"]
    assert results["temperatures"]["0"]["met"] is True
    sampled = results["temperatures"]["0.7"]["categories"]["all"]
    assert sampled["ours"]["texts"] == sampled["transformers"]["texts"] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--k", "0"], "--k 0"),
        (["--k", "65"], "--k 65"),
        (["--tokens", "0"], "--tokens 0"),
        (["--repeats", "0"], "--repeats 0"),
        (["--draft", "none"], "draft"),
        (["--temperatures", "1", "1"], "twice"),
        (["--prompts", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_values_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (coupling.main, assisted.main):
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert named in printed.err


def test_coupling_needs_a_temperature(capsys: pytest.CaptureFixture[str]) -> None:
    assert coupling.main(["--temperatures", "0"]) == 2
    assert "temperature 0 is not above 0" in capsys.readouterr().err
