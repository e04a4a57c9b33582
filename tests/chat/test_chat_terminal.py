"""``flexspec chat`` on a terminal, against the real API."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import stat
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.launcher import PrivateBroker
from flexspec_mq.demo.children import as_child
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from tests.daemons import PATIENCE, FakeEngine, until
from tests.edge_node.api.served import alone, expected, ids_of, served

CTRL_C, CTRL_D, ALT_ENTER = b"\x03", b"\x04", b"\x1b\r"
ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][AB0]|[=>])")
UNVERIFIED = "\x1b[2;3m"
PROMPT = r"›[^›]*\x1b\[\?25h"
"""Drawn, with the cursor behind it."""


class Terminal:
    """A program on a terminal of its own.

    Attributes:
        seen: all that it wrote since the last wait was over.
    """

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self.process = process
        self.seen = ""
        self._fd = fd
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 2**16)
        except OSError:  # the last one who had it open on the other side has gone
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self.seen += data.decode(errors="replace")
        self._news.set()

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def mode(self) -> list[Any]:
        """Input, output and local modes of the terminal."""
        return termios.tcgetattr(self._fd)[:4]

    async def until(self, wanted: str) -> str:
        """Wait until something is shown; all that was shown up to it, with escape sequences."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := re.search(wanted, self.seen)):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{wanted!r} is not in {self.seen!r}") from None
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    async def say(self, line: str, wanted: str) -> str:
        """Type a line once there is a prompt."""
        await self.until(PROMPT)
        self.type(line.encode() + b"\r")
        return await self.until(wanted)


@asynccontextmanager
async def on_terminal(*arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 250, 0, 0))  # no line of ours is broken

    def prepare() -> None:
        as_child(signal.SIGKILL)()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    # The size of the terminal that the tests run on, or of none, is not this one's.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flexspec_mq.cli", *arguments,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=prepare,
        env={**inherited, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
    )  # fmt: skip
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


def long_one(prompt: str) -> int:
    """A seed with which the target goes on for a thousand tokens; now and then it ends a text by itself."""
    return next(seed for seed in range(100) if len(expected(ids_of(prompt), seed, 1000)[0]) == 1000)


async def test_a_conversation(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    engine = FakeEngine(before=lambda _items: time.sleep(0.02))
    async with served(mosquitto, engine=engine) as api:
        flags = ("--url", api.url, "--max-tokens", "24", "--seed", str(long_one("Why is the sky blue?")))
        async with on_terminal("chat", *flags, XDG_STATE_HOME=str(tmp_path)) as terminal:
            await terminal.until("drafted on the device")
            answer = await terminal.say("Why is the sky blue?", "rounds .*seed [0-9]+")
            assert "\x1b[32m" in answer  # accepted
            assert "\x1b[1;33m" in answer  # written by the target
            assert "24 tokens in" in ESCAPE.sub("", answer)
            assert "cut at the limit" in ESCAPE.sub("", await terminal.until("limit of tokens"))
            assert f"* {api.version}" in await terminal.say("/model", rf"\* {api.version}")
            await terminal.say("/clear", "begins anew")
            # A turn of two lines, stopped in the middle.
            seed = long_one("Tell me a very long story\nabout rivers.")
            await terminal.say(f"/seed {seed}", f"seed: {seed}")
            await terminal.say("/max-tokens 1000", "max-tokens: 1000")
            await terminal.until(PROMPT)
            terminal.type(b"Tell me a very long story" + ALT_ENTER + b"about rivers.\r")
            await terminal.until("\x1b\\[(32|1;33)m")
            await until(lambda: api.daemons[0].kept == 1)
            terminal.type(CTRL_C)
            await terminal.until("stopped; what was written stays")
            await until(lambda: api.daemons[0].kept == 0)
            await terminal.say("/max-tokens 5", "max-tokens: 5")
            await terminal.say("Thank you.", f"tokens in .*seed {seed}")
            # Ctrl-C throws a line away; at an empty one it ends the chat.
            await terminal.until(PROMPT)
            terminal.type(b"never mind")
            await terminal.until("never mind")
            terminal.type(CTRL_C + CTRL_D)
            async with asyncio.timeout(PATIENCE):
                assert await terminal.process.wait() == 0
        history = tmp_path / "flexspec-mq" / "chat-history"
        assert stat.S_IMODE(history.stat().st_mode) == 0o600
        assert "+Tell me a very long story\n+about rivers.\n" in history.read_text()
        assert "never mind" not in history.read_text()


async def test_an_outage_is_seen_with_what_the_draft_writes_meanwhile(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        served(mosquitto, engine=FakeEngine(lambda _: time.sleep(0.02)), through=link.port) as api,
    ):
        seed, history = long_one("hello"), str(tmp_path / "history")
        flags = ("--max-tokens", "300", "--seed", str(seed), "--history", history)
        async with on_terminal("chat", "--url", api.url, *flags) as terminal:
            begun = await terminal.say("hello", "\x1b\\[(32|1;33)m")
            link.stall(4.0)
            link.cut()
            drafted = await terminal.until("waiting for the broker, up to")
            assert UNVERIFIED in drafted
            shown = await terminal.until("seed [0-9]+")
            assert "written alone were right" in ESCAPE.sub("", shown)
            # The rows that have scrolled away are those of the answer, without what was drafted behind it.
            rows = iter(ESCAPE.sub("", begun + drafted + shown).replace("\r\n", "\n").split("\n"))
            lines = alone("hello", seed, 300).split("\n")[1:]
            assert all(any(row.rpartition("\r")[2] == line for row in rows) for line in lines)


async def test_sigterm_leaves_the_terminal_as_it_was(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    flags = ("--history", str(tmp_path / "history"))
    async with served(mosquitto) as api, on_terminal("chat", "--url", api.url, *flags) as terminal:
        await terminal.until(PROMPT)
        terminal.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await terminal.process.wait() == 130
        assert "Traceback" not in terminal.seen
