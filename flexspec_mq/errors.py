"""Every error that a user can meet.

::

    FlexSpecError                 exit code 1
    ├── UsageError                2   what the user asked for cannot be done: prompt, flag, path
    ├── ModelError                3   a model cannot be loaded, or is not what it should be
    │   ├── FingerprintError      3   two tokenizers, or a base and a draft, differ by contents
    │   ├── HeadError             3   a head that cannot be used: damaged, of another base, touching what it must not
    │   └── FetchError            3   a head that cannot be had now
    ├── LinkError                 4   the broker, or for the chat the API: unreachable, refusing, too old
    │   ├── LinkDown              4   not connected now; the caller may wait for the next link
    │   ├── LinkRefused           4   the broker said no: credentials, access rules, protocol version
    │   ├── PublishRefused        4   one publish was refused; says whether nobody subscribes
    │   └── LostRace              4   somebody else published a catalogue at the same time
    ├── BrokerError               4   a broker of ours cannot be configured, started or stopped
    ├── WorkerError               5   no worker, or the worker said no
    │   ├── WorkersBusy           5   all workers have too much to do
    │   └── NoCatalogue           5   the family's catalogue has not come yet
    ├── ProtocolError             6
    │   ├── LocalProtocolError    6   our bug: crash
    │   └── RemoteProtocolError   6   the peer's: count, answer, survive
    ├── RecordError               1   what is remembered of a family's catalogue cannot be read or kept
    ├── TimeIsOver                7   the time that the user gave a text was over before its end
    └── Cancelled                 130 the user stopped it

The message says what happened, `hint` what to do about it.
"""

import sys
from typing import ClassVar


class FlexSpecError(Exception):
    """Base of all errors of this project.

    Args:
        message: event in one sentence.
        hint: advice to the user; empty when nothing sensible can be said.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class UsageError(FlexSpecError):
    """A request of the user's that cannot be done."""

    exit_code = 2


class GrammarError(UsageError):
    """A grammar that cannot be used, or a text that is none of it.

    Attributes:
        ms: milliseconds of processor time that it took to find that out.
    """

    def __init__(self, message: str, *, hint: str = "", ms: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.ms = ms


class ModelError(FlexSpecError):
    """A model cannot be loaded, or is not what it should be."""

    exit_code = 3


class FingerprintError(ModelError):
    """Two tokenizers, or a base model and a draft, differ by their contents."""


class LinkError(FlexSpecError):
    """Something between us and the broker, or between the chat and the API."""

    exit_code = 4


class LinkDown(LinkError):
    """There is no connection now."""


class LinkRefused(LinkError):
    """The broker answered, and said no."""


class PublishRefused(LinkError):
    """The broker refused one publish, or knows nobody who subscribes to its topic.

    Attributes:
        reason_code: MQTT 5 reason code; 0x10 means that nobody subscribes, 0x87 that access rules forbid it.
    """

    def __init__(self, message: str, *, reason_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason_code = reason_code


class BrokerError(FlexSpecError):
    """A broker of ours cannot be configured, started or stopped."""

    exit_code = 4


class WorkerError(FlexSpecError):
    """No worker serves the version, or the worker refused the session."""

    exit_code = 5


class WorkersBusy(WorkerError):
    """Workers said that they have too much to do, and none took the session."""


class ServerRefused(FlexSpecError):
    """The server of models behind a worker will not do what it is asked, however often."""


class ProtocolError(FlexSpecError):
    """A rule of the session protocol was broken."""

    exit_code = 6


class LocalProtocolError(ProtocolError):
    """By us: a bug. Nothing sensible can go on."""


class RemoteProtocolError(ProtocolError):
    """By the peer: malformed, truncated, oversized, another version. Counted, answered, survived."""


class TimeIsOver(FlexSpecError):
    """The user's time for a text ended before the text did. The text until then is right."""

    exit_code = 7


class Cancelled(FlexSpecError):
    """The user stopped it."""

    exit_code = 130


def how_to_install(extras: str = "", distribution: str = "") -> str:
    """The pip command for extras, separated by commas, or for another distribution here: the name of its folder."""
    import json
    from importlib import metadata

    installed = next(iter(metadata.distributions(name="flexspec-mq")), None)
    origin = json.loads((installed and installed.read_text("direct_url.json")) or "{}")
    pip = f"{sys.executable} -m pip install"
    if "archive_info" in origin and not distribution:
        return f"{pip} 'flexspec-mq[{extras}] @ {origin['url']}'"
    if installed and "dir_info" not in origin and distribution in {"", "flexspec_mq_default"}:
        beside = f"--find-links {origin['url'].rpartition('/')[0]} " if origin else ""
        return f"{pip} {beside}{distribution.replace('_', '-') or f'flexspec-mq[{extras}]'!r}"
    what = f"-e ./{distribution}" if distribution else f"'.[{extras}]'" if extras else "."
    return f"in a checkout of FlexSpec MQ: {pip} {what}"
