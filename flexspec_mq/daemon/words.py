"""Figures in words."""

import time


def count(number: int, what: str) -> str:
    """A number of things, such as ``1 token`` or ``2,000 tokens``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def figure(value: float) -> str:
    """A figure to three digits, without powers of ten."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """A time for people."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400} days"


def span(ms: float) -> str:
    """A time of a round for people; `ms` is in milliseconds."""
    return f"{ms:.{1 if ms < 10 else 0}f} ms" if ms < 1000 else duration(ms / 1000)


def moment(epoch: float) -> str:
    """A time by this machine's clock and zone."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))
    except (OverflowError, OSError, ValueError):
        return str(epoch)
