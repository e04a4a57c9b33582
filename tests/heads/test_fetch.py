"""Fetching heads, from a folder and over real HTTP: whole and right, or not at all."""

import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import pytest

from flexspec_mq.errors import UsageError
from flexspec_mq.heads import fetch
from flexspec_mq.heads.fetch import fetch_head
from flexspec_mq.heads.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    HeadError,
    HeadFile,
    Manifest,
    digest,
    read_head,
)
from flexspec_mq.heads.place import FetchError, from_catalogue, scheme_of
from tests.families import simple

WEIGHTS = bytes(range(256)) * 5000
CONFIG = b'{"r": 8}'


def manifest_of(**files: bytes) -> Manifest:
    listed = tuple(
        HeadFile(name.replace("_", "."), len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    )
    return Manifest(files=listed, **simple())  # type: ignore[arg-type]


def publish(root: Path, data: bytes | None = None, **files: bytes) -> bytes:
    """Put a head where it belongs; its digest."""
    files = files or {"weights_bin": WEIGHTS, "config_json": CONFIG}
    data = manifest_of(**files).encode() if data is None else data
    name = digest(data)
    folder = root / name.hex()
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(data)
    for file, content in files.items():
        (folder / file.replace("_", ".")).write_bytes(content)
    return name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "heads"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def name(root: Path) -> bytes:
    """Digest of a head that lies in `root`."""
    return publish(root)


def held(cache: Path) -> list[str]:
    """Names of the heads that a reader of the cache sees."""
    return sorted(path.name for path in cache.iterdir() if path.is_dir()) if cache.is_dir() else []


Spoil = Callable[[SimpleHTTPRequestHandler], bool]


@contextmanager
def serving(root: Path, spoil: Spoil | None = None) -> Iterator[tuple[str, list[str]]]:
    """A folder over HTTP on loopback, where `spoil` may answer in its place; its URL, and the paths asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if spoil is None or not spoil(self):
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_a_head_comes_whole_and_once(root: Path, cache: Path, name: bytes, kind: str) -> None:
    with serving(root) as (http, asked):
        url = {"folder": f"{root}/", "file": root.as_uri(), "http": http}[kind]
        folder = fetch_head(url, name, cache)
        assert folder == cache / name.hex()
        assert read_head(folder, name) == manifest_of(weights_bin=WEIGHTS, config_json=CONFIG)
        assert held(cache) == [name.hex()]
        shutil.rmtree(root)
        assert fetch_head(url, name, cache) == folder
        assert len(asked) == (3 if kind == "http" else 0)


def test_a_damaged_entry_is_fetched_anew(root: Path, cache: Path, name: bytes) -> None:
    (fetch_head(str(root), name, cache) / "weights.bin").write_bytes(WEIGHTS[:-1])
    read_head(fetch_head(str(root), name, cache), name)


OTHER = manifest_of(config_json=CONFIG).encode()


def rewritten(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda head: (head / name).write_bytes(data)


HARM: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "other manifest": (rewritten(MANIFEST, OTHER), HeadError, "has the digest"),
    "longer file": (rewritten("weights.bin", WEIGHTS + b"!"), HeadError, "not the file"),
    "other byte": (rewritten("weights.bin", b"!" + WEIGHTS[1:]), HeadError, "not the file"),
    "shorter file": (
        rewritten("weights.bin", WEIGHTS[:-1]),
        FetchError,
        "ended after 1279999 of 1280000 bytes",
    ),
    "no file": (lambda at: (at / "weights.bin").unlink(), FetchError, "there is no weights.bin"),
    "no head": (shutil.rmtree, FetchError, "there is no manifest.json"),
    "long manifest": (
        rewritten(MANIFEST, b" " * (MAX_MANIFEST + 1)),
        HeadError,
        "manifest.json has more than",
    ),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", ["folder", "http"])
def test_what_is_wrong_is_named_and_leaves_nothing(
    root: Path, cache: Path, name: bytes, kind: str, harm: str
) -> None:
    spoil, error, says = HARM[harm]
    spoil(root / name.hex())
    with serving(root) as (http, _), pytest.raises(error, match=says):
        fetch_head(http if kind == "http" else str(root), name, cache)
    assert held(cache) == []


def test_a_head_that_is_too_large_is_not_begun(
    root: Path, cache: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LIMIT", 1280007)
    with serving(root) as (http, asked):
        with pytest.raises(HeadError, match="it has 1280008 bytes, more than 1280007"):
            fetch_head(http, name, cache)
        assert asked == [f"/{name.hex()}/{MANIFEST}"]
        monkeypatch.setattr(fetch, "LIMIT", 1280008)
        fetch_head(http, name, cache)


def test_a_manifest_names_no_place_outside_of_its_folder(root: Path, cache: Path) -> None:
    data = manifest_of(config_json=CONFIG).encode().replace(b"config.json", b"../secret")
    name = publish(root, data, config_json=CONFIG)
    with pytest.raises(HeadError, match="the manifest cannot be read"):
        fetch_head(str(root), name, cache)
    assert held(cache) == []


def cut(handler: SimpleHTTPRequestHandler) -> bool:
    """Promise the whole file and hang up after half of it."""
    if not handler.path.endswith("weights.bin"):
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(WEIGHTS)))
    handler.end_headers()
    handler.wfile.write(WEIGHTS[: len(WEIGHTS) // 2])
    handler.close_connection = True
    return True


def endless(handler: SimpleHTTPRequestHandler) -> bool:
    """Send for ever, without saying how much."""
    if not handler.path.endswith("weights.bin"):
        return False
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(WEIGHTS)
    except OSError:
        return True


def broken(handler: SimpleHTTPRequestHandler) -> bool:
    handler.send_error(500)
    return True


@pytest.mark.parametrize(("spoil", "error"), [(cut, FetchError), (endless, HeadError), (broken, FetchError)])
def test_servers_that_fail(
    root: Path, cache: Path, name: bytes, spoil: Spoil, error: type[Exception]
) -> None:
    with serving(root, spoil) as (http, _), pytest.raises(error):
        fetch_head(http, name, cache)
    assert held(cache) == []
    with serving(root) as (http, _):
        read_head(fetch_head(http, name, cache), name)


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.KEEPALIVE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FetchError, match="cannot be fetched"):
            fetch_head(url, bytes(32), tmp_path / "cache")
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetch_head(url, bytes(32), tmp_path / "cache")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("first", [MANIFEST, "weights.bin"])
def test_nobody_goes_where_a_server_sends_them(
    root: Path, cache: Path, name: bytes, status: int, first: str
) -> None:
    """Not even to the very head, at a host that nobody has named."""
    with serving(root) as (inside, asked):

        def redirecting(handler: SimpleHTTPRequestHandler) -> bool:
            if not handler.path.endswith(first):
                return False
            handler.send_response(status)
            handler.send_header("Location", f"{inside}{handler.path}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True

        with serving(root, redirecting) as (http, _), pytest.raises(FetchError) as refused:
            fetch_head(http, name, cache)
    assert asked == []
    assert held(cache) == []
    assert f"redirects to {inside}/{name.hex()}/{first}" in refused.value.message


NOWHERE = {
    "its scheme is": (
        "nonsense://heads", "ftp://heads.example/", "data://x",
        "local:///srv/heads", "HTTPS://heads.example", "reference:///srv/heads",
    ),
    "a chain of URLs": (
        "simplecache::https://heads.example", "https://heads.example/x::reference://y",
        "zip://a::/srv/heads", "/srv/a::b",
    ),
    "begins with file:///": ("file://heads.example/srv",),
    "more than a host and a path": (
        "https:///heads", "https://good.example /", "s3://bucket?versionId=1",
        "https://good.example\\@bad.example/", "https://good.example?@bad.example/",
        "https://good.example#@bad.example/", "https://good.example/\r\nHost: bad.example",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("says", "url"), [(says, url) for says, urls in NOWHERE.items() for url in urls])
def test_heads_are_read_from_nowhere_else(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fetch_head(url, bytes(32), tmp_path / "cache")
    with pytest.raises(UsageError, match=says):
        from_catalogue(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://heads.example",
        "https://heads.example:8443/of/smol/",
        "https://[::1]:8443/heads",
        "https://heads.example/a%3A%3Areference:%2F%2Fb",
        "s3://bucket/heads",
        "file:///srv/heads",
        "/srv/heads",
    ],
)
def test_where_a_catalogue_may_send_a_worker(url: str) -> None:
    assert from_catalogue(url) == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://heads.example", "nobody here has named that host"),
        ("http://169.254.169.254/latest", "nobody here has named that host"),
        ("https://me:secret@heads.example", "no place for a password"),
        ("file:///srv/heads/../../etc", r"it has a \.\. in it"),
        ("https://heads.example/../admin", r"it has a \.\. in it"),
        ("heads", "from the root on"),
        ("~/heads", "from the root on"),
    ],
)
def test_where_only_an_operator_sends_a_worker(url: str, says: str) -> None:
    scheme_of(url)
    with pytest.raises(UsageError, match=says):
        from_catalogue(url)


@pytest.mark.parametrize("url", ["reference://::{at}", "reference::{at}", "/{name}::reference://{at}"])
def test_a_file_of_references_runs_nothing(tmp_path: Path, url: str) -> None:
    """Before 2026.6 fsspec ran this one at the first of these URLs."""
    ran, wanted = tmp_path / "ran", bytes(32)
    run = "{{ cycler.__init__.__globals__.os.system('touch " + str(ran) + "') }}"
    heads = tmp_path / "heads"
    heads.mkdir()
    for file in (heads / wanted.hex(), heads / "references.json"):
        made = {"key": run, "url": "u", "offset": "0", "length": "1", "dimensions": {"i": [0]}}
        file.write_text(json.dumps({"version": 1, "templates": {"x": "y"}, "gen": [made], "refs": {}}))
    for at in (heads, heads / "references.json"):
        with pytest.raises(UsageError, match="heads are not read from"):
            fetch_head(url.format(at=at, name=wanted.hex()), wanted, tmp_path / "cache")
    assert not ran.exists()


def test_one_that_was_killed_is_done_anew(root: Path, cache: Path, name: bytes) -> None:
    half = threading.Event()
    go_on = threading.Event()

    def stop_half(handler: SimpleHTTPRequestHandler) -> bool:
        if cut(handler):
            handler.wfile.flush()
            half.set()
            go_on.wait(30)
        return handler.path.endswith("weights.bin")

    with serving(root, stop_half) as (http, _):
        process = get_context("spawn").Process(target=fetch_head, args=(http, name, cache))
        process.start()
        assert half.wait(30)
        process.kill()
        process.join()
        go_on.set()
    assert [path for path in held(cache) if not path.startswith(".")] == []
    with serving(root) as (http, _):
        read_head(fetch_head(http, name, cache), name)
    assert held(cache) == [name.hex()]


def test_two_that_want_the_same_head_fetch_it_once(root: Path, cache: Path, name: bytes) -> None:
    with serving(root) as (http, asked), ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(fetch_head, [http] * 4, [name] * 4, [cache] * 4))
    assert set(folders) == {cache / name.hex()}
    assert len(asked) == 3
    read_head(cache / name.hex(), name)


def test_heads_that_nobody_asks_for_go(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "KEPT", 2)
    names = [publish(root, config_json=bytes([number])) for number in range(3)]
    for age, name in enumerate(names[:2]):
        os.utime(fetch_head(str(root), name, cache), (age, age))
    for name in (names[0], names[2]):
        fetch_head(str(root), name, cache)
    assert held(cache) == sorted(name.hex() for name in (names[0], names[2]))


def test_a_head_that_is_whole_needs_no_cache_that_can_be_written(
    root: Path, cache: Path, name: bytes
) -> None:
    folder = fetch_head(str(root), name, cache)
    lock = cache / f".{name.hex()}.lock"
    lock.unlink()
    lock.mkdir()  # root may write everywhere, but not this
    assert fetch_head("/nowhere", name, cache) == folder
    (folder / "weights.bin").write_bytes(b"damaged")
    with pytest.raises(FetchError, match="cannot be kept"):
        fetch_head(str(root), name, cache)
