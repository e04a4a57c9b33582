"""A crowd of devices connects with TLS and keys, is answered, and comes back to a broker that was killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.benchmarks.connections.__main__ import main
from tests.lab.link.plans import needs_namespaces
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(600)
def test_a_crowd_is_answered_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.CONNECT", 0.5)
    target = str(save(tmp_path, tiny_llama(head_dim=16).bfloat16(), byte_level_tokenizer()))
    assert main(["--devices", "20", "--idle", "0", "--away", "1", "--target", target]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["20"]
    assert row["failed"] == 0
    assert row["opens a second"] > 0
    assert row["back, a text waits, s, all"] > 0


SENDS = """
import socket
from lab.benchmarks.connections.__main__ import Load
before = Load.of({}).ip_bytes
with socket.socket(type=socket.SOCK_DGRAM) as sends, socket.socket(type=socket.SOCK_DGRAM) as takes:
    takes.bind(("127.0.0.1", 0))
    for _ in range(10):
        sends.sendto(bytes(1000), takes.getsockname())
print(Load.of({}).ip_bytes - before)
"""


@needs_namespaces
@pytest.mark.usefixtures("in_checkout")
def test_bytes_are_those_of_the_namespace_that_it_runs_in() -> None:
    alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    done = subprocess.run((*alone, sys.executable, "-c", SENDS), capture_output=True, text=True, check=True)
    assert int(done.stdout) == 10 * (1000 + 28)
