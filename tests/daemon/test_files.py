"""Files that appear whole or not at all."""

from __future__ import annotations

import os
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


def test_a_durable_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def noted_replace(part: Path, path: Path) -> Path:
        done.append("rename")
        return replace(part, path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with whole(tmp_path / "file", durable=True) as part:
        part.write_text("text")
    assert (tmp_path / "file").read_text() == "text"
    assert done == ["sync .part", "rename", "sync folder"]
