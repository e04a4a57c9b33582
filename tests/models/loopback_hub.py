"""A model hub on this machine, with every trouble that one can make.

``python -m tests.models.loopback_hub FOLDER [CUT ...]`` serves the files of a folder by their names, of whatever
repository and revision, and cuts the first answers after so many bytes.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 1 << 16
COMMIT = "c" * 40


@dataclass(frozen=True)
class Trouble:
    """A fault of one answer.

    Attributes:
        cut: bytes of its body after which the connection ends.
        status: code to answer with instead.
        headers: headers of that answer.
        ranges: whether parts can be asked for.
        garbled: bytes of other contents.
        sized: whether the length is told.
        stall: seconds of silence after the first piece.
    """

    cut: int | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    garbled: bool = False
    sized: bool = True
    stall: float = 0.0


class Hub(ThreadingHTTPServer):
    """The hub.

    Attributes:
        files: contents by name.
        plain: without the hub's own headers, as a mirror may be.
        troubles: faults of the next answers, one each.
        asked: range of each request for contents; empty for all of it.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes | Path], *troubles: Trouble, plain: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files, self.plain = files, plain
        self.troubles = deque(troubles)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Whoever leaves in the middle is no error."""


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _found(self) -> bytes | Path | None:
        found = re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/([^/]+)", self.path)
        contents = self.server.files.get(found[1]) if found else None
        if contents is None:
            self._answer(404, {"Content-Length": "0"})
        return contents

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self) -> None:
        if (contents := self._found()) is not None:
            whole = contents if isinstance(contents, bytes) else contents.read_bytes()
            tag = hashlib.sha256(whole).hexdigest()
            own = {} if self.server.plain else {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
            self._answer(200, {"Content-Length": str(len(whole)), **own})

    def do_GET(self) -> None:
        hub, part = self.server, self.headers.get("Range", "")
        hub.asked.append(part)
        trouble = hub.troubles.popleft() if hub.troubles else Trouble()
        if trouble.status:
            self._answer(trouble.status, {"Content-Length": "0", **trouble.headers})
            return
        if (contents := self._found()) is None:
            return
        size = contents.stat().st_size if isinstance(contents, Path) else len(contents)
        start = int(part.removeprefix("bytes=").removesuffix("-")) if part and trouble.ranges else 0
        if start and start >= size:
            self._answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        if trouble.sized:
            headers["Content-Length"] = str(size - start)
        self._answer(206 if start else 200, headers)
        self._send(contents, start, trouble)

    def _send(self, contents: bytes | Path, start: int, trouble: Trouble) -> None:
        left = sys.maxsize if trouble.cut is None else trouble.cut
        for piece in _pieces(contents, start):
            self.wfile.write((bytes(len(piece)) if trouble.garbled else piece)[:left])
            left -= len(piece)
            if left <= 0:
                return
            if trouble.stall:
                time.sleep(trouble.stall)
                return


def _pieces(contents: bytes | Path, start: int) -> Iterator[bytes]:
    if isinstance(contents, bytes):
        yield from (contents[at : at + PIECE] for at in range(start, len(contents), PIECE))
        return
    with contents.open("rb") as file:
        file.seek(start)
        while piece := file.read(PIECE):
            yield piece


@contextmanager
def serving(files: dict[str, bytes | Path], *troubles: Trouble, plain: bool = False) -> Iterator[Hub]:
    """Serve files on a free port for as long as the block lasts."""
    with Hub(files, *troubles, plain=plain) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def main() -> None:
    """Serve a folder until Ctrl-C."""
    folder, *cuts = sys.argv[1:]
    with serving(
        {path.name: path for path in Path(folder).iterdir()}, *(Trouble(cut=int(cut)) for cut in cuts)
    ) as hub:
        print(hub.url, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
