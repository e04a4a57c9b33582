from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def settings_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder where a test may put settings of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("FLEXSPEC_EDGE_REMEMBER")  # the suite's own
    folder = tmp_path / "flexspec-mq"
    folder.mkdir()
    return folder
