"""Shapes of products that a worker has met do not fill its memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
