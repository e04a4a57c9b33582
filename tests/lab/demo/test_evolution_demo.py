import os
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


@pytest.mark.skipif(
    "CI" in os.environ, reason="continuous integration has twelve minutes: make test-lab runs it"
)
def test_a_version_is_published_while_an_answer_streams() -> None:
    """By the demo of an update, with a head that ships."""
    command = [sys.executable, "-m", "lab.demo.evolution", "--head=format", "--max-tokens=12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    out = done.stdout
    assert done.returncode == 0, done.stderr
    assert re.search(r"v1 has written \d{2,} characters of the long answer all the while", out)
    assert "All came out the same to the last character." in out
    # The first text, the later ones, the first and the long one's beginning again; those of the new version likewise.
    versions = re.findall(r"^(v[12]) +(\w+) +(\d+) +(\d+)", out, re.MULTILINE)
    assert versions == [("v1", "draining", "6", "0"), ("v2", "stable", "7", "0")]
    received, head = re.findall(r"(?:received|head of) ([\d,]+) B", out)
    assert 0 < int(received.replace(",", "")) < int(head.replace(",", "")) / 2, (
        "texts alone, and the catalogue"
    )
