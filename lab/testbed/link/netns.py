"""`netns_link`: two sides of this machine with an emulated link between them, carrying real IP packets."""

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from flexspec_mq.demo.children import as_child, deaf
from flexspec_mq.errors import FlexSpecError
from lab.testbed.link import namespaces
from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.namespace_owner import ADDRESS_A, ADDRESS_B, Ready
from lab.testbed.link.profiles import LinkPlan, built_in

Side = Literal["a", "b"]
_START = 30.0
_ANSWER = 10.0
_END = 30.0
_PATIENCE = 5.0


class NetnsLink:
    """Made by `netns_link`. Side a is the device, side b the cloud.

    Nothing in there reaches the machine's own network, nor the other way round; only files are shared.

    Attributes:
        plan: link to emulate.
        address_a, address_b: IPv4 addresses of the sides.
        name_a, name_b: of the namespaces, for ``ip netns exec``.
    """

    address_a = ADDRESS_A
    address_b = ADDRESS_B

    def __init__(self, plan: LinkPlan) -> None:
        self.plan = plan
        self._processes: list[subprocess.Popen[Any]] = []
        self._last: LinkCounters | None = None
        self.name_a = self.name_b = ""
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "lab.testbed.link.namespace_owner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is the caller's; the keeper ends when its standard input does.
            start_new_session=True,
        )
        try:
            ready = self._begin()
        except BaseException:
            self.close()
            raise
        self.name_a, self.name_b = ready.name_a, ready.name_b

    def inside(self, side: Side, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on a side, for those who start processes themselves."""
        return ["ip", "netns", "exec", self.name_a if side == "a" else self.name_b, *command]

    def run_a(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on side a.

        It is ended with the link, and by the kernel when the thread that called this ends.

        Args:
            command: program and arguments.
            options: further ones of `subprocess.Popen`.
        """
        return self._run("a", command, options)

    def run_b(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on side b; see `run_a`."""
        return self._run("b", command, options)

    @property
    def counters(self) -> LinkCounters:
        """IP packets and bytes so far; after the end of the link, those of its end.

        Raises:
            FlexSpecError: the emulator died or does not answer.
        """
        if self._keeper.poll() is None and self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._last = self._ask(b"counters")
        if self._last is None:
            raise FlexSpecError("the link's emulator died", hint="its last words are on standard error")
        return self._last

    def seek(self, time: float) -> LinkCounters:
        """Have the channel's time be `time` from now on, so that what follows meets the same channel each time.

        States, outages and traces go on from there, loss and jitter are drawn anew from the plan's seed and `time`,
        and the queues are empty. Packets on their way arrive when they were due.

        Args:
            time: seconds, not negative.

        Returns:
            The counters as of now.

        Raises:
            FlexSpecError: the emulator died or does not answer.
        """
        if not 0 <= time < math.inf:
            raise ValueError("a channel's time is a number of seconds from 0 on")
        self._last = self._ask(b"seek %r" % time)
        return self._last

    def close(self) -> None:
        """End all processes on both sides and remove the namespaces."""
        if self.name_a:
            with contextlib.suppress(FlexSpecError):
                _ = self.counters
        for process in reversed(self._processes):
            _stop(process)
        if self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.close()
        try:
            self._keeper.wait(_END)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
        for name in filter(None, (self.name_a, self.name_b)):  # there only if the keeper was killed
            namespaces.remove(name)

    def _ask(self, line: bytes) -> LinkCounters:
        self._write(line)
        return msgspec.json.decode(self._read_line(_ANSWER, "for its counters"), type=LinkCounters)

    def _begin(self) -> Ready:
        self._write(msgspec.json.encode(self.plan))
        ready = msgspec.json.decode(self._read_line(_START, "to make the namespaces"), type=Ready)
        if ready.error:
            raise FlexSpecError(ready.error, hint=ready.hint)
        return ready

    def _run(self, side: Side, command: Sequence[str], options: dict[str, Any]) -> subprocess.Popen[Any]:
        if not command:
            raise ValueError("a command has at least one word")
        options.setdefault("preexec_fn", as_child(signal.SIGTERM))
        process: subprocess.Popen[Any] = subprocess.Popen(self.inside(side, command), **options)
        self._processes.append(process)
        return process

    def _write(self, line: bytes) -> None:
        assert self._keeper.stdin is not None
        try:
            self._keeper.stdin.write(line + b"\n")
            self._keeper.stdin.flush()
        except BrokenPipeError:
            raise FlexSpecError(
                "the link's emulator died", hint="its last words are on standard error"
            ) from None

    def _read_line(self, timeout: float, what: str) -> bytes:
        assert self._keeper.stdout is not None
        output = self._keeper.stdout.fileno()
        ends = time.monotonic() + timeout
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([output], [], [], max(0.0, ends - time.monotonic()))[0]:
                raise FlexSpecError(f"waited {timeout:.0f} s for the link's emulator {what}")
            chunk = os.read(output, 65_536)
            if not chunk:
                raise FlexSpecError("the link's emulator died", hint="its last words are on standard error")
            line += chunk
        return line


@contextmanager
def netns_link(profile: str | LinkPlan, seed: int = 0) -> Iterator[NetnsLink]:
    """An emulated link between two network namespaces, removed on leaving.

    Also removed when this process is killed.

    Args:
        profile: name of a built-in profile, or a plan, which has its own seed.
        seed: start of all that is drawn at random; with a plan it is not used.

    Raises:
        UsageError: no such profile, no root, no `ip`, no TUN device.
        FlexSpecError: the kernel refused.
    """
    plan = profile if isinstance(profile, LinkPlan) else LinkPlan(profile, built_in().get(profile), seed)
    namespaces.check_requirements()
    link = NetnsLink(plan)
    try:
        yield link
    finally:
        with deaf():  # a second Ctrl-C must not leave anything running
            link.close()


def _stop(process: subprocess.Popen[Any]) -> None:
    """End a process: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
