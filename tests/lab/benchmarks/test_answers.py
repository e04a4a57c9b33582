"""Answers over links are compared fairly, and a difference in what the sides say fails the run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_node.settings import PlanOptions
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import UsageError
from lab.bench.channel_start import DRAWN_S, offset
from lab.bench.figures import seconds
from lab.bench.figures.bootstrap import Interval
from lab.bench.figures.seconds import Sample
from lab.bench.testbed.meter import Costs
from lab.bench.testbed.node import RATIONED, UNRATIONED
from lab.benchmarks import answers
from lab.benchmarks.pricing import compared, sides
from lab.benchmarks.pricing.others import EdgePlan, plan_of
from lab.testbed.link.profiles import LinkPlan, built_in
from schemas.messages import MAX_AHEAD
from tests.lab.link.plans import needs_namespaces
from tests.lab.link.recordings import row, write_rows, write_trace
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, save_pair, tiny_llama


def sample(question: int, side: str, took: float, text: str = "a", **changes: Any) -> Sample:
    facts: dict[str, Any] = {
        "first": 0.5,
        "tokens": 10,
        "proposed": 9,
        "drafted": 8,
        "accepted": 6,
        "rounds": 4,
    }
    facts |= {"bytes_up": 100, "bytes_down": 50, "costs": Costs(1000, 500, 2, 1)} | changes
    return Sample(question=question, category="c", side=side, text=text, seconds=took, **facts)


def test_figures_of_a_side() -> None:
    found = seconds.figures([sample(0, "x", 1.0), sample(1, "x", 2.0, first=None), sample(2, "x", 6.0)])
    assert (found["median_s"], found["mean_s"], found["median_first_s"]) == (2.0, 3.0, 0.5)
    assert found["tokens_per_s"] == pytest.approx(30 / 9)
    assert found["tokens_per_round"] == pytest.approx(30 / 12)
    assert found["acceptance"] == 0.75
    assert (found["proposed"], found["ip_up"], found["wasted_edge"], found["wasted_own"]) == (9, 1000, 2, 1)
    nothing = seconds.figures([sample(0, "x", 1.0, drafted=0, accepted=0, first=None)])
    assert nothing["acceptance"] is None
    assert nothing["median_first_s"] is None
    loopback = seconds.figures([sample(0, "x", 1.0, costs=Costs(None, None, 3, 0))])
    assert (loopback["ip_down"], loopback["wasted_edge"]) == (None, 3)


def test_ratios_pair_the_questions() -> None:
    took = [1.0, 2.0, 30.0, 4.0, 9.0]
    ours = [sample(question, "x", seconds_) for question, seconds_ in enumerate(took)]
    theirs = [sample(question, "y", 2 * seconds_) for question, seconds_ in enumerate(took)][::-1]
    found = seconds.ratios(ours, theirs, seed=0)
    # Each pair is 1 to 2, so however questions are drawn again the ratio stays; unpaired it would not.
    assert found["total"] == pytest.approx([0.5, 0.5, 0.5])
    assert found["median"] == pytest.approx([0.5, 0.5, 0.5])
    assert found["worst_tenth"] == pytest.approx([0.5, 0.5, 0.5])
    assert found["verdict"] == "win"
    assert seconds.ratios(theirs, ours, seed=0)["verdict"] == "loss"


def test_few_questions_prove_nothing() -> None:
    ours, theirs = ([sample(question, "x", took) for question in range(4)] for took in (1.0, 2.0))
    found = seconds.ratios(ours, theirs, seed=0)
    nothing = [0.5, None, None]
    assert found == {"total": nothing, "median": nothing, "worst_tenth": nothing, "verdict": "even"}


def test_the_worst_tenth_is_each_sides_own_and_rounded_up() -> None:
    ours = [sample(question, "x", 1.0 + question) for question in range(11)]
    theirs = [sample(question, "y", 20.0 if question < 2 else 1.0) for question in range(11)]
    assert seconds.figures(ours)["worst_tenth_s"] == pytest.approx((11 + 10) / 2)
    value, low, high = seconds.ratios(ours, theirs, seed=0)["worst_tenth"]
    assert value == pytest.approx(10.5 / 20)
    assert low < value < high
    assert seconds.figures(ours[:10])["worst_tenth_s"] == 10


def test_offsets_are_drawn_once_for_all_over_the_whole_recording() -> None:
    plan = LinkPlan("x", built_in().get("4g"), up_trace=(5, 140_000), lasts_s=(100.0, 200.0))
    found = [offset(plan, 0, question) for question in range(1000)]
    assert found == [offset(plan, 0, question) for question in range(1000)]
    assert found != [offset(plan, 1, question) for question in range(1000)]
    # All in one half of it once in 2**999.
    assert 0 <= min(found) < 150 < max(found) <= 300
    assert all(place == round(place, 3) for place in found)
    assert offset(LinkPlan("x", built_in().get("4g")), 0, 1) <= DRAWN_S


@pytest.mark.parametrize("more", [[sample(3, "y", 1.0)], [sample(0, "y", 1.0)]])
def test_sides_must_answer_the_same_questions(more: list[Sample]) -> None:
    ours, theirs = [sample(0, "x", 1.0)], [sample(0, "y", 1.0)]
    with pytest.raises(ValueError, match="each question"):
        seconds.ratios(ours, theirs + more, seed=0)


def test_a_verdict_needs_the_whole_interval() -> None:
    assert seconds.verdict(Interval(0.9, 0.8, 0.99)) == "win"
    assert seconds.verdict(Interval(0.9, 0.8, 1.01)) == "even"
    assert seconds.verdict(Interval(1.1, 1.01, 1.2)) == "loss"


def test_a_category_has_its_ratios_under_the_right_names(capsys: pytest.CaptureFixture[str]) -> None:
    took = {"current": 1.0, "streaming": 2.0, "first": 4.0}
    orders = (["current", "streaming", "first"], ["first", "streaming", "current"])
    found = [
        replace(sample(question, side, took[side]), category=f"c{question}")
        for question, order in enumerate(orders)
        for side in order
    ]
    groups = compared.compare(found, seed=0)
    compared.show("", groups)
    printed = capsys.readouterr().out
    assert set(groups["all"]["first"]) & {"of_streaming", "of_first"} == {"of_streaming"}
    assert groups["all"]["current"]["of_first"]["total"][0] == 0.25
    lines = [line.split() for line in printed[printed.index("answers") :].splitlines()]
    assert [line[3:] for line in lines if line and line[0] in ("c0", "c1")] == 2 * [
        ["0.50", "even", "2.00", "even"]
    ]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    lines = [{"question_id": name, "category": name, "turns": [f"{name}?"]} for name in ("a", "b", "a")]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return path


class SaidOtherwise:
    """A site where one side says something else to the second question."""

    def __init__(self, names: Sequence[str]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.begins: list[float | None] = []
        self._names = names

    async def ask(
        self, edge: str, body: dict[str, Any], at: float | None = None, *, alone: bool = False
    ) -> tuple[dict[str, Any], Costs]:
        text = body["messages"][0]["content"]
        assert alone is (text == answers.WARM_UP)
        self.asked.append((edge, text))
        self.begins.append(at)
        own = {"proposed": 1, "drafted": 1, "accepted": 1, "rounds": 1, "bytes_up": 1, "bytes_down": 1}
        usage = {"completion_tokens": 3, "flexspec": own}
        wrong = text == "b?" and edge == "current"
        answer = {"text": "x" if wrong else "y", "seconds": 1.0, "first": 0.1, "usage": usage}
        return answer, Costs(10, 20, 0, 0)


def test_texts_that_differ_fail_the_run(
    questions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places: list[SaidOtherwise] = []

    @asynccontextmanager
    async def site(
        _link: LinkPlan | None, edges: Mapping[str, Sequence[str]], **_more: object
    ) -> AsyncIterator[SaidOtherwise]:
        places.append(SaidOtherwise(list(edges)))
        yield places[-1]

    monkeypatch.setattr(answers, "site", site)
    flags = ["--prompts", str(questions), "--links", "wifi", "4g", "--first", str(questions.parent)]
    assert answers.main(flags) == 1
    printed = capsys.readouterr()
    assert "wifi, 0 ms on top of each forward: question b" in printed.err
    results = json.loads(printed.out.splitlines()[-1])["results"]
    assert [case["link"] for case in results["cases"]] == ["wifi", "4g"]
    assert all(case["differ"] == ["b"] for case in results["cases"])
    # Each side is warmed up, then answers each question before the next one is asked.
    names = {"current", "default", "first", "streaming", "colocated", "both"}
    assert len(places[0].asked) == (1 + 3) * len(names)
    for begin in range(0, len(places[0].asked), len(names)):
        turn = places[0].asked[begin : begin + len(names)]
        assert {edge for edge, _ in turn} == names
        assert len({text for _, text in turn}) == 1
        assert len({*places[0].begins[begin : begin + len(names)]}) == 1, "where they begin on the channel"
    begins = places[0].begins[:: len(names)]
    assert begins[0] is None
    assert begins[1:] == results["cases"][0]["begins_s"]
    assert len({*begins}) == 4
    assert places[1].begins == places[0].begins, "neither link is a recording"


def test_sides_keep_to_their_plan_and_the_default_side_to_its_own() -> None:
    found = sides.edge_nodes(answers.build_parser().parse_args(["--draft-flags=--ahead 0", "--draft", "d"]))
    fixed = ["--policy", "fixed", "--worker-draft", "0"]
    assert found[sides.DEFAULT] == ["--draft", "d"]
    assert found["current"] == ["--draft", "d", *fixed, "--ahead", "0"]
    assert found["streaming"][:4] == fixed
    # The last of two equal flags counts.
    assert found["colocated"] == [*found["streaming"], "--worker-draft", "4", "--version", UNRATIONED]
    assert found["both"] == [*found["current"], "--worker-draft", "4"]


def test_sides_can_be_chosen() -> None:
    def chosen(*names: str) -> list[str]:
        return list(sides.edge_nodes(answers.build_parser().parse_args(["--sides", *names])))

    assert chosen("default", "colocated") == ["default", "streaming", "colocated"]
    assert chosen("streaming") == ["streaming"]
    with pytest.raises(UsageError, match="no side first"):
        chosen("default", "first")


def test_traditional_sides_are_there_where_they_are_named() -> None:
    parse = answers.build_parser().parse_args
    assert sides.schemes(parse([])) == []
    named = parse(["--sides", "on-device", "default", "traditional", "--draft-flags=--threads 2"])
    assert sides.schemes(named) == ["traditional", "on-device"]
    assert list(sides.edge_nodes(named)) == ["default", "streaming"]
    # The draft, and what runs it, are those of the side that drafts on the device.
    assert sides.drafting(named) == sides.edge_nodes(parse(["--draft-flags=--threads 2"]))["current"]


def test_texts_of_their_own_are_not_compared() -> None:
    found = [sample(0, "x", 1.0), sample(0, "y", 1.0, "b"), sample(1, "x", 1.0), sample(1, "y", 1.0)]
    assert seconds.differing(found) == [0]
    assert seconds.differing(found, ["y"]) == []


def test_other_sessions_have_the_plan_of_the_side_that_is_asked() -> None:
    found = sides.edge_nodes(answers.build_parser().parse_args([]))
    plans = {name: plan_of(flags) for name, flags in found.items()}
    assert plans[sides.DEFAULT] == EdgePlan(RATIONED, PlanOptions())
    assert plans["streaming"].plan.plan() == Plan(0, 1, 1, MAX_AHEAD)
    assert plans["colocated"].plan.plan() == Plan(0, 1, 1, MAX_AHEAD, worker_draft=4)
    versions = {name for name, plan in plans.items() if plan.version == UNRATIONED}
    assert versions == {"colocated"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tokens", "0"], "--tokens 0"),
        (["--questions", "0"], "--questions 0"),
        (["--delays-ms", "-1"], "--delays-ms -1"),
        (["--links", "3g"], "3g"),
        (["--links", "recorded:5g-driving"], "--recorded FOLDER"),
        (["--links", "recorded:5g-driving", "--recorded", "/no/such/folder"], "/no/such/folder"),
        (["--first", "/no/such/folder"], "/no/such/folder"),
        (["--draft-flags", "'"], "quotation"),
        (["--worker-draft", "65"], "--worker-draft 65"),
        (["--guesses", "0"], "--guesses 0"),
        (["--sides", "traditional", "modern"], "traditional-ids"),
        (["--sides", "on-device", "--others", "2", "--recording", "x"], "on-device"),
        (["--others", "-1"], "--others -1"),
        (["--others", "8"], "--recording FILE"),
        (["--others", "8", "--recording", "/no/such/file"], "/no/such/file"),
        (["--prompts", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_values_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert named in printed.err


@pytest.mark.timeout(300)
def test_real_daemons(
    tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mosquitto, a worker and five edge nodes; with a delay, each forward of the target takes at least so long."""
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    model = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=512), byte_level_tokenizer()))
    streaming = f"--draft none --no-lookup --tokenizer {model} --draft-length 0 --ahead 64"
    flags = ["--target", model, "--draft", model, f"--streaming-flags={streaming}"]
    flags.append("--worker-flags=--draft-rows=all")
    flags += [
        "--draft-flags=--draft-length 3 --no-lookup --ahead 0",
        "--links",
        "loopback",
        "--delays-ms",
        "60",
    ]
    assert answers.main([*flags, "--prompts", str(questions), "--questions", "2", "--tokens", "8"]) == 0
    case = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["cases"][0]
    assert case["differ"] == []
    assert set(case["categories"]) == {"a", "b", "all"}
    found = case["categories"]["all"]
    assert set(found) == {"current", "default", "streaming", "colocated", "both"}
    assert len({one["tokens"] for one in found.values()}) == 1
    assert found["current"]["tokens"] > 8
    # The target as its own draft is right beside itself too: several tokens a forward, and none of them the device's.
    assert found["colocated"]["tokens_per_round"] > 1.5 * found["streaming"]["tokens_per_round"]
    assert found["colocated"]["acceptance"] is None
    # One forward a token with streaming; the target as its own draft is always right.
    assert found["streaming"]["mean_s"] > 0.06 * found["streaming"]["tokens"] / 2
    assert found["current"]["acceptance"] == 1.0
    assert found["current"]["tokens_per_round"] > 2.0
    assert found["streaming"]["acceptance"] is None
    assert found["current"]["proposed"] > 0
    assert all(found["streaming"][name] == 0 for name in ("proposed", "wasted_edge", "wasted_own"))
    assert found["colocated"]["ip_up"] is None


