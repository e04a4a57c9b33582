"""Memory that keys and values may take, and that of shapes of products that a worker has met."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_worker.engine import memory
from cloud_worker.engine.memory import limit_kernels

MEET_SHAPES = """
import torch
from cloud_worker.engine.memory import limit_kernels
from flexspec_mq.models.memory import trim
from pathlib import Path

def resident():
    trim()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

limit_kernels()
torch.set_num_threads(1)
with torch.inference_mode():
    for number in range(700):
        if number == 300:
            before = resident()
        rows, context = 1 + number % 70, 64 * (1 + number // 70)
        torch.bmm(torch.ones(1, rows, 64).bfloat16(), torch.ones(1, 64, context).bfloat16())
print(resident() - before)
"""
"""Prints by how many bytes the second 400 shapes of products make a process larger."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of a process")
def test_a_process_stays_as_large_however_many_shapes_it_meets() -> None:
    # Where products are oneDNN's, 200 shapes take 115 MB without a limit.
    kept = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", MEET_SHAPES], check=True, capture_output=True, text=True, env=kept
    )
    assert int(done.stdout) < 30 << 20


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "9")
    limit_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert os.environ["LRU_CACHE_CAPACITY"] == "9"


def test_the_default_is_a_quarter_of_what_is_available_now() -> None:
    free = memory.available("cpu")
    assert free is not None
    limit = memory.default_limit("cpu")
    assert limit is not None
    assert 0.15 * free < limit < 0.35 * free


def test_the_kernel_says_what_a_machine_has(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       100 kB\nMemFree: 5 kB\nMemAvailable:    40 kB\n")
    assert memory._of_machine(info) == 40 * 1024
    info.write_text("MemTotal:       100 kB\n")
    assert memory._of_machine(info) is None
    assert memory._of_machine(tmp_path / "none") is None


def test_a_container_may_leave_less(tmp_path: Path) -> None:
    assert memory._of_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._of_container(tmp_path) == 700
    (tmp_path / "memory.max").write_text("200\n")
    assert memory._of_container(tmp_path) == 0
