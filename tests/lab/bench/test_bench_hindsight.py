"""What `flexspec bench` knows in hindsight, and the paper's rows beside ours."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import msgspec
import pytest

from edge_node.cli.parser import build_parser
from edge_node.config import from_arguments
from edge_node.settings import PlanOptions
from flexspec_mq import cli
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from lab.bench.figures.summary import summary
from lab.bench.hindsight.around import Streamed, around, questions
from lab.bench.hindsight.recorded import RECORDING, TIMES
from lab.bench.hindsight.simulated import BEST, BOUND, EACH, Hindsight, worst_tenth
from lab.bench.main import WITH_DAEMONS
from lab.bench.report import paper
from lab.bench.report.tables import cell
from lab.bench.strategies import BEST_FIXED, Devices, nodes
from lab.simulator.answers import Setting
from lab.simulator.clairvoyant.plans import STREAMING, fixed_plans
from lab.simulator.cost import read_times
from lab.simulator.recording import read_recording
from lab.simulator.simulation import simulate
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.testbed.site.topology import NO_FILE
from tests.lab.bench.samples import sample
from tests.lab.simulator.recordings import TIMES as MEASURED
from tests.lab.simulator.recordings import made
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


def test_every_fixed_plan_can_be_told_to_an_edge_node() -> None:
    for plan in fixed_plans().values():
        node = nodes([BEST_FIXED], Devices("d", "t", 4), plan)[BEST_FIXED]
        config = from_arguments(build_parser().parse_args(["serve", *node.flags, *NO_FILE])).settings
        assert config.plan.policy == "fixed"
        assert config.plan.plan() == plan


@pytest.mark.parametrize("name", [None, "4g"])
def test_the_best_fixed_plan_is_the_one_that_takes_the_fewest_seconds(name: str | None) -> None:
    recording = made(texts=3)
    hindsight = Hindsight(recording, MEASURED, seed=2)
    link = None if name is None else LinkPlan(name, built_in().get(name), 2)
    begins = [None if link is None else 9.0 * number for number in range(3)]
    told = hindsight.told(link, 10.0, begins)
    rows = told["rows"]
    assert fixed_plans()[told["best"]] == hindsight.best(link, 10.0, begins)
    assert list(rows) == [BOUND, EACH, BEST, "streaming", *POLICIES]
    assert rows[BOUND]["mean_s"] < rows[EACH]["mean_s"] <= rows[BEST]["mean_s"] <= rows["streaming"]["mean_s"]
    assert rows[BOUND]["of_bound"] == rows[BOUND]["worst_of_bound"] == 1.0
    assert all(1.0 <= row["of_bound"] <= row["worst_of_bound"] for row in rows.values())
    # 10 ms more for each of some 24 forwards.
    faster = hindsight.told(link, 0.0, begins)["rows"]
    assert rows["streaming"]["mean_s"] > faster["streaming"]["mean_s"] + 0.1


def test_what_daemons_take_around_forwards_is_found_again() -> None:
    recording = made(texts=7, limit=48)
    places = questions(recording)
    assert len(places) == 6
    policies = partial(FixedPolicy, fixed_plans()[STREAMING])
    texts = [recording.texts[place] for place in places]
    answers = simulate(Setting(recording=recording, times=MEASURED), policies, texts)
    streamed = {
        place: Streamed(one.first, one.seconds - one.first)
        for place, one in zip(places, answers, strict=True)
    }
    alone = msgspec.structs.replace(MEASURED, step=0.0, request=0.0)
    found = around(recording, alone, streamed)
    assert found.step == pytest.approx(MEASURED.step, abs=0.1)
    assert found.request == pytest.approx(MEASURED.request, abs=0.5)
    assert around(recording, MEASURED, {}) is MEASURED
    # Where a loop alone was slower than daemons, nothing is taken off.
    slow = msgspec.structs.replace(MEASURED, step=5.0, request=50.0)
    assert around(recording, slow, streamed) == slow


def test_texts_that_end_at_once_tell_nothing_of_steps() -> None:
    assert questions(made(texts=4, limit=6)) == []


def test_the_worst_tenth_is_the_mean_of_the_largest_values() -> None:
    assert worst_tenth([3.0, 1.0, 2.0]) == 3.0
    assert worst_tenth([*range(1, 21)]) == 19.5


def test_the_papers_rows_stand_beside_the_default_policy() -> None:
    assert PlanOptions().policy == paper.DEFAULT_POLICY
    names = ("traditional", paper.DEFAULT_POLICY)
    answers = {
        name: [sample(number, name, 8.0 / (1 + place)) for number in range(6)]
        for place, name in enumerate(names)
    }
    channel = {"title": "4g", "strategies": summary(answers, 0)}
    rows = paper.beside([channel], cell)
    assert rows[: len(paper.ROWS)] == [list(row) for row in paper.ROWS]
    ours = rows[-1]
    assert len(ours) == len(paper.HEADS)
    assert ours[1].startswith("0.50")
    assert ours[-1] == "the target's, token for token"
    assert (
        paper.beside(
            [{"title": "4g", "strategies": summary({"traditional": answers["traditional"]}, 0)}], cell
        )
        == []
    )


def test_texts_that_are_drawn_are_not_known_beforehand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = [
        "--strategies",
        BEST_FIXED,
        "--temperature",
        "0.7",
        "--links",
        "loopback",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(["bench", *asked]) == 2
    assert "temperature 0" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_run_records_its_texts_and_measures_the_best_fixed_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    model = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=2048), byte_level_tokenizer()))
    prompts, out = tmp_path / "questions.jsonl", tmp_path / "out"
    prompts.write_text("".join(f'{{"prompt": "{word}?"}}\n' for word in ("Why", "How")), "utf-8")
    asked = ["--target", model, "--draft", model, "--prompts", str(prompts), "--tokens", "16", "--no-plots"]
    asked += ["--links", "loopback", "--strategies", "streaming", BEST_FIXED, "--out", str(out)]
    assert cli.main(["bench", *asked]) == 0
    (channel,) = json.loads((out / "results.json").read_text("utf-8"))["channels"]
    assert list(channel["strategies"]) == ["streaming", BEST_FIXED]
    assert channel["differ"] == []
    found = channel["hindsight"]
    assert found["best"] in fixed_plans()
    assert f"`{BEST_FIXED}` is {found['best']}" in capsys.readouterr().out
    recording = read_recording(out / RECORDING)
    assert sum(len(text.tokens) for text in recording.texts) == channel["strategies"]["streaming"]["tokens"]
    # The target as its own draft is right wherever the worker's engine and the device's say the same.
    right = [token == drafted for text in recording.texts
             for token, (drafted, _) in zip(text.tokens, text.proposals, strict=True)]  # fmt: skip
    assert sum(right) > 0.8 * len(right)
    alone, with_daemons = read_times(out / TIMES), read_times(out / WITH_DAEMONS)
    assert alone.rows[0](1) > 0.0
    assert alone.request == 0.0 < with_daemons.request, "HTTP, tokens, the broker"

    kept = [(out / name).read_bytes() for name in (RECORDING, TIMES, WITH_DAEMONS)]
    monkeypatch.setattr("lab.bench.testbed.testbed.place", None)  # to start anything would fail
    assert cli.main(["bench", *asked]) == 0
    assert kept == [(out / name).read_bytes() for name in (RECORDING, TIMES, WITH_DAEMONS)]
