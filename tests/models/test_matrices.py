"""Matrices of 8 and 4 bits against plain products."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import ModelError
from flexspec_mq.models.compact.few_bits import FewBits
from flexspec_mq.models.compact.load_exact import CPU, _check_few_bits


@settings(max_examples=25)
@given(
    rows=st.sampled_from([16, 48, 321]),
    width=st.sampled_from([8, 24, 32, 64, 160]),
    count=st.sampled_from([1, 2, 5, 40]),
    seed=st.integers(0, 1000),
)
def test_few_bits_are_near_and_a_row_keeps_its_bits(rows: int, width: int, count: int, seed: int) -> None:
    """Groups of weights lie on either side of zero, so that no middle stands for another's."""
    drawn = torch.Generator().manual_seed(seed)
    groups = torch.randn((rows, -(-width // 32)), generator=drawn).repeat_interleave(32, 1)[:, :width]
    weight = torch.randn((rows, width), generator=drawn) + groups
    bias = torch.randn(rows, generator=drawn)
    x = torch.randn((count, width), generator=drawn).to(torch.bfloat16)
    wanted = x.float() @ weight.T + bias
    for bits, most in ((8, 0.03), (4, 0.15)):
        matrix = FewBits(bits, weight, bias)
        found = matrix(x)
        assert (found.float() - wanted).norm() < most * wanted.norm()
        alike = (torch.equal(matrix(x[at : at + 1])[0], found[at]) for at in range(count))
        assert width % 32 or all(alike)


def test_what_runs_few_bits_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match="needs openvino"):
        _check_few_bits("int8", torch.bfloat16, CPU)


def test_signals_are_heard_after_matrices_are_gone_in_any_order() -> None:
    script = (
        "import signal, torch; from flexspec_mq.models.compact.few_bits import FewBits; heard = [];"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1));"
        "first, second = (FewBits(8, torch.ones(64, 64)) for _ in range(2));"
        "del first; del second; signal.raise_signal(signal.SIGTERM); print(heard)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr
