"""The one source of time and of chance in a process, which a simulation replaces: its event loop's, and `chance`."""

import asyncio
import random
import time

chance: random.Random = random.SystemRandom()
"""The operating system's, as names and seeds must not be guessed."""


def now() -> float:
    """Seconds on the clock of the event loop that runs here, or of the machine where none does."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def wall() -> float:
    """Seconds since the Unix epoch."""
    return time.time()


def bits(count: int) -> int:
    """A number of so many random bits."""
    return chance.getrandbits(count)


def name(size: int) -> str:
    """A name of so many random bytes, in hex."""
    return chance.randbytes(size).hex()
