"""A draft that computes beside what is timed, and only then."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flexspec_mq.daemon.children import cpu_seconds
from flexspec_mq.errors import FlexSpecError
from lab.recording.neighbour import neighbour
from lab.testbed.site.topology import NO_FILE
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

CORE = max(os.sched_getaffinity(0))


def spent(pid: int) -> float:
    found = cpu_seconds(pid)
    assert found is not None
    return found


def test_it_computes_while_it_is_asked_to_and_not_otherwise(tmp_path: Path) -> None:
    model = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=512), byte_level_tokenizer()))
    with neighbour(CORE, ["--target", model, "--draft", model, *NO_FILE]) as beside:
        pid = beside.pid
        before = spent(pid)

        def computes() -> bool:
            ends = time.monotonic() + 30.0
            while spent(pid) < before + 0.1 and time.monotonic() < ends:
                time.sleep(0.05)
            return spent(pid) >= before + 0.1

        assert beside.beside(computes)
        after = spent(pid)
        time.sleep(0.5)
        assert spent(pid) - after < 0.05
    assert cpu_seconds(pid) is None, "it has ended"


def test_one_that_has_ended_is_told(tmp_path: Path) -> None:
    model = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=512), byte_level_tokenizer()))
    with neighbour(CORE, ["--target", model, "--draft", model, *NO_FILE]) as beside:
        os.kill(beside.pid, signal.SIGKILL)
        with pytest.raises(FlexSpecError, match="has ended"):
            beside.beside(lambda: time.sleep(0.5))


def test_without_a_draft_it_does_not_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none")
    with (
        pytest.raises(FlexSpecError, match="did not start"),
        neighbour(CORE, ["--target", missing, "--draft", missing, *NO_FILE]),
    ):
        pass
    assert "there is no folder" in capfd.readouterr().err
