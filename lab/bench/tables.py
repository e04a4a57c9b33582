"""Results as tables in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lab.bench.figures import BASES
from lab.bench.strategies import ABOUT

_ABOUT_INTERVALS = (
    "Means over answers, with 95 % intervals by a bootstrap over questions; fewer than 5 questions have none. The "
    "worst tenth is that of each strategy's own answers."
)
_FIGURES: Mapping[str, tuple[str, str]] = {
    "s an answer": ("mean_s", ".2f"),
    "worst tenth": ("worst_tenth_s", ".2f"),
    "first token, s": ("median_first_s", ".2f"),
    "tokens/s": ("tokens_per_s", ".1f"),
    "accepted": ("acceptance", ".0%"),
    "tokens a round": ("tokens_per_round", ".2f"),
    "forwards a token": ("forwards_per_token", ".2f"),
    "worker ms a token": ("worker_s_per_token", "ms"),
    "payload B up": ("bytes_up", ",.0f"),
    "down": ("bytes_down", ",.0f"),
    "IP B up": ("ip_up", ",.0f"),
    "IP B down": ("ip_down", ",.0f"),
    "J for 100 tokens": ("energy_j_per_100", ".1f"),
}
_SHARES: Mapping[str, str] = {
    "seconds": "total",
    "worst tenth": "worst_tenth",
    "tokens/s": "tokens_per_s",
    "bytes": "bytes",
    "J a token": "energy_j_per_100",
}
_ABOUT_FAILED = (
    "**Failed** answers, which are in no other figure of their strategy; shares are over the questions that both "
    "strategies answered:"
)
_LARGE, _SMALL = 100, 0.01
"""Shares from the one on have no digits behind the point, those from the other on two."""


def document(results: Mapping[str, Any]) -> str:
    """All tables of a run, behind what the run was."""
    channels: Sequence[Mapping[str, Any]] = results["channels"]
    parts = [_facts(results)]
    for channel in channels:
        parts += [f"## {channel['title']}", _of_channel(channel), *_notes(channel)]
        for base in BASES:
            if shares := _of_base(channel["strategies"], base):
                parts += [f"As shares of `{base}`:", shares]
    if len(channels) > 1:
        parts += ["## Seconds an answer, by channel", _across(channels, results["run"]["strategies"])]
    names = results["run"]["strategies"]
    about = [[f"`{name}`", ABOUT.get(name, "")] for name in names]
    if command := results["run"].get("server"):
        about.append(["the program of --server", f"`{command}`"])
    parts += ["## Strategies", markdown(["", ""], about, numbers=False)]
    return "\n\n".join(parts) + "\n"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table; the first column holds names, the others numbers or words."""
    lines = [headers, ["---", *["---:" if numbers else "---"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any, form: str) -> str:
    """A figure, with its interval where it has one; empty where there is none.

    Args:
        value: a number, or three: value, low and high.
        form: form of a number; ``ms`` is seconds as milliseconds, ``share`` two digits that count.
    """
    if value is None:
        return ""
    if not isinstance(value, list):
        return _number(value, form)
    middle, *others = ("" if end is None else _number(end, form) for end in value)
    return f"{middle} [{', '.join(others)}]" if all(others) else middle


def _number(value: float, form: str) -> str:
    if form == "ms":
        return format(1000 * value, ".1f")
    if form == "share":
        return format(value, ",.0f" if value >= _LARGE else ".2f" if value >= _SMALL else ".2g")
    return format(value, form)


def _facts(results: Mapping[str, Any]) -> str:
    run = results["run"]
    times, loads = (
        sorted(one for channel in results["channels"] for one in channel[key]) for key in ("at", "load")
    )
    versions = ", ".join(f"{name} {value}" for name, value in run["versions"].items())
    models = f"Target `{run['target']}`, draft `{run['draft']}`"
    how = f"{run['tokens']} tokens an answer at most, temperature {run['temperature']:g}, seed {run['seed']}"
    return "\n".join(
        [
            f"# {run['questions']} questions, {len(run['strategies'])} strategies",
            "",
            f"{models}; {how}; K = {run['guesses']} of `traditional`.",
            f"{run['machine']['cpu']}, {run['machine']['cores']} cores; {_span(times)} UTC, load {_span(loads)}.",
            f"Versions: {versions}.",
            _energy(run["energy"]),
            _ABOUT_INTERVALS,
        ]
    )


def _span(ordered: Sequence[Any]) -> str:
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def _energy(energy: Mapping[str, str] | None) -> str:
    if energy is None:
        return "Energy was not modelled."
    return f"Energy is modelled, not measured: {energy['device']} by {energy['radio']}."


def _of_channel(channel: Mapping[str, Any]) -> str:
    strategies: Mapping[str, Any] = channel["strategies"]
    there = {
        title: (key, form)
        for title, (key, form) in _FIGURES.items()
        if any(one[key] is not None for one in strategies.values())
    }
    rows = [
        [
            f"`{name}`{' *' if one['own_text'] else ''}",
            *(cell(one[key], form) for key, form in there.values()),
        ]
        for name, one in strategies.items()
    ]
    failed = Counter(one["strategy"] for one in channel["failed"])
    if not failed:
        return markdown(["", *there], rows)
    rows += [[f"`{name}`", *[""] * len(there)] for name in failed if name not in strategies]
    names = [*strategies, *(name for name in failed if name not in strategies)]
    asked = len(channel["at"])
    told = [f"{failed[name]} of {asked}" if failed[name] else "" for name in names]
    return markdown(
        ["", "failed", *there], [[row[0], one, *row[1:]] for row, one in zip(rows, told, strict=True)]
    )


def _notes(channel: Mapping[str, Any]) -> list[str]:
    found = []
    if any(one["own_text"] for one in channel["strategies"].values()):
        found.append("\\* writes a text of its own, which is not compared.")
    if channel["failed"]:
        found += [_ABOUT_FAILED, "\n".join(_failures(channel["failed"]))]
    if channel["differ"]:
        found.append(f"**Texts differ** at questions {', '.join(channel['differ'])}.")
    return found


def _failures(failed: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each reason of each strategy."""
    questions: dict[tuple[str, str], list[str]] = {}
    for one in failed:
        reason = " ".join(one["reason"].split())
        questions.setdefault((one["strategy"], reason), []).append(one["question"])
    return [f"- `{name}`, {', '.join(places)}: {reason}" for (name, reason), places in questions.items()]


def _of_base(strategies: Mapping[str, Any], base: str) -> str:
    rows = [
        [f"`{name}`", *(cell(one[f"of_{base}"][key], "share") for key in _SHARES.values())]
        for name, one in strategies.items()
        if f"of_{base}" in one
    ]
    return markdown(["", *_SHARES], rows) if rows else ""


def _across(channels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    rows = [
        [
            f"`{name}`",
            *(
                cell(channel["strategies"][name]["mean_s"], ".2f") if name in channel["strategies"] else ""
                for channel in channels
            ),
        ]
        for name in names
    ]
    return markdown(["", *(channel["title"] for channel in channels)], rows)
