"""Profiles of links: the figures, each with its source, and the plan of one run.

The figures are data: `profiles.toml` beside this module, or a file of the user in the same form.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from flexspec_mq.demo.proxy import WAYS, Way
from flexspec_mq.errors import UsageError

MTU = 1500
"""Bytes of an IP packet on the link at most; also what one opportunity of a trace carries."""


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and the key of its source."""

    value: Annotated[float, msgspec.Meta(ge=0)]
    source: str


class WayFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of a way of a link in a state. Units are in the names; kB are 1,000 bytes."""

    delay_ms: Figure
    jitter_ms: Figure
    rate_mbit: Figure
    loss_percent: Figure
    queue_kb: Figure


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state of the channel, shared by both ways.

    Attributes:
        dwell_s: mean time in it, exponentially distributed; None where the state is the only one.
        next: weight of each state that may follow; empty means all others alike.
    """

    name: str
    up: WayFigures
    down: WayFigures
    dwell_s: Figure | None = None
    next: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}

    def figures(self, way: Way) -> WayFigures:
        """Figures of one way."""
        return self.up if way == "up" else self.down


class Outages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times at which nothing passes.

    Attributes:
        gap_s: mean time between the end of one and the start of the next, exponentially distributed.
        shortest_s, longest_s: bounds of their length, uniform on a logarithmic scale.
        ways: which way they hit.
    """

    gap_s: Figure
    shortest_s: Figure
    longest_s: Figure
    ways: Literal["both", "up", "down"] = "both"


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of link."""

    about: str
    states: Annotated[tuple[State, ...], msgspec.Meta(min_length=1)]
    outages: Outages | None = None


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of profiles and the sources that its figures name."""

    sources: dict[str, str]
    profiles: dict[str, Profile]

    def get(self, name: str) -> Profile:
        """The profile of that name.

        Raises:
            UsageError: there is none.
        """
        try:
            return self.profiles[name]
        except KeyError:
            raise UsageError(
                f"there is no link profile {name!r}", hint=f"known are {', '.join(self.profiles)}"
            ) from None


class Outage(msgspec.Struct, frozen=True):
    """A time at which nothing passes, in seconds of the channel."""

    starts_s: float
    ends_s: float


class LinkPlan(msgspec.Struct, frozen=True):
    """All that one run of a link depends on: equal plans impair equal traffic equally.

    Attributes:
        name: the profile's, for people.
        lasts_s: seconds, all above 0, that each of the profile's states lasts: they follow one another in their
            order, over and over. Empty draws a chain at random.
        begins_s: time of the channel at which the link comes up; jitter and loss of its packets hang on it too.
        outages: times in their order, without overlap and within the sum of `lasts_s`, with which they come again; they
            replace those of the profile.
    """

    name: str
    profile: Profile
    seed: int = 0
    lasts_s: tuple[float, ...] = ()
    begins_s: float = 0.0
    outages: tuple[Outage, ...] = ()


def load_catalogue(path: Path) -> Catalogue:
    """Read and check a file of profiles.

    Raises:
        UsageError: it cannot be read, or does not hold what it should.
    """
    try:
        made = msgspec.toml.decode(path.read_bytes(), type=Catalogue)
    except OSError as error:
        raise UsageError(f"the profiles in {path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} does not hold link profiles: {error}", hint="lab/README.md shows their form"
        ) from None
    for name, profile in made.profiles.items():
        _check(name, profile, made.sources)
    return made


BUILT_IN = Path(__file__).with_name("profiles.toml")
"""File of the profiles that come with the package."""


@cache
def built_in() -> Catalogue:
    """The profiles that come with the package."""
    return load_catalogue(BUILT_IN)


def _check(name: str, profile: Profile, sources: dict[str, str]) -> None:
    """Raise UsageError unless the profile makes sense."""
    why = (
        _wrong_states(profile)
        or next(
            filter(None, (_wrong_figures(state.figures(way)) for state in profile.states for way in WAYS)), ""
        )
        or _wrong_outages(profile.outages)
    )
    unknown = sorted({figure.source for figure in all_figures(profile)} - set(sources))
    if not why and unknown:
        why = f"no source is given for {', '.join(unknown)}"
    if why:
        raise UsageError(f"link profile {name!r}: {why}", hint="lab/README.md shows the form of profiles")


def _wrong_states(profile: Profile) -> str:
    names = [state.name for state in profile.states]
    if len(set(names)) < len(names):
        return "two states have the same name"
    for state in profile.states:
        if len(names) > 1 and (state.dwell_s is None or not state.dwell_s.value):
            return f"state {state.name!r} needs a mean dwell time above 0"
        if not set(state.next) <= set(names) - {state.name}:
            return f"state {state.name!r} is followed by a state that is not there, or by itself"
    return ""


def _wrong_figures(figures: WayFigures) -> str:
    if not figures.rate_mbit.value:
        return "a rate must be above 0; outages say when nothing passes"
    if figures.loss_percent.value > 100:
        return "loss goes up to 100 percent"
    if figures.queue_kb.value * 1000 < MTU:
        return f"a queue must hold at least one packet of {MTU} bytes"
    return ""


def _wrong_outages(outages: Outages | None) -> str:
    if outages is None:
        return ""
    if 0 < outages.shortest_s.value <= outages.longest_s.value and outages.gap_s.value > 0:
        return ""
    return "outages need a gap above 0, and 0 < shortest_s <= longest_s"


def all_figures(profile: Profile) -> list[Figure]:
    """Every figure of a profile."""
    found: list[Figure | None] = []
    for state in profile.states:
        found.append(state.dwell_s)
        for way in (state.up, state.down):
            found += msgspec.structs.astuple(way)
    if profile.outages is not None:
        found += [profile.outages.gap_s, profile.outages.shortest_s, profile.outages.longest_s]
    return [figure for figure in found if figure is not None]
