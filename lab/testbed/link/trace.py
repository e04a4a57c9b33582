"""Trace files in mahimahi's format: when a link could deliver.

A line is a whole number of milliseconds, not falling. Each line is one opportunity to deliver 1,500 bytes; equal
numbers are several opportunities at once. A file may be compressed by gzip (``.gz``). At its end the trace
begins anew. The format is that of Netravali et al., Mahimahi: Accurate Record-and-Replay for HTTP, USENIX ATC 2015,
``mm-link``.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from flexspec_mq.errors import UsageError

MAX_LINES = 10_000_000
"""More are refused; at 1,500 bytes each, that is ten minutes at 200 Mbit/s."""


def read_trace(path: Path) -> tuple[int, ...]:
    """Read a trace.

    Returns:
        Milliseconds, not falling; the last one is the period and above 0.

    Raises:
        UsageError: it cannot be read or is no trace; names the line.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    except UnicodeDecodeError:
        raise _no_trace(path, "it is not text") from None
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the trace {path} cannot be read: {why}") from None
    times: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if not line.strip().isdigit():
            raise _no_trace(path, f"line {number} is no whole number of milliseconds")
        times.append(int(line))
        if len(times) > 1 and times[-1] < times[-2]:
            raise _no_trace(path, f"line {number} goes back in time")
        if len(times) > MAX_LINES:
            raise _no_trace(path, f"it has more than {MAX_LINES:,} lines")
    if not times or not times[-1]:
        raise _no_trace(path, "it needs at least one opportunity after 0 ms")
    return tuple(times)


def _no_trace(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is no trace: {why}", hint="a trace has one number of milliseconds a line, see lab/README.md"
    )
