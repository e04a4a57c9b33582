"""A tour as a picture: tokens, the round trip, and who was to draft how much, over time; SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.files import whole
from lab.benchmarks.tour.figures import least_trip_ms
from lab.benchmarks.tour.journey import BOTH, DEVICE, DRAFTERS, NOBODY, WORKER, Journey, Look
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.link.tour import Leg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {NOBODY: "#b8b8b8", WORKER: "#7fb3e0", DEVICE: "#f2a65a", BOTH: "#7bbf8a"}
WORDS = {
    NOBODY: "nobody drafts",
    WORKER: "worker, if it can",
    DEVICE: "device",
    BOTH: "device, and then\nworker if it can",
}
_SHADES = ("#f4f4f4", "#e9eef4")
_SIZE = (11.0, 7.8)
_ASIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}


def draw(
    journeys: Mapping[str, Journey],
    plan: LinkPlan,
    legs: Sequence[Leg],
    *,
    first: str,
    title: str,
    file: Path,
) -> None:
    """Draw one tour; replaces the files. The same journeys give the same SVG.

    Args:
        journeys: by strategy.
        plan: of the link.
        legs: of the tour.
        first: the strategy whose choices are drawn in full.
        title: above all.
        file: without the kind.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    planning = [name for name, one in journeys.items() if len({look.who for look in one.looks} - {None}) > 0]
    heights = [4.0, 1.6, 0.35 * len(planning) + 0.3, 1.5]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 9}):
        page = Figure(figsize=_SIZE, layout="constrained")
        page.suptitle(title, fontsize=10)
        tokens, trips, who, batches = page.subplots(4, 1, sharex=True, height_ratios=heights)
        for axes in (tokens, trips, who, batches):
            _legs(axes, plan, legs, "outage" if axes is tokens else None)
        for leg in legs:
            tokens.text(
                (leg.begins_s + leg.ends_s) / 2, 1.01, leg.profile,
                transform=tokens.get_xaxis_transform(), ha="center", va="bottom",
            )  # fmt: skip
        _tokens(tokens, journeys, first)
        _trips(trips, journeys[first].looks, plan, legs, first)
        _who(who, {name: journeys[name].looks for name in planning})
        _batches(batches, journeys[first].looks, first)
        batches.set_xlabel("seconds of the tour")
        batches.set_xlim(0, legs[-1].ends_s)
        with whole(file.with_suffix(".svg")) as part:
            page.savefig(part, format="svg", metadata={"Date": None})
        with whole(file.with_suffix(".png")) as part:
            page.savefig(part, format="png", dpi=110)


def _legs(axes: Axes, plan: LinkPlan, legs: Sequence[Leg], outages: str | None) -> None:
    for number, leg in enumerate(legs):
        axes.axvspan(leg.begins_s, leg.ends_s, color=_SHADES[number % len(_SHADES)], lw=0, zorder=0)
    for number, outage in enumerate(plan.outages):
        label = None if number else outages
        axes.axvspan(
            outage.starts_s, outage.ends_s, facecolor="none", edgecolor="#c03030", hatch="////", lw=0,
            alpha=0.45, zorder=0.5, label=label,
        )  # fmt: skip


def _tokens(axes: Axes, journeys: Mapping[str, Journey], first: str) -> None:
    for name, journey in journeys.items():
        times, counts = zip(*((look.at, look.tokens) for look in journey.looks), strict=True)
        axes.plot(
            times, counts, lw=2.4 if name == first else 1.4, label=name, zorder=3 if name == first else 2
        )
    for number, turn in enumerate(journeys[first].turns[1:]):
        axes.axvline(
            turn.began, ymax=0.03, color="black", lw=1, label=None if number else f"{first}: next turn"
        )
    axes.set_ylabel("tokens")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(**_ASIDE)


def _trips(axes: Axes, looks: Sequence[Look], plan: LinkPlan, legs: Sequence[Leg], first: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    ends = [*accumulate(plan.lasts_s)]
    real = least_trip_ms(plan)
    axes.step(
        [0.0, *ends], [real[0], *real], where="pre", color="black", lw=1, ls="--", label="the link's mean"
    )
    seen = [
        (look.at, look.rtt_ms) for look in looks if look.rtt_ms is not None and look.at <= legs[-1].ends_s
    ]
    if seen:
        axes.plot(*zip(*seen, strict=True), color="tab:blue", lw=1.6, label=f"as {first}\nestimates it")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("round trip, ms")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(**_ASIDE)


def _who(axes: Axes, looks: Mapping[str, Sequence[Look]]) -> None:
    from matplotlib.patches import Patch

    for row, of_one in enumerate(looks.values()):
        for who, begin, end in spells(of_one):
            axes.broken_barh([(begin, end - begin)], (row - 0.38, 0.76), facecolors=COLOURS[who], zorder=2)
    axes.set_yticks(range(len(looks)), list(looks))
    axes.set_ylim(len(looks) - 0.4, -0.6)
    axes.set_ylabel("who drafts")
    there = {who for of_one in looks.values() for who, _, _ in spells(of_one)}
    handles = [Patch(color=COLOURS[who], label=WORDS[who]) for who in DRAFTERS if who in there]
    axes.legend(handles=handles, **_ASIDE)


def spells(looks: Sequence[Look]) -> list[tuple[str, float, float]]:
    """Who drafted from when to when, in turns; times without a plan are left out."""
    found: list[tuple[str, float, float]] = []
    for number, look in enumerate(looks):
        ends = looks[number + 1].at if number + 1 < len(looks) else look.at
        if look.who is None:
            continue
        if found and found[-1][0] == look.who and found[-1][2] == look.at:
            found[-1] = look.who, found[-1][1], ends
        else:
            found.append((look.who, look.at, ends))
    return found


def _batches(axes: Axes, looks: Sequence[Look], first: str) -> None:
    plans: list[Any] = [look for look in looks if look.who is not None]
    times = [look.at for look in plans]
    for name, label, style in (
        ("draft_length", "K, tokens a batch\nof the device", "-"),
        ("in_flight", "W, batches in flight", "--"),
        ("qos", "QoS", ":"),
    ):
        axes.step(times, [getattr(look, name) for look in plans], where="post", ls=style, lw=1.5, label=label)
    axes.set_ylabel(f"{first}'s plan")
    axes.set_ylim(-0.4, None)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(**_ASIDE)
