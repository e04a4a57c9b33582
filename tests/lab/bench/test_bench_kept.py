"""A run is kept question by question, goes on where it ended, and is not mixed with another one."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from lab.bench.figures import Failed
from lab.bench.run_folder import ANSWERS, RUN, Answered, BenchChannel, folder_of_run
from tests.lab.bench.samples import sample

FACTS = {"target": {"name": "t", "files": ""}, "seed": 3, "links": ["4g"]}
CHANNELS = (BenchChannel("4g"), BenchChannel("4g", 60.0), BenchChannel("loopback"))
facts = st.dictionaries(
    st.sampled_from(["target", "seed", "links", "tokens"]),
    st.integers() | st.sampled_from(["", "4g"]) | st.none(),
)


def answered(number: int, channel: BenchChannel = CHANNELS[0]) -> Answered:
    begins = None if channel.link == "loopback" else 0.5 + number
    text = "a\n\u2028é" * (number % 3)
    samples = [sample(number, "x", 1.5, text=text), sample(number, "y", 0.25, energy_j=None)]
    failed = [Failed(number, "z", "503: no\nlink", 2.5)] * (number % 2)
    return Answered(channel, number, begins, samples, "2026-11-26 10:00", 0.5, failed)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(CHANNELS)), max_size=8), st.data())
def test_what_was_answered_is_there_wherever_the_last_run_was_killed(
    asked: list[tuple[int, BenchChannel]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "run"
        wanted = [answered(*one) for one in asked]
        with folder_of_run(folder, FACTS) as kept:
            for one in wanted:
                kept.add(one)
        file = folder / ANSWERS
        lines = file.read_bytes() if wanted else b""
        cut = data.draw(st.integers(0, len(lines)))
        if wanted:
            file.write_bytes(lines[:cut])
        left = lines[:cut].count(b"\n")
        more = answered(77)
        with folder_of_run(folder, FACTS) as kept:
            for channel in CHANNELS:
                there = [one for one in wanted[:left] if one.channel == channel]
                assert kept.answered_on(channel) == sorted(there, key=lambda one: one.question)
            kept.add(more)
        with folder_of_run(folder, FACTS) as kept:
            found = [one for channel in CHANNELS for one in kept.answered_on(channel)]
        assert len(found) == left + 1
        assert more in found


@settings(deadline=None)
@given(facts, facts)
def test_another_runs_folder_is_refused_by_what_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with folder_of_run(folder, one):
            pass
        if one == other:
            with folder_of_run(folder, other):
                return
        differing = [key for key in {*one, *other} if one.get(key) != other.get(key)]
        with pytest.raises(UsageError) as error, folder_of_run(folder, other):
            pass
        assert all(key in error.value.message for key in differing)
        assert json.loads((folder / RUN).read_text("utf-8")) == one


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear all", "utf-8")
    with pytest.raises(UsageError, match="holds no run"), folder_of_run(tmp_path, FACTS):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_two_programs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        folder_of_run(tmp_path, FACTS),
        pytest.raises(UsageError, match="another bench"),
        folder_of_run(tmp_path, FACTS),
    ):
        pass


@pytest.mark.parametrize(("file", "text"), [(RUN, "{"), (RUN, "[]"), (ANSWERS, '{"question": 1}\n')])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str) -> None:
    with folder_of_run(tmp_path, FACTS):
        pass
    (tmp_path / file).write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"damaged|another run"), folder_of_run(tmp_path, FACTS):
        pass
