"""Named pairs: their files come whole from a bad hub or not at all, and `pairs try` pins what it has measured."""

from __future__ import annotations

import hashlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_worker.__main__ import main as cloud
from cloud_worker.engine.load import try_models
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq import waiting
from flexspec_mq.cli import main as flexspec
from flexspec_mq.daemon.retry import Backoff
from flexspec_mq.drafting.load import load
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.pairs import fetch, prepare, table
from flexspec_mq.models.pairs.table import HubFile, Pair
from tests.models.loopback_hub import COMMIT, PIECE, Trouble, serving
from tests.models.test_gguf import eight, tiny, write

CONTENTS = random.Random(0).randbytes(5 * PIECE + 7)


def file_of(contents: bytes, name: str = "m.gguf") -> HubFile:
    return HubFile("a/b", name, COMMIT, len(contents), hashlib.sha256(contents).hexdigest())


FILE = file_of(CONTENTS)


def quiet(_text: str) -> None:
    """Nobody is told."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(fetch, "Backoff", partial(Backoff, first=0.01))
    return tmp_path / "cache" / "flexspec-mq"


@pytest.mark.parametrize(
    ("troubles", "asked"),
    [
        ([], [0]),
        ([Trouble(cut=PIECE), Trouble(cut=7)], [0, PIECE, PIECE + 7]),
        ([Trouble(cut=PIECE, sized=False)], [0, PIECE]),
        ([Trouble(cut=2 * PIECE), Trouble(ranges=False, cut=PIECE)], [0, 2 * PIECE, PIECE]),
        ([Trouble(stall=1.0)], [0, PIECE]),
        ([Trouble(status=500), Trouble(status=503), Trouble(status=429)], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_a_file_comes_whole_through_all_troubles(
    troubles: list[Trouble], asked: list[int], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "KEEPALIVE", 0.2)
    with serving({"m.gguf": CONTENTS}, *troubles, plain=plain) as hub:
        path = fetch.fetch(FILE, hub.url, quiet)
        assert fetch.fetch(FILE, hub.url, quiet) == path == fetch.here(FILE)
    assert path.read_bytes() == CONTENTS
    assert hub.asked == [f"bytes={start}-" if start else "" for start in asked]


TROUBLE = st.builds(
    Trouble,
    cut=st.none() | st.integers(0, len(CONTENTS)),
    ranges=st.booleans(),
    sized=st.booleans(),
    status=st.sampled_from([0, 0, 0, 502]),
)


@given(st.lists(TROUBLE, max_size=6))
def test_no_series_of_cuts_changes_a_file(troubles: list[Trouble]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("XDG_CACHE_HOME", folder)
        with serving({"m.gguf": CONTENTS}, *troubles) as hub:
            assert fetch.fetch(FILE, hub.url, quiet).read_bytes() == CONTENTS


@pytest.mark.parametrize(
    ("files", "trouble", "said"),
    [
        ({}, Trouble(), "answers 404"),
        ({"m.gguf": CONTENTS}, Trouble(status=403), "answers 403"),
        ({"m.gguf": CONTENTS}, Trouble(garbled=True), f"{FILE.sha256} is pinned"),
        ({"m.gguf": CONTENTS + b"x"}, Trouble(), "or more, and"),
        ({"m.gguf": CONTENTS + bytes(2 * PIECE)}, Trouble(sized=False), "or more, and"),
        ({"m.gguf": CONTENTS[1:]}, Trouble(), f"has {FILE.size - 1:,} bytes"),
        (
            {"m.gguf": CONTENTS},
            Trouble(status=302, headers={"Location": "http://192.0.2.1/m.gguf"}),
            "leads to http://192.0.2.1, which is not protected",
        ),
    ],
)
def test_nothing_is_used_of_another_file(
    files: dict[str, bytes | Path], trouble: Trouble, said: str, cache: Path
) -> None:
    with serving(files, trouble) as hub, pytest.raises(ModelError, match=said) as caught:
        fetch.fetch(FILE, hub.url, quiet)
    assert "--pair-source" in caught.value.hint
    assert not [*cache.rglob("m.gguf")]


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as hub:
        url = hub.url
    monkeypatch.setattr(waiting, "UNLINKED", 0.3)
    with pytest.raises(ModelError, match="Connection refused"):
        fetch.fetch(FILE, url, quiet)


def test_what_has_come_is_kept_where_it_was_ended_or_the_disk_was_full() -> None:
    def interrupt(text: str) -> None:
        if text.endswith("%"):
            raise KeyboardInterrupt

    with serving({"m.gguf": CONTENTS}) as hub:
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(FILE, hub.url, interrupt)
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PIECE, usual[1]))
        try:
            with pytest.raises(ModelError, match="File too large") as caught:
                fetch.fetch(FILE, hub.url, quiet)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert "XDG_CACHE_HOME" in caught.value.hint
        assert fetch.fetch(FILE, hub.url, quiet).read_bytes() == CONTENTS
    first, *later = hub.asked
    assert (first, later[-1]) == ("", f"bytes={2 * PIECE}-")


def test_what_was_kept_and_is_damaged_is_fetched_anew() -> None:
    with serving({"m.gguf": CONTENTS}) as hub:
        for kept in (bytes(1000), bytes(FILE.size), bytes(FILE.size + 1)):
            place = fetch._place(FILE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_name(".m.gguf.part").write_bytes(kept)
            assert fetch.fetch(FILE, hub.url, quiet).read_bytes() == CONTENTS
            place.unlink()
    assert hub.asked == ["bytes=1000-", "", "", ""]


def test_two_programs_fetch_a_file_once() -> None:
    code = (
        "from flexspec_mq.models.pairs.fetch import fetch; from flexspec_mq.models.pairs.table import HubFile; "
        "import sys; name, size, tag, url = sys.argv[1:]; "
        f"print(fetch(HubFile('a/b', name, '{COMMIT}', int(size), tag), url, lambda _: None))"
    )
    with serving({"m.gguf": CONTENTS}, Trouble(cut=PIECE)) as hub:
        command = [sys.executable, "-c", code, FILE.name, str(FILE.size), FILE.sha256, hub.url]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        paths = {one.communicate()[0].decode().strip() for one in both}
    assert [Path(path).read_bytes() for path in paths] == [CONTENTS]
    assert hub.asked == ["", f"bytes={PIECE}-"]


def test_a_folder_and_the_cache_of_other_tools_need_no_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT
    for folder, source in ((snapshot, "http://127.0.0.1:9"), (tmp_path / "stick", str(tmp_path / "stick"))):
        folder.mkdir(parents=True)
        (folder / "m.gguf").write_bytes(CONTENTS)
        place = fetch.fetch(FILE, source, quiet)
        assert place.read_bytes() == CONTENTS
        shutil.rmtree(folder)
        assert (fetch.here(FILE) is None) == (folder == snapshot)  # that cache is not copied
    other = replace_hash(FILE)
    with pytest.raises(ModelError, match="there is no "):
        fetch.fetch(other, str(tmp_path), quiet)
    (tmp_path / "m.gguf").write_bytes(CONTENTS)
    with pytest.raises(ModelError, match=f"{FILE.sha256}, and {other.sha256} is pinned"):
        fetch.fetch(other, str(tmp_path), quiet)
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").write_bytes(bytes(FILE.size))  # damaged
    fetch._place(FILE).unlink()
    assert fetch.fetch(FILE, str(tmp_path), quiet).read_bytes() == CONTENTS


def replace_hash(file: HubFile) -> HubFile:
    return msgspec.structs.replace(file, sha256="0" * 64)


def test_a_file_is_pinned_as_its_source_tells(tmp_path: Path) -> None:
    bare = HubFile("a/b", "m.gguf")
    with serving({"m.gguf": CONTENTS}) as hub:
        assert fetch.pinned(bare, hub.url, quiet) == FILE
        hub.plain = True
        assert fetch.pinned(FILE, hub.url, quiet) == FILE
        with pytest.raises(ModelError, match="cannot be pinned"):
            fetch.pinned(bare, hub.url, quiet)
        hub.files.clear()
        with pytest.raises(ModelError, match="404"):
            fetch.pinned(bare, hub.url, quiet)
    (tmp_path / "m.gguf").write_bytes(CONTENTS)
    assert fetch.pinned(bare, str(tmp_path), quiet) == msgspec.structs.replace(FILE, revision="main")


def test_whoever_is_offline_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with serving({"m.gguf": CONTENTS}) as hub, pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        fetch.fetch(FILE, hub.url, quiet)
    assert not hub.asked


def test_a_disk_without_room_is_told_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10**8))
    with serving({"m.gguf": CONTENTS}) as hub, pytest.raises(ModelError, match="has room for 100 MB"):
        fetch.fetch(FILE, hub.url, quiet)
    assert not hub.asked


def test_rows_that_ship_are_whole() -> None:
    assert {pair.name: bool(pair.files) for pair in table.pairs() if pair.measured} == {
        "default": False,
        "qwen2.5-coder-1.5b": True,
    }
    for pair in table.shipped().values():
        assert bool(pair.worker_mb and pair.draft_mb) == pair.measured
        assert all(bool(file.sha256 and file.size) == pair.measured for file in pair.files)
        assert all(len(file.revision) == 40 for file in pair.files if pair.measured)
        assert len(pair.confidence) in (0, 13)


def test_only_pairs_with_figures_are_used_and_own_rows_stand_in() -> None:
    with pytest.raises(UsageError, match="there is no pair 'x'") as unknown:
        table.usable("x")
    assert "qwen3-4b" in unknown.value.hint
    with pytest.raises(UsageError, match="nobody has tried the pair qwen3-4b") as untried:
        table.usable("qwen3-4b")
    assert "flexspec pairs try qwen3-4b" in untried.value.hint
    own = msgspec.structs.replace(table.find("qwen3-4b"), round=1.5, draft=FILE)
    path = table.keep(own)
    assert table.usable("qwen3-4b") == own
    assert [pair.name for pair in table.pairs()][:3] == ["default", "qwen2.5-coder-1.5b", "qwen3-4b"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="cannot be used"):
        table.pairs()


@pytest.mark.parametrize(
    "source",
    [
        "http://hub.example",
        "ftp://127.0.0.1",
        "https://",
        "https://u@h",
        "https://h?a",
        "https://[",
        "http://::1",
    ],
)
def test_sources_that_are_not_protected_are_refused(source: str) -> None:
    with pytest.raises(UsageError, match="no models are fetched from"):
        WorkerSettings(pair="default", pair_source=source)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the GGUF files of a small draft and a small target."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("draft", "target"):
        write(folder / f"{name}.gguf", "qwen2", tiny("qwen2", {"max_position_embeddings": 256}), eight)
    return folder


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Files of such names as a pair that ships and nobody has tried."""
    draft, target = (HubFile("a/b", f"{name}.gguf") for name in ("draft", "target"))
    found = Pair("small", "MIT", draft, target)
    rows = {"default": table.shipped()["default"], "small": found}
    monkeypatch.setattr(table, "shipped", lambda: rows)
    return found


