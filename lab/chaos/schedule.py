"""Texts that a run asks for and faults, and when: a pure function of the seed and the sizes.

Times are seconds from the beginning. Faults stand in lanes. Within a lane they come one after the other, so that at
most one of a version's workers is broken at a time; lanes know nothing of each other. A fault that is late, as the one
before it took its time, begins as soon as that is healed.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lab.benchmarks.exact.grammars import Constraint
from lab.benchmarks.exact.sampling import Params

EDGES = ("e1", "e2", "e3")
WORKERS = ("w1", "w2")
EXTRA = "w3"
"""The worker that joins and leaves."""
SECONDS_A_FAULT = 1.7
_LEAST_SECONDS = 6.0
_FIRST = 1.0
_SAMPLING = (
    *(Params(0.0, 0, 1.0, 0), Params(0.0, 0, 1.0, 0), Params(0.7, 0, 1.0, 0), Params(0.7, 50, 0.95, 0)),
    *(Params(1.0, 0, 1.0, 0), Params(1.0, 0, 0.95, 0, min_p=0.05), Params(1.0, 50, 1.0, 0)),
    Params(0.0, 0, 1.0, 0, repetition_penalty=1.2, logit_bias={40: 5.0, 7: -100.0}),
    Params(0.7, 0, 0.95, 0, frequency_penalty=0.7, presence_penalty=-0.3),
    Params(1.0, 0, 1.0, 0, repetition_penalty=0.9, frequency_penalty=-0.2, presence_penalty=1.5),
)
_OFFLINE = ("hold", "provisional", "deliver")
"""Offline modes of texts."""
_QUESTION = 24
"""Tokens of a question that goes on from an earlier answer."""

_HOST = {"kill": 2.0, "stop": 12.0, "cut": 0.0, "blackhole": 10.0, "up": 8.0, "down": 8.0, "clock": 6.0}
_DEVICE = {
    "kill": 1.0,
    "stop": 5.0,
    "cut": 0.0,
    "blackhole": 6.0,
    "away": 40.0,
    "up": 4.0,
    "down": 4.0,
    "clock": 6.0,
}
_LANES = {
    "worker": (0.28, {**_HOST, "join": 6.0}),
    "edge": (0.4, {**_DEVICE, "storm": 10.0}),
    "broker": (0.08, {"kill": 8.0, "stop": 6.0}),
    "disk": (0.04, {"full": 8.0}),
    "attack": (0.2, {"attack": 8.0}),
}
"""Share of all faults, and the longest time of each kind in seconds: until it is mended, not until that shows.

Kinds: ``kill -9`` and a start after it, SIGSTOP, all connections cut, nothing carried either way, for long too
(``away``), or one way only; the clock moved by a day; a worker more, which drains at the end; messages dropped, doubled
and late at a device.
"""

KINDS = tuple(sorted({kind for _, kinds in _LANES.values() for kind in kinds}))
"""Names of all kinds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault or an attack.

    Attributes:
        number: names it.
        lane: faults of one lane exclude each other.
        kind: name of what happens.
        target: daemon, ``broker``, ``disk``, or way of an attack.
        at: when it begins, at the earliest.
        seconds: how long it lasts.
    """

    number: int
    lane: str
    kind: str
    target: str
    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """A text that is asked for.

    Attributes:
        number: names it.
        at: when it is asked for, at the earliest.
        edge: whom.
        prompt: token ids; behind the earlier text, where it goes on from one.
        after: number of the text that it goes on from, as the next turn of a conversation does.
        sampling: sampling parameters; no two texts have the same seed.
        limit: tokens at most.
        ignores_eos: goes on to the limit.
        patient: names its patience.
        offline: offline mode.
        constraint: texts that it allows; None are all.
    """

    number: int
    at: float
    edge: str
    prompt: tuple[int, ...]
    after: int | None
    sampling: Params
    limit: int
    ignores_eos: bool
    patient: bool
    offline: str
    constraint: Constraint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each.

    Attributes:
        answers: texts.
        faults: faults and attacks together.
        least, most: bounds of the texts' limits.
        most_prompt: tokens of a prompt; of longer ones the end is kept.
        edges: devices.
        kinds: kinds of faults; none are all.
        ways: ways of attacks.
    """

    answers: int
    faults: int
    least: int
    most: int
    most_prompt: int
    edges: tuple[str, ...] = EDGES
    kinds: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time in which all of it begins."""
        return max(_LEAST_SECONDS, SECONDS_A_FAULT * self.faults)


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that is to happen."""

    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...]


def schedule(
    seed: int, sizes: Sizes, prompts: Sequence[Sequence[int]], constraints: Sequence[Constraint]
) -> Schedule:
    """Draw a schedule; half of the texts have one of the constraints."""
    return Schedule(
        tuple(_asks(random.Random(f"asks {seed}"), sizes, prompts, constraints)),
        tuple(_faults(random.Random(f"faults {seed}"), sizes)),
    )


def _asks(
    rng: random.Random, sizes: Sizes, prompts: Sequence[Sequence[int]], constraints: Sequence[Constraint]
) -> Iterator[Ask]:
    times = sorted(rng.uniform(0.0, sizes.seconds) for _ in range(sizes.answers))
    for number, at in enumerate(times):
        prompt = tuple(rng.choice(prompts))[-sizes.most_prompt :]
        after = rng.randrange(number) if number and rng.random() < 0.3 else None
        constraint = rng.choice(constraints) if rng.random() < 0.5 else None
        yield Ask(
            number=number,
            at=at,
            edge=rng.choice(sizes.edges),
            prompt=prompt if after is None else prompt[-_QUESTION:],
            after=after,
            sampling=replace(rng.choice(_SAMPLING), seed=rng.getrandbits(40) << 20 | number),
            limit=rng.randint(sizes.least, sizes.most),
            ignores_eos=constraint is None and rng.random() < 0.5,
            patient=rng.random() < 0.7,
            offline=rng.choice(_OFFLINE),
            constraint=constraint,
        )


def _faults(rng: random.Random, sizes: Sizes) -> Iterator[Fault]:
    """Each kind of a lane comes once before any comes twice, as do workers, devices and ways of attack."""
    drawn: list[tuple[float, str, str, str, float]] = []
    kinds = {lane: [kind for kind in _LANES[lane][1] if kind in (sizes.kinds or (kind,))] for lane in _LANES}
    kinds["attack"] = kinds["attack"] if sizes.ways else []
    shares = {lane: share for lane, (share, _) in _LANES.items() if kinds[lane]}
    whole, left = sum(shares.values()), sizes.faults
    for lane, share in shares.items():
        many = left if lane == list(shares)[-1] else min(left, round(sizes.faults * share / whole))
        left -= many
        longest = _LANES[lane][1]
        targets = {"worker": WORKERS, "edge": sizes.edges, "attack": sizes.ways}.get(lane, (lane,))
        chosen = zip(_bag(rng, kinds[lane]), _bag(rng, targets), strict=False)
        for kind, target in islice(chosen, many):
            most = min(longest[kind], sizes.seconds / 4)
            place = f"{lane} {target}" if lane == "edge" else lane
            at = rng.uniform(_FIRST, sizes.seconds)
            drawn.append((at, place, kind, EXTRA if kind == "join" else target, rng.uniform(0.2, 1.0) * most))
    for number, (at, place, kind, target, seconds) in enumerate(sorted(drawn)):
        yield Fault(number, place, kind, target, at, seconds)


def _bag(rng: random.Random, things: Sequence[str]) -> Iterator[str]:
    order: list[str] = []
    while True:
        if not order:
            order = rng.sample(things, len(things))
        yield order.pop()