@needs_namespaces
@pytest.mark.timeout(300)
def test_real_daemons_over_recordings(
    tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace and a drive; a draft that knows nothing of the target's wastes rows, and so does the worker's own."""
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    models = save_pair(tmp_path)
    write_rows(tmp_path, [row(number, 9000, mode="LTE", ping=(20, 2, 0)) for number in range(30)])
    for way in ("up", "down"):
        write_trace(tmp_path, f"here-lte.{way}.gz", range(1, 30_000))
    flags = ["--target", models["target"], "--draft", models["draft"], "--worker-draft", "3"]
    flags += ["--worker-flags=--draft-rows=all", "--draft-flags=--no-lookup --ahead 0"]
    streaming = f"--draft none --no-lookup --tokenizer {models['draft']} --draft-length 0 --ahead 64"
    flags.append(f"--streaming-flags={streaming}")
    flags += ["--links", "recorded:here-lte", "recorded:5g-driving", "--recorded", str(tmp_path)]
    assert answers.main([*flags, "--prompts", str(questions), "--questions", "2", "--tokens", "8"]) == 0
    cases = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["cases"]
    assert [case["link"] for case in cases] == ["recorded:here-lte", "recorded:5g-driving"]
    # Thirty pings of 13 s each, and the log itself.
    for case, length in zip(cases, (390, 30), strict=True):
        assert case["differ"] == []
        assert all(0 <= begins <= length for begins in case["begins_s"])
        found = case["categories"]["all"]
        for side in found.values():
            # Headers of IP and TCP at least.
            assert side["ip_up"] > side["bytes_up"] + 40
            assert side["ip_down"] > side["bytes_down"] + 40
        assert found["streaming"]["wasted_edge"] == found["streaming"]["wasted_own"] == 0
        assert found["colocated"]["wasted_edge"] == 0 < found["colocated"]["wasted_own"]
        assert 0 < found["current"]["wasted_edge"] <= found["current"]["proposed"]
        assert found["current"]["wasted_own"] == 0


OLD = ("traditional", "traditional-zstd", "traditional-top64", "traditional-ids", "tcp-ids", "on-device")


@needs_namespaces
@pytest.mark.timeout(300)
def test_traditional_speculation_over_a_link(
    tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sampling, through a broker and beside it; sides that send distributions write texts of their own."""
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    models = save_pair(tmp_path)
    flags = ["--target", models["target"], "--draft", models["draft"], "--worker-draft", "0"]
    streaming = f"--draft none --no-lookup --tokenizer {models['draft']} --draft-length 0 --ahead 64"
    flags += [f"--streaming-flags={streaming}", "--links", "4g", "--guesses", "3", "--temperature", "0.9"]
    flags += ["--prompts", str(questions), "--questions", "2", "--tokens", "8", "--sides", *OLD]
    assert answers.main(flags) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert results["traditional"]["not_compared"] == [*OLD[:3], "on-device"]
    assert results["cases"][0]["differ"] == []
    found = results["cases"][0]["categories"]["all"]
    assert set(found) == {"streaming", *OLD}
    for name in OLD[:-1]:
        side = found[name]
        assert side["ip_up"] > side["bytes_up"] + 40
        assert side["ip_down"] > side["bytes_down"] + 40
        assert 0 <= side["wasted_edge"] <= side["proposed"]
        assert side["tokens_per_round"] >= 1.0
    # Both models find all tokens about as likely: what is drawn from one does for the other, the likeliest does not.
    assert found["traditional"]["acceptance"] > 0.8
    assert found["traditional-ids"]["acceptance"] < 0.5
    # 300 ids: 600 bytes a guess, 64 of them 256.
    assert found["traditional"]["bytes_up"] > 600 * found["traditional"]["proposed"]
    assert 256 < found["traditional-top64"]["bytes_up"] / found["traditional-top64"]["proposed"] < 600
    assert found["traditional-ids"]["tokens"] == found["tcp-ids"]["tokens"] == found["streaming"]["tokens"]
    alone = found["on-device"]
    assert alone["tokens_per_round"] is alone["acceptance"] is None
    assert alone["bytes_up"] == alone["bytes_down"] == alone["wasted_edge"] == 0


@pytest.mark.model
@pytest.mark.timeout(300)
def test_traditional_speculation_with_the_default_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a real broker, half a megabyte a round, and the target's own text."""
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    flags = ["--links", "loopback", "--questions", "1", "--tokens", "12", "--worker-draft", "0"]
    assert answers.main([*flags, "--sides", *OLD]) == 0
    case = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["cases"][0]
    assert case["differ"] == []
    found = case["categories"]["all"]
    assert {side["tokens"] for name, side in found.items() if name != "on-device"} == {12}
    whole, top = found["traditional"], found["traditional-top64"]
    assert 0 < whole["bytes_up"] - 2 * 49_152 * whole["proposed"] < 2000
    assert 0 < top["bytes_up"] - 4 * 64 * top["proposed"] < 2000
    assert found["traditional-zstd"]["bytes_up"] < 0.5 * whole["bytes_up"]
    assert len({found[name]["tokens_per_round"] for name in OLD[:-1]}) == 1
