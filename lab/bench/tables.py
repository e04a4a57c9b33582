"""Results of a channel as tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lab.bench import bootstrap
from lab.bench.figures import BASES
from lab.benchmarks._common import table

_FIGURES: Mapping[str, tuple[str, str]] = {
    "s an answer": ("mean_s", ".2f"),
    "worst tenth": ("worst_tenth_s", ".2f"),
    "first token, s": ("median_first_s", ".2f"),
    "accepted": ("acceptance", ".0%"),
    "tokens a round": ("tokens_per_round", ".2f"),
    "IP bytes": ("ip_bytes", ",.0f"),
    "J for 100 tokens": ("energy_j_per_100", ".1f"),
}
_SHARES: Mapping[str, str] = {
    "seconds": "mean_s",
    "worst tenth": "worst_tenth",
    "IP bytes": "ip_bytes",
    "J a token": "energy_j_per_100",
}


def tables(channel: Mapping[str, Any]) -> str:
    """All that is told of a channel."""
    strategies: Mapping[str, Any] = channel["strategies"]
    failed = Counter(one["side"] for one in channel["failed"])
    rows = []
    for name in dict.fromkeys((*strategies, *failed)):
        its = strategies.get(name, {})
        cells = (shown(its.get(key), form) for key, form in _FIGURES.values())
        rows.append([name + " *" * its.get("own_text", False), its.get("answers", 0), failed[name], *cells])
    parts = [f"# {channel['title']}", table(["", "answers", "failed", *_FIGURES], rows)]
    for base in BASES:
        shares = [
            [name, *(shown(one[f"of_{base}"][key], ".3g") for key in _SHARES.values())]
            for name, one in strategies.items()
            if f"of_{base}" in one
        ]
        if shares:
            parts.append(table([f"shares of {base}", *_SHARES], shares))
    if any(one["own_text"] for one in strategies.values()):
        parts.append("* writes a text of its own, which is not compared.")
    parts += [f"failed: {one['side']}, question {one['name']}: {one['reason']}" for one in channel["failed"]]
    if channel["differ"]:
        parts.append(f"TEXTS DIFFER at questions {', '.join(channel['differ'])}.")
    return "\n\n".join(parts) + "\n"


def shown(value: float | Sequence[float | None] | None, form: str) -> str:
    """A figure, with its interval where it has one."""
    if value is None:
        return "-"
    return bootstrap.shown([value, None, None] if isinstance(value, float) else value, form)
