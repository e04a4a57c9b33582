"""The tour: what is made of what a user saw, and a short one with real daemons over a real link."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from lab.benchmarks.tour import figures
from lab.benchmarks.tour.__main__ import main
from lab.benchmarks.tour.journey import BOTH, DEVICE, NOBODY, WORKER, Journey, Look, Turn
from lab.benchmarks.tour.picture import draw, spells
from lab.testbed.link.profiles import Outage, built_in
from lab.testbed.link.tour import Leg, legs_of, tour_plan
from tests.lab.link.plans import needs_namespaces
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

LEGS = (Leg("wifi", 0.0, 2.0), Leg("tunnel", 2.0, 6.0))


def look(at: float, tokens: int, length: int = 4, ahead: int = 8, worker: int = 0, **more: object) -> Look:
    return Look(at, tokens, True, length, 1, ahead, worker, 0, **more)  # type: ignore[arg-type]


def journey(
    *looks: Look, pieces: tuple[float, ...] = (), text: str = "abc", complete: bool = False
) -> Journey:
    return Journey((Turn(text, 0.0, pieces, complete),), looks)


def test_tokens_between_two_looks_are_interpolated() -> None:
    made = journey(look(1.0, 0), look(2.0, 10), look(4.0, 10), look(5.0, 30))
    assert [figures.tokens_at(made, at) for at in (0.5, 1.5, 3.0, 4.5, 9.0)] == [0, 5, 10, 20, 30]
    assert [figures.reached(made, count) for count in (5, 10, 11, 30, 31)] == [1.5, 2.0, 4.05, 5.0, None]


def test_a_leg_has_its_tokens_its_rounds_and_the_plan_that_was_in_force_most() -> None:
    made = journey(
        look(0.0, 0, rtt_ms=4.0),
        look(1.0, 10, rtt_ms=4.0),
        look(2.0, 20, rtt_ms=4.0),
        look(3.0, 30, length=0, worker=8, rtt_ms=20.0),
        look(4.0, 40, length=0, worker=8, rtt_ms=24.0),
        look(5.0, 50, length=0, worker=8),
        look(6.0, 60),
        pieces=(0.5, 1.0, 2.5, 5.5),
    )
    first, second = (figures.of_leg(made, leg) for leg in LEGS)
    assert (first["tokens"], first["rounds"], first["rtt_ms"]) == (20, 2, 4.0)
    assert (first["chosen"], first["share"], first["settled_s"]) == ("device drafts K=4 W=1", 1.0, 0.0)
    assert (second["tokens"], second["rounds"], second["rtt_ms"]) == (40, 2, 20.0)
    assert (second["chosen"], second["share"]) == ("worker drafts, if it can", 0.75)
    assert second["settled_s"] == 1.0, "the look at 2 s still saw the plan of before"
    assert second["silence_s"] == 3.0
    assert second["qos"] == {0: 4}


def test_who_drafts_by_a_plan() -> None:
    assert [look(0.0, 0, *plan).who for plan in ((0, 0, 8), (0, 8, 8), (4, 8, 0), (4, 0, 8), (4, 8, 8))] == [
        NOBODY, WORKER, DEVICE, DEVICE, BOTH,
    ]  # fmt: skip
    assert Look(0.0, 0, True).who is None
    assert figures.chosen_in(look(0.0, 0, 4, 0)) == "device drafts K=4 W=1, worker waits"
    with pytest.raises(ValueError, match="no plan"):
        figures.chosen_in(Look(0.0, 0, True))


def test_spells_join_what_stays() -> None:
    found = spells([Look(0.0, 0, True), look(1.0, 0), look(2.0, 0, 2), look(3.0, 0, 0), look(4.0, 0, 0)])
    assert found == [(DEVICE, 1.0, 3.0), (NOBODY, 3.0, 4.0)]


def test_texts_agree_as_far_as_they_came() -> None:
    def differing(*texts: tuple[str, bool]) -> list[str]:
        return figures.differing(
            {
                str(number): journey(text=text, complete=complete)
                for number, (text, complete) in enumerate(texts)
            }
        )

    assert differing(("abc", True), ("abc", True), ("a", False), ("", False)) == []
    assert differing(("abcd", False), ("ab", False)) == []
    assert differing(("abcd", False), ("abx", False)) == ["turn 1 of 0 and 1"]
    assert differing(("abc", True), ("abcd", False)) == ["turn 1 of 0 and 1"]
    assert differing(("abc", True), ("ab", True)) == ["turn 1 of 0 and 1"]
    further = Journey((*journey().turns, Turn("more", 3.0, (), True)), ())
    assert figures.differing({"one": journey(), "two": further}) == [], "one of them came further"


def test_a_summary_compares_the_same_tokens() -> None:
    quick = journey(look(0.0, 0), look(2.0, 40), look(6.0, 100), pieces=(5.5,))
    slow = journey(look(0.0, 0), look(5.0, 10), look(6.0, 20), pieces=(4.5,), complete=True)
    found = figures.summary({"quick": quick, "slow": slow}, LEGS, [Outage(3.0, 4.0)])
    assert (found["quick"]["same_tokens"], found["quick"]["same_s"], found["slow"]["same_s"]) == (
        20,
        1.0,
        6.0,
    )
    assert (found["quick"]["resumed_s"], found["slow"]["resumed_s"]) == ([1.5], [0.5])
    assert (found["quick"]["turns"], found["slow"]["turns"]) == (0, 1)


def test_equal_journeys_give_equal_pictures(tmp_path: Path) -> None:
    plan = tour_plan("tour:wifi=2,tunnel=100", 0, built_in())
    assert plan.outages
    made = {
        "threshold": journey(Look(0.0, 0, True), look(1.0, 5, rtt_ms=9.0), look(50.0, 90, 0, rtt_ms=20.0)),
        "streaming": journey(look(0.0, 0, 0), look(90.0, 80, 0)),
    }
    for name in ("one", "two"):
        draw(made, plan, legs_of(plan.name), first="threshold", title="a test", file=tmp_path / name)
    one, two = ((tmp_path / name).with_suffix(".svg").read_text("utf-8") for name in ("one", "two"))
    assert one == two
    for words in ("a test", "tunnel", "outage", "streaming", "round trip, ms", "device"):
        assert words in one
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tour", "wifi"], "--tour wifi"),
        (["--tour", "tour:wifi"], "'wifi'"),
        (["--tour", "tour:3g=4"], "3g"),
        (["--tokens", "0"], "--tokens 0"),
        (["--turn-tokens", "0"], "--turn-tokens 0"),
        (["--delay-ms", "-1"], "--delay-ms -1"),
        (["--every", "0"], "--every 0"),
        (["--strategies", "threshold", "threshold"], "--strategies"),
        (["--strategies", "colocated"], "colocated"),
        (["--prompts", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_values_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert named in printed.err


@needs_namespaces
@pytest.mark.timeout(300)
def test_a_short_tour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mosquitto, a worker and two edge nodes over a real link; the conversation goes from turn to turn."""
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    model = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=16384), byte_level_tokenizer()))
    flags = ["--target", model, "--draft", model, "--tokens", "500", "--turn-tokens", "6", "--delay-ms", "20"]
    out = tmp_path / "out"
    flags += ["--quick", "--tour", "tour:wifi=2,4g-weak=2", "--strategies", "threshold", "streaming"]
    assert main([*flags, "--only", "conversation", "--out", str(out)]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert results["differ"] == []
    for one in results["conversation"].values():
        assert one["turns"] >= 1
        assert one["tokens"] > 0
        assert sum(leg["tokens"] for leg in one["legs"]) == pytest.approx(one["tokens"], rel=0.5)
    assert results["conversation"]["streaming"]["legs"][1]["chosen"] == "nobody drafts"
    kept = msgspec.json.decode((out / "conversation.json").read_bytes(), type=dict[str, Journey])
    assert kept["threshold"].looks[-1].tokens == results["conversation"]["threshold"]["tokens"]
    assert {path.suffix for path in out.iterdir()} == {".json", ".svg", ".png"}
