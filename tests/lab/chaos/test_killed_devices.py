"""A small run in which a device's daemon is killed again and again, and what it proves is looked for."""

import json
import os
from pathlib import Path

import pytest

from lab.chaos.restarts import main


@pytest.mark.skipif(
    "CI" in os.environ, reason="continuous integration has twelve minutes: make test-lab runs it"
)
@pytest.mark.timeout(600)
def test_a_device_that_is_killed_loses_doubles_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--requests", "4", "--kills", "3", "--seed", "1", "--history", str(tmp_path / "h")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    found = json.loads(printed.splitlines()[-1])["results"]
    assert (found["requests"], found["kills"], found["broken rules"]) == (4, 3, 0)
    assert found["committed"] >= found["tokens"] > 50
