"""Schedules: requests and faults with their times, drawn from a seed, and the shortest one that still fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

DEVICES = ("d1", "d2")
WORKERS = ("w1", "w2")
Mode = Literal["plain", "hold", "provisional", "deliver"]

FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "reset": ((*DEVICES, *WORKERS), "loses its connection"),
    "stall": ((*DEVICES, *WORKERS), "is cut off both ways for {seconds:.1f} s"),
    "stall up": ((*DEVICES, *WORKERS), "sends into the void for {seconds:.1f} s"),
    "stall down": ((*DEVICES, *WORKERS), "receives nothing for {seconds:.1f} s"),
    "slow": ((*DEVICES, *WORKERS), "has a slow network for {seconds:.1f} s"),
    "lossy": ((*DEVICES, *WORKERS), "loses, doubles and reorders packets for {seconds:.1f} s"),
    "power": ((*DEVICES, *WORKERS), "loses power for {seconds:.1f} s"),
    "restart": ((*DEVICES, *WORKERS), "is restarted after {seconds:.1f} s"),
    "clock": ((*DEVICES, *WORKERS), "has its clock set by {value:.0f} s"),
    "drift": ((*DEVICES, *WORKERS), "has a clock that gains {value:.3f} s in one"),
    "full": (DEVICES, "has a full disk for {seconds:.1f} s"),
    "slow disk": (DEVICES, "has slow threads for {seconds:.1f} s"),
    "engine": (WORKERS, "cannot compute {value:.0f} times"),
    "broker": (("broker",), "is down for {seconds:.1f} s"),
    "broker forgets": (("broker",), "is killed, and comes back with nothing after {seconds:.1f} s"),
}
"""Kinds of faults, whom they hit, and the words for them."""


class Ask(NamedTuple):
    """A user asks for a text.

    Attributes:
        at: when.
        device: whom.
        number: number of the request, which names prompt and seed.
        mode: offline mode; plain has no key.
        limit: tokens at most.
        wait: patience in seconds; 0 names none.
        leaves: seconds after which the user goes; 0 stays.
        away: seconds until the user comes back.
    """

    at: float
    device: str
    number: int
    mode: Mode
    limit: int
    wait: float = 0.0
    leaves: float = 0.0
    away: float = 0.0

    def __str__(self) -> str:
        patience = f", who waits {self.wait:.0f} s" if self.wait else ""
        goes = f", goes after {self.leaves:.1f} s and is back {self.away:.0f} s later" if self.leaves else ""
        return (
            f"{self.at:8.3f} s  a user{patience}{goes} asks {self.device} for text {self.number} "
            f"({self.mode}, {self.limit} tokens)"
        )


class Fault(NamedTuple):
    """A fault.

    Attributes:
        at: when.
        who: whom it hits.
        kind: see `FAULTS`.
        seconds: how long it lasts.
        value: how strong it is.
    """

    at: float
    who: str
    kind: str
    seconds: float = 0.0
    value: float = 0.0

    def __str__(self) -> str:
        words = FAULTS[self.kind][1].format(seconds=self.seconds, value=self.value)
        return f"{self.at:8.3f} s  {self.who} {words}"


Step = Ask | Fault


class Schedule(NamedTuple):
    """A schedule; its `seed` also draws all that is left to chance.

    Attributes:
        seed: seed of chance.
        steps: steps, in order.
    """

    seed: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def drawn(seed: int, texts: int = 16) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"schedule {seed}")
    lasts = rng.choice((5.0, 20.0, 60.0))
    faults = rng.choice((0, texts // 2, texts, 4 * texts))
    steps: list[Step] = [_ask(rng, seed, number, lasts) for number in range(texts)]
    steps += [_fault(rng, lasts) for _ in range(faults)]
    return Schedule(seed, tuple(sorted(steps, key=lambda step: step.at)))


def _ask(rng: random.Random, seed: int, number: int, lasts: float) -> Ask:
    mode: Mode = rng.choice(("plain", "hold", "hold", "provisional", "deliver"))
    leaves = rng.uniform(0.01, 3.0) if mode != "plain" and rng.random() < 0.3 else 0.0
    return Ask(
        at=rng.uniform(0.0, lasts),
        device=rng.choice(DEVICES),
        number=1000 * seed % 10**9 + number,
        mode=mode,
        limit=rng.choice((1, 4, 12, 24)),
        wait=rng.choice((0.0, 0.0, 5.0, 30.0)),
        leaves=leaves,
        away=rng.uniform(0.1, 30.0) if leaves else 0.0,
    )


def _fault(rng: random.Random, lasts: float) -> Fault:
    kind = rng.choice(tuple(FAULTS))
    value = {
        "clock": rng.choice((-1, 1)) * 10 ** rng.uniform(0, 8),
        "drift": rng.uniform(-0.05, 0.05),
        "engine": rng.randint(1, 3),
    }.get(kind, 0.0)
    seconds = 10 ** rng.uniform(-1, 1.3)
    return Fault(rng.uniform(0.0, lasts), rng.choice(FAULTS[kind][0]), kind, seconds, value)


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], tries: int = 200) -> tuple[Schedule, int]:
    """The shortest schedule found that still fails, by delta debugging (A. Zeller, 1999), and how often it was run."""
    steps, parts, runs = list(schedule.steps), 2, 0
    while len(steps) > 1 and runs < tries:
        size = -(-len(steps) // parts)
        for begin in range(0, len(steps), size):
            fewer = steps[:begin] + steps[begin + size :]
            runs += 1
            if fewer and fails(Schedule(schedule.seed, tuple(fewer))):
                steps, parts = fewer, max(parts - 1, 2)
                break
            if runs >= tries:
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(steps))
    return Schedule(schedule.seed, tuple(steps)), runs


def faults_of(steps: Sequence[Step]) -> int:
    """Number of faults among steps."""
    return sum(isinstance(step, Fault) for step in steps)
