"""Folders of the cache are made once, whole or not at all, and only where they are not there."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import made_once, models_cache, whole_folder
from flexspec_mq.models.default import default_draft_folder, default_draft_path, default_model_path
from flexspec_mq.models.onnx.folder import BACKBONE, EMBEDDING, HEAD, MANIFEST, default_graphs_folder
from flexspec_mq.models.onnx.write import default_graphs

EDGE = """
import sys
from flexspec_mq.drafting.load import load
from flexspec_mq.drafting.settings import DraftSettings
import flexspec_mq.models.compact.load, safetensors.torch
import flexspec_mq.models.onnx.model, flexspec_mq.models.onnx.write
print("ready", flush=True)
sys.stdin.readline()
load(DraftSettings(draft="default", draft_engine=sys.argv[1]), print)
"""
"""What an edge node does at its start, once all is imported and the word is given."""


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


@pytest.mark.model
@pytest.mark.timeout(600)
def test_edges_that_start_at_once_write_the_default_draft_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = default_model_path()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models_cache().mkdir(parents=True)
    (models_cache() / base.name).symlink_to(base)
    files = [default_draft_folder() / name for name in ("model.safetensors", "config.json")]
    files += [default_graphs_folder() / name for name in (MANIFEST, BACKBONE, HEAD, EMBEDDING)]
    seen: dict[Path, int] = {}

    def look() -> None:
        for file in files:
            if file in seen or file.exists():
                assert seen.setdefault(file, file.stat().st_ino) == file.stat().st_ino, f"{file} was replaced"

    with ExitStack() as ends:
        edges = []
        for number, engine in enumerate(("compact", "onnx", "compact", "onnx")):
            errors = ends.enter_context((tmp_path / f"said-{number}").open("w"))
            command = [sys.executable, "-c", EDGE, engine]
            edge = ends.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    bufsize=1,
                )
            )
            ends.callback(edge.kill)
            edges.append(edge)
        for edge in edges:
            assert edge.stdout is not None
            assert edge.stdout.readline() == "ready\n"
        for edge in edges:
            assert edge.stdin is not None
            edge.stdin.write("go\n")
        while any(edge.poll() is None for edge in edges):
            look()
            time.sleep(0.005)
        lines = [
            line for edge in edges if edge.stdout is not None for line in edge.stdout.read().splitlines()
        ]
    failed = [path.read_text() for path in sorted(tmp_path.glob("said-*"))]
    assert [edge.returncode for edge in edges] == [0] * 4, failed
    look()
    assert len(seen) == len(files)
    assert lines.count("writing the default draft, once") == 1
    assert lines.count("writing the default draft for ONNX Runtime, once") == 1
    assert not [path for path in models_cache().glob(".*") if path.suffix != ".lock"]
    for lock in models_cache().glob(".*.lock"):
        lock.unlink()
        lock.mkdir()
    assert (default_draft_path(), default_graphs()) == (default_draft_folder(), default_graphs_folder())
