"""Texts come back after an outage as soon as they should, in a deployment with TLS and keys."""

import json
from pathlib import Path

import pytest

from lab.benchmarks.outages import main
from tests.lab.link.plans import needs_namespaces
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


@needs_namespaces
@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(600)
def test_texts_go_on_and_requests_are_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama(max_position_embeddings=2048, head_dim=16).bfloat16()
    target = str(save(tmp_path / "target", model, byte_level_tokenizer()))
    flags = ["--streams", "3", "--meanwhile", "3", "--tokens", "1000", "--lengths", "1.5"]
    edge = ["--draft", "none", "--edge-flags", f"--tokenizer {target}"]
    assert main(["--target", target, "--fault", "link", *edge, *flags]) == 0
    (waits,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"].values()
    assert len(waits["first"]) == 3
