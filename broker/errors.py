"""What can go wrong with a broker of ours."""

from __future__ import annotations


class BrokerError(Exception):
    """The broker cannot be configured, started or used.

    Args:
        message: what happened, in one sentence.
        hint: what to do about it; empty when nothing sensible can be said.
    """

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class RefusedError(BrokerError):
    """What was asked for cannot be done as it was asked."""

    exit_code = 2


class UnsafeError(RefusedError):
    """The settings would open the broker to strangers."""
