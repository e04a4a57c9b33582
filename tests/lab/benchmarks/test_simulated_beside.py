"""The benchmark that sets simulated answers beside measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flexspec_mq.errors import UsageError
from lab.benchmarks.simulated import __main__ as simulated
from lab.benchmarks.simulated.crowds import read_crowds
from lab.benchmarks.simulated.fit import fitted
from lab.benchmarks.simulated.side import answers_of, compared
from lab.simulator.cost import keep_times, read_times
from lab.simulator.recording import keep_recording
from lab.testbed.link.recordings import link_plan
from tests.lab.simulator.recordings import ABOUT, LIMIT, TIMES, made

RECORDING = msgspec.structs.replace(
    made(texts=2, prompt=30),
    about=msgspec.structs.replace(
        ABOUT, target="default", draft="default", questions=("qa 1", "qa 2"), temperatures=(0.0,), seed=0
    ),
)
SLOWER, REQUEST = 1.1, 11.0
NO_DRAFTS = "--policy fixed --draft none --no-lookup --draft-length 0 --ahead 256 --worker-draft"
EDGES = {
    "default": ["--draft", "default"],
    "streaming": f"{NO_DRAFTS} 0".split(),
    "colocated": f"{NO_DRAFTS} 4 --version unrationed".split(),
}


def run(*links: str) -> dict[str, Any]:
    """What `lab.benchmarks.answers` would print if it were the simulator itself, all a tenth slower."""
    times = msgspec.structs.replace(TIMES.slower(SLOWER), step=0.0, request=REQUEST)
    cases = []
    for link in links:
        case: dict[str, Any] = {"link": link, "delay_ms": 0.0, "begins_s": [3.0, 50.0]}
        plan = None if link == "loopback" else link_plan(link, 0, None)
        every = {
            side: compared(_anything(), answers_of(case, flags, plan, RECORDING, times))["simulated"]
            for side, flags in EDGES.items()
        }
        cases.append({**case, "categories": {"all": every}})
    return {
        "questions": 2, "tokens": LIMIT, "temperature": 0.0, "others": 0, "edges": EDGES, "cases": cases,
    }  # fmt: skip


def _anything() -> dict[str, float]:
    names = ("mean_s", "ip_up", "ip_down", "bytes_up", "bytes_down", "proposed", "wasted_edge", "wasted_own")
    return dict.fromkeys((*names, "median_s", "median_first_s", "tokens_per_round"), 1.0)


def test_what_cannot_be_measured_apart_is_found_by_fitting() -> None:
    alone = msgspec.structs.replace(TIMES, step=0.0, request=0.0)
    found = fitted(alone, RECORDING, run("loopback"), "streaming", "loopback")
    assert found.read(0) / alone.read(0) == pytest.approx(SLOWER, abs=0.01)
    assert found.request == pytest.approx(REQUEST, abs=1.0)


def test_sides_of_a_run_are_other_sides() -> None:
    case = {"link": "loopback", "delay_ms": 0.0, "begins_s": [None, None]}
    drafted = {side: answers_of(case, flags, None, RECORDING, TIMES) for side, flags in EDGES.items()}
    assert all(one.problem == "" for answers in drafted.values() for one in answers)
    assert sum(one.wasted_own for one in drafted["colocated"]) > 0
    assert sum(one.drafted for one in drafted["streaming"]) == 0
    assert sum(one.drafted for one in drafted["default"]) > 0
    slow = answers_of({**case, "delay_ms": 60.0}, EDGES["streaming"], None, RECORDING, TIMES)
    for one, other in zip(slow, drafted["streaming"], strict=True):
        assert one.seconds > other.seconds + 0.06 * (one.tokens - 1)


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_recording(tmp_path / "texts.json", RECORDING)
    keep_times(tmp_path / "times.json", TIMES)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(f'{{"question_id": {one}, "category": "qa", "prompt": "Why?"}}\n' for one in (1, 2))
    )
    kept = tmp_path / "run.out"
    kept.write_bytes(b"a table\n" + msgspec.json.encode({"results": run("loopback", "4g")}))
    flags = ["--runs", str(kept), "--recording", str(tmp_path / "texts.json"), "--prompts", str(prompts)]
    flags += ["--times", str(tmp_path / "times.json"), "--fitted", str(tmp_path / "fitted.json")]
    assert simulated.main(flags) == 0
    results = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])["results"]
    assert {(row["link"], row["side"]) for row in results["rows"]} == {
        (link, side) for link in ("loopback", "4g") for side in EDGES
    }
    assert read_times(tmp_path / "fitted.json").request == pytest.approx(REQUEST, abs=1.0)
    assert results["within"] == len(results["rows"])
    assert all(row["ratio"] == pytest.approx(1.0, abs=0.03) for row in results["rows"])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.out").write_text("a table\n")
    with pytest.raises(UsageError, match=r"benchmarks\.answers"):
        simulated.read_run(tmp_path / "run.out")


def test_crowds_at_a_real_worker_are_set_beside_simulated_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_recording(tmp_path / "texts.json", RECORDING)
    keep_times(tmp_path / "times.json", TIMES)
    none = {"texts": 2, "tokens_per_s": 1.0, "rate": 1.0, "first_ms": 1.0, "gap_p99_ms": 1.0, "rows": 1.0}
    crowds: dict[str, Any] = {
        "device_ms": 4.0,
        "levels": {"streaming": {"1": {**none}, "2": {**none}}, "device": {"2": {**none, "texts": 4}}},
    }
    kept = tmp_path / "run.out"

    def rows() -> list[dict[str, Any]]:
        kept.write_bytes(b"a table\n" + msgspec.json.encode({"results": {"cpu": crowds}}))
        flags = ["--crowds", str(kept), "--recording", str(tmp_path / "texts.json")]
        assert simulated.main([*flags, "--times", str(tmp_path / "times.json")]) == 0
        found: list[dict[str, Any]] = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])[
            "results"
        ]["crowds"]
        return found

    for row in rows():
        assert row["problems"] == []
        crowds["levels"][row["strategy"]][str(row["clients"])] |= row["simulated"]
    assert [row["ratio"] for row in rows()] == [1.0, 1.0, 1.0]
    alone, two = (crowds["levels"]["streaming"][clients] for clients in ("1", "2"))
    assert alone["tokens_per_s"] < two["tokens_per_s"] < 2 * alone["tokens_per_s"]
    kept.write_text("a table\n")
    with pytest.raises(UsageError, match=r"benchmarks\.capacity"):
        read_crowds(kept)
