"""The process that owns a link of namespaces: makes them, forwards between them, removes them.

Started by `netns`, which speaks to it in lines: first the plan, in JSON, then ``counters`` or ``seek SECONDS`` as
often as it likes. Each is answered by one line of JSON. When its standard input ends, for whatever reason, or on
SIGTERM, it ends all processes in its namespaces and removes them; so a caller that is killed leaves nothing behind.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

import msgspec

from flexspec_mq.errors import FlexSpecError
from lab.testbed.link import namespaces
from lab.testbed.link.forward import Forwarder
from lab.testbed.link.profiles import LinkPlan

ADDRESS_A, ADDRESS_B = "10.77.0.1", "10.77.0.2"
"""The same in every link: its namespaces have no other network."""
_PREFIX = "/30"
_MAX_PLAN = 256 * 1024 * 1024


class Ready(msgspec.Struct):
    """The first answer: either names, or an error."""

    name_a: str = ""
    name_b: str = ""
    error: str = ""
    hint: str = ""


def main() -> int:
    """Serve one link on standard input and output; returns the exit code."""
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    names: tuple[str, ...] = ()
    tuns: list[int] = []
    try:
        plan = msgspec.json.decode(sys.stdin.buffer.readline(_MAX_PLAN), type=LinkPlan)
        names = namespaces.new_names()
        for name, address in zip(names, (ADDRESS_A, ADDRESS_B), strict=True):
            namespaces.add(name)
            tuns.append(namespaces.open_tun(name, address + _PREFIX))
        forwarder = Forwarder(plan, tuns[0], tuns[1])
        _answer(Ready(*names))
        os.set_blocking(0, False)
        forwarder.run(0, lambda: _serve(forwarder))
    except FlexSpecError as error:
        _answer(Ready(error=error.message, hint=error.hint))
        return error.exit_code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for tun in tuns:
            os.close(tun)
        for name in names:
            namespaces.remove(name)
    return 0


def _serve(forwarder: Forwarder) -> bool:
    """Answer what has come on standard input; False at its end."""
    try:
        asked = os.read(0, 4096)
    except BlockingIOError:
        return True
    for line in asked.splitlines():
        word, _, value = line.partition(b" ")
        if word == b"seek":
            forwarder.seek(float(value))
        _answer(forwarder.counters())
    return bool(asked)


def _answer(message: msgspec.Struct) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(message) + b"\n")


def terminated(_number: int, _frame: FrameType | None) -> None:
    """Handler of SIGTERM: end in order, with the exit code that a shell gives to it."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
