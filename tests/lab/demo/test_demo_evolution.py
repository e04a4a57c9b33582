"""The demo of an update, as a user runs it, with the real model and a head that ships."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from lab.testbed.process import as_child

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


def test_a_version_is_published_while_an_answer_streams() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lab.demo.evolution", "--head=format", "--max-tokens=12"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=as_child(signal.SIGKILL),  # noqa: PLW1509  two system calls
    ) as process:
        out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert re.search(r"the long answer, of \d+ characters, streamed all the while and ended with v1", out)
    assert "All came out the same to the last character." in out
    # The first text, the long one, the later ones, and two of these again; two of the new version as well.
    versions = re.findall(r"^(v[12]) +(\w+) +(\d+) +(\d+)", out, re.MULTILINE)
    assert versions == [("v1", "draining", "7", "0"), ("v2", "stable", "7", "0")]
    assert re.search(r"^  catalogue +2 messages +\d+ B of MQTT$", out, re.MULTILINE)