@pytest.mark.usefixtures("pair")
def test_a_pair_is_tried_then_used_by_both_halves(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Off the hub from the first byte to the last, and without it afterwards."""
    files: dict[str, bytes | Path] = {path.name: path for path in small.iterdir()}
    with serving(files, Trouble(cut=1000)) as hub:
        assert cloud(["pairs", "try", "small", "--pair-source", hub.url]) == 0
        assert hub.asked == ["", "bytes=1000-", ""]
    said = capsys.readouterr()
    assert "small, on this machine" in said.out
    assert "--pair small takes it" in said.out
    row = table.usable("small")
    assert [file.revision for file in row.files] == [COMMIT] * 2
    assert 1 <= row.round <= 5
    assert prepare.best_here() == row
    worker = prepare.with_pair(WorkerSettings(pair="small", version="v"), "target", None)
    assert (worker.pair, worker.target) == (None, str(fetch.here(row.files[1])))
    assert try_models(worker).vocab_size
    edge = prepare.with_pair(EdgeSettings(pair="small"), "draft", None)
    assert load(edge, quiet).model is not None
    assert flexspec(["pairs"]) == 0
    listed = capsys.readouterr().out
    assert f"{row.round:.2f} tokens a round" in listed
    assert "untried" not in listed


def test_a_named_draft_is_exported_once_or_refused_before_it_is_fetched(
    small: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.stem: file_of(path.read_bytes(), path.name) for path in small.iterdir()}
    weights = tuple(0.01 * place for place in range(13))
    table.keep(msgspec.structs.replace(pair, **files, round=2.0, confidence=weights))
    told: list[str] = []
    with serving({path.name: path for path in small.iterdir()}) as hub:
        settings = EdgeSettings(pair="small", pair_source=hub.url)
        with pytest.raises(ModelError, match="is not here yet"):
            prepare.with_pair(settings, "draft", None)
        with monkeypatch.context() as patch:
            patch.setitem(prepare._LIBRARIES, "draft", ("torch", "no_such_library"))
            with pytest.raises(
                ModelError, match=r"copy it from a machine .* needs no_such_library"
            ) as caught:
                prepare.with_pair(settings, "draft", quiet)
        assert not hub.asked
        assert "edge,models,draft,export,gguf" in caught.value.hint
        found = prepare.with_pair(settings, "draft", told.append)
        assert prepare.with_pair(settings, "draft", told.append) == found
        assert hub.asked == [""]
    assert told[-1] == "exporting the draft of small, once"
    drafter = load(found, quiet).model
    assert drafter is not None
    assert msgspec.json.decode((Path(found.draft) / "flexspec_draft.json").read_bytes())["confidence"] == {
        "basis": 2,
        "weights": list(weights),
    }
    assert prepare.best_here().name == "default"  # the target is not here
    with pytest.raises(UsageError, match="--pair small brings its draft"):
        prepare.with_pair(replace(settings, draft="none"), "draft", quiet)


def test_the_default_pair_fetches_nothing() -> None:
    settings = EdgeSettings(edge="e", pair="default")
    assert prepare.with_pair(settings, "draft", None) == EdgeSettings(edge="e")
    with pytest.raises(UsageError, match="leave --pair"):
        WorkerSettings(pair="default", engine="vllm", engine_url="http://127.0.0.1:8000")
