"""What commands say in the same words."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from broker.deployment.folder import Added


def say(text: str) -> None:
    """A line for people."""
    sys.stdout.write(text + "\n")


def tell_new_keys(changed: Iterable[Added]) -> None:
    """The deployment has new keys, and so these clients need their new files."""
    say("the deployment has new keys")
    for one in changed:
        say(f"{one.name} needs its new files, and a restart: {one.folder}")
