"""Folders of the cache are made once, whole or not at all, and only where they are not there."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import made_once, models_cache, whole_folder


def test_a_relative_or_empty_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for stated in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
        assert models_cache() == tmp_path / ".cache" / "flexspec-mq" / "models"


def test_what_a_killed_one_left_is_removed_and_other_folders_stay(tmp_path: Path) -> None:
    for name in (".thing.abc", ".thing-onnx1.abc", "thing-onnx1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    folder = tmp_path / "thing"
    assert made_once(folder, Path.is_dir, folder.mkdir, what="it", size=1, say=print) == folder
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"thing", ".thing.lock", ".thing-onnx1.abc", "thing-onnx1"}


def test_a_cache_without_room_for_a_lock_serves_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    (tmp_path / ".thing.lock").mkdir()  # root may write everywhere, but not this
    with pytest.raises(ModelError, match=f"cannot write the thing to {tmp_path}") as caught:
        made_once(folder, Path.is_dir, folder.mkdir, what="the thing", size=170_000_000, say=print)
    assert "170 MB" in caught.value.hint
    assert not folder.exists()
    folder.mkdir()
    assert made_once(folder, Path.is_dir, folder.mkdir, what="the thing", size=1, say=print) == folder


@pytest.mark.parametrize("replace", [False, True])
def test_what_came_while_a_folder_was_written_goes_only_where_that_is_asked(
    tmp_path: Path, replace: bool
) -> None:
    folder = tmp_path / "thing"
    refused = nullcontext() if replace else pytest.raises(OSError, match="not empty")
    with refused, whole_folder(folder, replace=replace) as work:
        (work / "ours").touch()
        folder.mkdir()
        (folder / "theirs").touch()
    assert [path.name for path in folder.iterdir()] == ["ours" if replace else "theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
