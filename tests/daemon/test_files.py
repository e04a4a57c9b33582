"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexspec_mq.daemon.files import whole


def _tear(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_a_file_appears_at_the_end_of_the_block_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("one", "two"):
        before = path.read_text() if path.exists() else None
        with whole(path) as part:
            part.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    with pytest.raises(ZeroDivisionError):
        _tear(path)
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
