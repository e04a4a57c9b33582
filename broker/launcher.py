"""Start a private Mosquitto, wait until it answers, and leave nothing behind."""

import errno
import logging
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from broker.config import render, render_users
from broker.settings import BrokerSettings, User
from broker.watching.rates import PACKETS
from flexspec_mq import waiting
from flexspec_mq.daemon.children import end_connection, end_with_parent, quicken
from flexspec_mq.errors import BrokerError

_log = logging.getLogger(__name__)

_PORTS = range(20_000, 32_000)
_PORTS_TRIED = 5
_CHATTER = (b"Received ", b"Sending ", b"\t", b"Warning: ACL pattern ")
"""Beginnings of lines that nobody is told of: those of level debug that come with every message, and a warning of
each access rule that all devices share."""
_BRIDGE_UP = b"Bridge "
"""Beginning of the lines that tell how a bridge connects, and then subscribes."""
_LAST_LINES = 3
"""Lines of the log in the error of a broker that ended."""
_OTHER_FILES = 64
"""Files that are open beside the connections."""
_SYSTEM = "/usr/sbin:/usr/local/sbin:/sbin"


class PrivateBroker:
    """A Mosquitto of our own, as a child process in a private directory.

    ``with PrivateBroker() as broker: … broker.port``. On leaving it is stopped and its directory removed; it
    also ends with the thread that started it, so a crash leaves no broker behind.

    Args:
        settings: port 0 finds a free one, and keeps it across `kill` and `start`.
        heard: called with each line of Mosquitto's log that does not come with every message, on a thread of its
            own.
        packets: called with the lines that say that a packet came, on the same thread.
        directory: folder for its files, which then stay; None is a temporary one.

    Attributes:
        settings: settings of the broker, with the port in use.
    """

    def __init__(
        self,
        settings: BrokerSettings | None = None,
        *,
        heard: Callable[[str], None] | None = None,
        packets: Callable[[bytes], None] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.settings = settings or BrokerSettings()
        self._any_port = self.settings.port == 0
        self._heard = heard
        self._packets = packets
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._listener: threading.Thread | None = None
        self._woken = threading.Event()
        self._kept = directory
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._slow_bridge = False

    @property
    def host(self) -> str:
        """Address to connect to."""
        return self.settings.host

    @property
    def port(self) -> int:
        """Port to connect to."""
        return self.settings.port

    @property
    def pid(self) -> int | None:
        """Process number of Mosquitto; None while it does not run."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def start(self, *, timeout: float = 2 * waiting.CONNECT) -> None:
        """Start Mosquitto and wait until it answers.

        Raises:
            BrokerError: not installed, the port is taken, or it ended or kept silent; with its last words.
        """
        if self._process is not None:
            raise BrokerError("the broker runs already")
        if self._directory is None:
            self._directory = self._kept or Path(tempfile.mkdtemp(prefix="flexspec-broker-"))
        for tries_left in reversed(range(_PORTS_TRIED if self._any_port else 1)):
            if self._any_port:
                self.settings = replace(self.settings, port=free_port(self.settings.host))
            try:
                self._launch(self._directory, timeout)
            except BrokerError:
                if not tries_left:
                    self._remove()
                    raise
            except BaseException:  # Ctrl-C while it starts
                self.kill()
                self._remove()
                raise
            else:
                self._any_port = False  # clients know the port now
                return

    def stop(self, *, timeout: float = waiting.CONNECT) -> None:
        """End it in order; its files stay for `start`. Killed if it takes longer than `timeout` seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would: with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP for a broker that hangs."""
        if self._process is not None:
            self._process.send_signal(number)

    def end_connection(self, host: str, port: int) -> bool:
        """End the connection from an address, as Mosquitto does for users only; see `children.end_connection`."""
        return self._process is not None and end_connection(self._process.pid, host, port)

    def close(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        self._remove()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end and return its exit code; None after `timeout` seconds, or once `wake` is called."""
        if self._process is None:
            return 0
        self._woken.wait(timeout)
        self._woken.clear()
        return self._process.poll()

    def wake(self) -> None:
        """End the wait for its end; on any thread."""
        self._woken.set()

    def let_in(self, users: tuple[User, ...]) -> None:
        """Have it know these users instead: who is no more among them, or has another password, is disconnected.

        Certificates and the list of revoked ones are read again too. It does so within a second.
        """
        self.settings = replace(self.settings, users=users)
        if self._directory is not None:
            render_users(users, self._directory)
            self.signal(signal.SIGHUP)

    def _launch(self, directory: Path, timeout: float) -> None:
        if _answers(self.settings, None):
            raise BrokerError(
                f"something listens on {self.settings.host}:{self.settings.port} already",
                hint="stop it, or give another port; port 0 finds a free one",
            )
        _allow_files(self.settings.connections + _OTHER_FILES)
        self._process = subprocess.Popen(
            [mosquitto(), "-c", str(render(self.settings, directory))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509  one prctl, no lock, no allocation
        )
        self._listener = threading.Thread(
            target=self._listen, args=(self._process,), daemon=True, name="mosquitto's log"
        )
        self._listener.start()
        deadline = time.monotonic() + timeout
        while not _answers(self.settings, self.settings.own_socket):
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                fate = (
                    f"ended with code {code}" if code is not None else f"did not answer within {timeout:g} s"
                )
                raise BrokerError(
                    f"mosquitto on {self.settings.host}:{self.settings.port} {fate}", hint=self.last_words()
                )
            time.sleep(0.01)

    def last_words(self) -> str:
        """The end of the log of a Mosquitto that has ended, for the hint of an error; empty if it said nothing."""
        if self._listener is not None:
            self._listener.join(waiting.FAREWELL)  # the pipe is closed, so it reads what is left
        last = "; ".join(self._last)
        return f"it said: {last}" if last else ""

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        with process.stdout as pipe:
            for line in pipe:
                # Each begins with the second of its time; whoever hears it has a clock.
                message = line.partition(b": ")[2].rstrip()
                if self._packets is not None and message.startswith(PACKETS):
                    self._packets(message)
                if message.startswith(_BRIDGE_UP):
                    self.quicken_bridge()
                if not message.startswith(_CHATTER):
                    text = message.decode("utf-8", "replace")
                    self._last.append(text)
                    if self._heard is not None:
                        self._heard(text)
        process.wait()
        self.wake()

    def quicken_bridge(self) -> None:
        """Set options of a bridge's connections: Mosquitto's `set_tcp_nodelay` is for clients that connect to it."""
        bridge, pid = self.settings.bridge, self.pid
        if bridge is None or pid is None:
            return
        try:
            quicken(pid, bridge.to.port, 5 * waiting.ANSWER)
        except OSError as error:
            said = f"Warning: a round over the bridge takes 40 ms more, as its socket is not ours ({error.strerror})."
            if self._heard is not None and not self._slow_bridge:
                self._heard(said)
            self._slow_bridge = True

    def _remove(self) -> None:
        if self._directory is not None:
            if self._kept is None:
                shutil.rmtree(self._directory)
            self._directory = None


def mosquitto() -> str:
    """Path of Mosquitto, also where ordinary users' PATH does not look.

    Raises:
        BrokerError: it is not installed; names the Debian package.
    """
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SYSTEM)
    if path is None:
        raise BrokerError("mosquitto is not installed", hint="apt install mosquitto")
    return path


def free_port(host: str) -> int:
    """Find a port that nobody listens on, below those of outgoing connections, so that it stays free for a while."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise BrokerError(f"cannot listen on {host}: {error.strerror}") from None
            else:
                return port


def _allow_files(wanted: int) -> None:
    """Let this process, and with it Mosquitto, have so many files open, of which a shell allows 1,024."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if allowed < wanted:
        _log.warning(
            "Mosquitto may have %d open files, which is less than `connections` needs: clients beyond that are "
            "refused; raise the limit (`ulimit -Hn`, LimitNOFILE= of systemd) or lower `connections`",
            allowed,
        )


def _answers(settings: BrokerSettings, own: Path | None) -> bool:
    """Whether somebody listens; on the Unix socket if there is one, which Mosquitto opens last and without TLS."""
    host = settings.host
    where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
    try:
        if own is None:
            socket.create_connection((where, settings.port), timeout=2 * waiting.ANSWER).close()
        else:
            with socket.socket(socket.AF_UNIX) as tried:
                tried.connect(str(own))
    except OSError:
        return False
    return True
