"""A crowd of devices connects with TLS and keys, is answered, and comes back to a broker that was killed."""

import json
from pathlib import Path

import pytest

from lab.benchmarks.connections.__main__ import main
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(200)
def test_a_crowd_is_answered_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.STEADY", 0.5)
    target = str(save(tmp_path, tiny_llama(head_dim=16).bfloat16(), byte_level_tokenizer()))
    assert main(["--devices", "40", "--idle", "0", "--away", "1", "--target", target]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["40"]
    assert row["failed"] == 0
    assert row["opens a second"] > 0
    assert row["back, a text waits, s, all"] < 3.0
