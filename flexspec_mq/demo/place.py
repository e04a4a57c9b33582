"""Where the demo's processes run: all on loopback, or device and cloud with an emulated network between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flexspec_mq.link.netns import NetnsLink, netns_link

_NO_FILE = ("--config", os.devnull)
"""The demo runs with its own settings, whatever the user's files say."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where device and cloud are.

    Attributes:
        link: between them; None on loopback.
    """

    link: NetnsLink | None = None

    @property
    def host(self) -> str:
        """The broker's address, as both sides reach it."""
        return "127.0.0.1" if self.link is None else self.link.address_b

    @property
    def listen(self) -> Sequence[str]:
        """Flags that make the broker listen there. Nothing but the other side can reach a side of a link."""
        return () if self.link is None else ("--host", self.host, "--insecure-anywhere")

    @property
    def note(self) -> str:
        """What to say behind the broker's address."""
        return "" if self.link is None else f", the device behind {self.link.plan.name}"

    def device(self, module: str, *arguments: str) -> list[str]:
        """The command that runs one of our programs on the device."""
        command = _python(module, arguments)
        return command if self.link is None else self.link.inside("a", command)

    def cloud(self, module: str, *arguments: str) -> list[str]:
        """The command that runs one of our programs in the cloud."""
        command = _python(module, arguments)
        return command if self.link is None else self.link.inside("b", command)

    def summary(self) -> list[str]:
        """What went over the link."""
        return [] if self.link is None else self.link.counters.lines()


@contextmanager
def place(profile: str | None, seed: int) -> Iterator[Place]:
    """Loopback, or a link of a built-in profile for as long as the block lasts.

    Args:
        profile: its name; None is loopback.
        seed: of the link.

    Raises:
        UsageError: no such profile, no root, no TUN device.
    """
    if profile is None:
        yield Place()
        return
    with netns_link(profile, seed) as link:
        yield Place(link)


def _python(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments, *_NO_FILE]
