"""The map of wins and losses: its cells in simulated time, measured points, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from flexspec_mq.errors import UsageError
from lab.bench.traditional.schemes import IDS
from lab.benchmarks.capacity.strategies import COLOCATED, DEFAULT, STREAMING
from lab.benchmarks.map import __main__ as command
from lab.benchmarks.map.cells import ACCELERATOR, CPU, LOSS, WAYS, Cell, Grid, accelerator, cells
from lab.benchmarks.map.draw import draw, place
from lab.benchmarks.map.points import Point, points
from lab.simulator.accelerator import Accelerator
from lab.simulator.cost import TargetForward, keep_times
from lab.simulator.recording import keep_recording
from lab.testbed.link.profiles import built_in
from tests.lab.simulator.recordings import TIMES, made

RECORDING = made(prompt=20)


def cell(
    ratio: float, *, worker: str = CPU, sessions: int = 1, target: float = 30.0, rtt: float = 20.0
) -> Cell:
    seconds = {DEFAULT: 2.0 * ratio, STREAMING: 3.0, COLOCATED: 2.0, IDS: 4.0}
    return Cell(worker, sessions, target, rtt, seconds)


def test_a_cell_compares_with_the_best_of_the_others() -> None:
    assert cell(0.8).rival == COLOCATED
    assert cell(0.8).ratio == pytest.approx(0.8)


def test_every_cell_of_a_grid_has_all_ways_and_longer_round_trips_cost_them_time() -> None:
    grid = Grid((0.0, 60.0), (6.7,), (1.0, 400.0), (1, 3), texts=2, seed=1)
    found = list(cells(grid, RECORDING, TIMES))
    assert [(one.worker, one.sessions, one.rtt_ms) for one in found] == [
        (worker, sessions, rtt)
        for worker, targets in ((CPU, 2), (ACCELERATOR, 1))
        for sessions in (1, 3)
        for _ in range(targets)
        for rtt in (1.0, 400.0)
    ]
    assert {one.target_ms for one in found if one.worker == CPU} == {30.0, 90.0}
    for near, far in zip(found[::2], found[1::2], strict=True):
        assert set(near.seconds) == set(WAYS)
        if near.sessions > 1:  # others meet other steps
            continue
        assert all(near.seconds[name] < far.seconds[name] for name in WAYS)
        # It waits for each round.
        assert far.seconds[IDS] - near.seconds[IDS] > 2 * (far.seconds[STREAMING] - near.seconds[STREAMING])


def test_equal_seeds_give_equal_cells() -> None:
    grid = Grid((0.0,), (6.7,), (20.0,), (2,), texts=2, seed=1)
    assert list(cells(grid, RECORDING, TIMES)) == list(cells(grid, RECORDING, TIMES, jobs=2))


def test_all_that_an_accelerator_does_takes_a_larger_model_longer() -> None:
    usual, twice = Accelerator(), accelerator(2 * Accelerator().weights)
    for one in (TargetForward(1, 1), TargetForward(20, 100)):
        assert twice.forward(one) == pytest.approx(2 * usual.forward(one))


def test_places_between_two_of_an_axis_are_by_logarithms() -> None:
    axis = (1.0, 10.0, 1000.0)
    assert [place(axis, value) for value in (0.0, 1.0, 10.0, 100.0, 5000.0)] == pytest.approx(
        [0, 0, 1, 1.5, 2]
    )


def a_run(path: Path, *sides: str, link: str = "wifi", others: int = 0) -> Path:
    side = {"mean_s": 3.0, "median_s": 2.2, "median_first_s": 0.1, "answers": 2, "tokens": 86}
    found = {name: {**side, "mean_s": 3.0 - number} for number, name in enumerate(sides)}
    case = {"link": link, "delay_ms": 0.0, "categories": {"all": found}}
    results = {"cases": [case], "edges": {}, "questions": 2, "others": others}
    path.write_text(f"a table\n{json.dumps({'results': results})}\n")
    return path


def test_points_are_what_runs_measured(tmp_path: Path) -> None:
    here = a_run(tmp_path / "near", STREAMING, DEFAULT, COLOCATED, link="loopback", others=3)
    away = a_run(tmp_path / "away", STREAMING, COLOCATED, DEFAULT)
    near, far = points([here, away], 0, None)
    assert (near.link, near.cell.sessions, near.cell.rtt_ms) == ("loopback", 4, 0.0)
    assert near.cell.target_ms == pytest.approx(1000 * 2.1 / 42)
    assert (near.cell.ratio, far.cell.ratio) == pytest.approx((2.0, 0.5))
    wifi = built_in().get("wifi").states[0]
    assert far.cell.rtt_ms == wifi.up.delay_ms.value + wifi.down.delay_ms.value
    with pytest.raises(UsageError, match="has not all"):
        points([a_run(tmp_path / "less", STREAMING, DEFAULT)], 0, None)


def test_the_map_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [
        cell(ratio, worker=worker, target=target, rtt=rtt)
        for worker in (CPU, ACCELERATOR)
        for target, ratio in ((30.0, 0.7), (60.0, 1.1))
        for rtt in (1.0, 20.0)
    ]
    svg, png = tmp_path / "map.svg", tmp_path / "map.png"
    draw(found, [Point("wifi", cell(0.9, target=40.0, rtt=5.0))], svg, png)
    drawn = svg.read_text()
    assert drawn.count(">0.70 c<") == drawn.count(">1.10 c<") == 4
    assert png.read_bytes().startswith(b"\x89PNG")
    draw(found, [Point("wifi", cell(0.9, target=40.0, rtt=5.0))], svg, png)
    assert svg.read_text() == drawn


def test_the_command_tells_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_recording(tmp_path / "texts.json", msgspec.structs.replace(RECORDING, texts=RECORDING.texts[:3]))
    keep_times(tmp_path / "times.json", TIMES)
    flags = ["--recording", str(tmp_path / "texts.json"), "--times", str(tmp_path / "times.json")]
    flags += [
        "--sessions",
        "1",
        "--delays-ms",
        "0",
        "--weights-ms",
        "6.7",
        "--rtts-ms",
        "50",
        "1",
        "--texts",
        "1",
    ]
    assert command.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])["results"]["cells"]
    assert [one["rtt_ms"] for one in found] == [1.0, 50.0, 1.0, 50.0]
    (summary,) = (line.split() for line in lines if line.startswith(f"{CPU}, 1  "))
    assert int(summary[5]) == sum(one["ratio"] > LOSS for one in found[:2])


@pytest.mark.parametrize(
    "flags", [["--rtts-ms", "0"], ["--sessions", "2", "2"], ["--texts", "0"], ["--jobs", "0"]]
)
def test_impossible_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--recording", "none", "--times", "none", *flags]) != 0
    assert flags[0] in capsys.readouterr().err
