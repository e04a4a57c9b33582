"""Logs of the daemons on standard error: for people on a terminal, one JSON object a line elsewhere.

The only module that knows structlog. Everything else logs with `logging` and arguments of the message, and
names what it is about with ``extra`` (`NAMES`), or by beginning the message as `_BEGINNINGS` lists. These names
join the lines of an edge and a worker: a session is known by ``edge`` and ``session`` on both.

An error of ours that a user can meet is logged as its message; bugs, and all errors at level debug, with a traceback.
Logs hold no text of a user: a traceback is printed without local variables, and extras with other names are
left out.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TextIO

from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.progress import say, stages
from flexspec_mq.daemon.streams import lost_lines
from flexspec_mq.errors import FlexSpecError, LocalProtocolError
from flexspec_mq.settings import Section, Setting, give

NAMES = ("edge", "worker", "session", "version", "attempt")
"""Extras of a record that are kept."""

_BEGINNINGS = {
    "session %s/%d": ("edge", "session"),
    "session %s/%s": ("edge", "session"),
    "session %d": ("session",),
    "edge %s": ("edge",),
    "worker %s": ("worker",),
}
"""How a message that is about one session, edge or worker begins, and what its first arguments then are."""

_LEVELS = ("debug", "info", "warning", "error")
_program = logging.getLogger("flexspec")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions(Section):
    """Level and format of the log."""

    log_level: Annotated[str, Setting(help="least important lines to log", choices=_LEVELS)] = "warning"
    log_format: Annotated[
        str,
        Setting(
            help="auto is human on a terminal and json elsewhere; a json that is asked for also holds for "
            "errors and stages",
            choices=("auto", "human", "json"),
        ),
    ] = "auto"


class _Verbose(argparse.Action):
    """``--verbose``: the level info, as a flag of that name would give it."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, *_values: Any) -> None:
        """Set the level."""
        give(namespace, "log_level", "info", "--verbose")


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``; the flags of `LogOptions` are there already."""
    parser.add_argument("--verbose", action=_Verbose, nargs=0, help="log more: as --log-level info")


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is at the time of each line; a test may have replaced it meanwhile."""

    def __init__(self, *, everything: bool) -> None:
        super().__init__(sys.stderr)
        self.everything = everything
        self.level_before = logging.getLogger().level

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; and, once that is possible again, how many could not be."""
        self.stream = sys.stderr
        super().emit(record)
        if lost := lost_lines():
            _program.warning("%d lines before this could not be written", lost)


def configure(options: LogOptions, **ids: str) -> None:
    """Log to standard error from now on, in place of what an earlier call set.

    Args:
        options: level and format.
        ids: ids of this process, ``edge`` or ``worker``; on each line that names no other.
    """
    import structlog  # 0.1 s of start-up, which --help need not take

    reset()
    handler = _Handler(everything=options.log_format == "json")
    terminal = sys.stderr.isatty()
    render: list[Any]
    if options.log_format == "human" or (options.log_format == "auto" and terminal):
        # The default prints tracebacks with local variables where rich is installed; those may hold a prompt.
        plain = structlog.dev.plain_traceback
        render = [
            _for_a_terminal,
            structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain, timestamp_key="time"),
        ]
    else:
        render = [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _in_order,
            structlog.processors.JSONRenderer(default=str),
        ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _from_record,
                _expected,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(allow=NAMES),
                lambda _logger, _method, event: {**ids, **event},
            ],
            pass_foreign_args=True,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(options.log_level.upper())


def reset() -> None:
    """Take back what `configure` did."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
        root.setLevel(handler.level_before)


def log_error(error: FlexSpecError) -> bool:
    """Log the error that ends the program, if all of standard error shall be JSON; whether it shall."""
    if not _everything():
        return False
    _program.error("%s", error.message + (f" ({error.hint})" if error.hint else ""))
    return True


@contextmanager
def logged_stages() -> Iterator[Callable[[str], None]]:
    """As `stages`; but records of the log if all of standard error shall be JSON."""
    with contextlib.nullcontext(tell) if _everything() else stages() as show:
        yield show


def tell(text: str) -> None:
    """A line for people on standard error; a record of the log if all of it shall be JSON."""
    if _everything():
        _program.info("%s", text)
    else:
        say(text)


def _everything() -> bool:
    return any(
        isinstance(handler, _Handler) and handler.everything for handler in logging.getLogger().handlers
    )


def _for_a_terminal(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show control characters in words that came from others."""
    return {**event, "event": printable(str(event["event"]))}


def _expected(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the message of an error that a user can meet in place of its traceback."""
    record: logging.LogRecord = event["_record"]
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, FlexSpecError) or isinstance(error, LocalProtocolError):
        return event
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        return event
    event.pop("exc_info", None)
    # The formatter takes a copy of the record; other handlers still see the traceback.
    record.exc_info = record.exc_text = None
    event["error"] = error.message
    return event


def _in_order(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = ("time", "level", "logger", *NAMES, "message")
    return {key: event[key] for key in (*first, *(set(event) - set(first))) if key in event}


def _from_record(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the time, and the names that the arguments of a message give."""
    record: logging.LogRecord = event["_record"]
    created = datetime.fromtimestamp(record.created, UTC)
    event["time"] = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    arguments = event.pop("positional_args")
    if isinstance(arguments, tuple) and isinstance(record.msg, str):
        for beginning, names in _BEGINNINGS.items():
            if record.msg.startswith(beginning):
                event.update(zip(names, arguments, strict=False))
                break
    return event
