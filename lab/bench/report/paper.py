"""What the FlexSpec paper (arXiv 2601.00644) is reported to have measured, beside ours.

Its tables were not at hand when this was written. The figures are those of a published summary of its first version,
which gives no table or section for them; another one (euno.news, 2 January 2026) says as much as up to 30 % less
latency and more than 50 % less traffic than traditional speculation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flexspec_mq.controller.policies import DEFAULT

PAPER = "arXiv 2601.00644"
_TRADITIONAL = "traditional"
HEADS = "", "seconds", "bytes", "J a token", "accepted", "text"
ROWS: Sequence[Sequence[str]] = (
    ("paper, other hardware: traditional", "1 (620 ms a request)", "1 (1.8 MB)", "1 (12 J for 100)", "68%", ""),
    (
        "paper, other hardware: FlexSpec", "0.69 (430 ms a request)", "0.44 (0.8 MB)", "0.67 (8 J for 100)", "78%",
        "quality on par",
    ),
)  # fmt: skip
NOTE = (
    f"The paper is {PAPER}, as a published summary reports it: emulated 4G, 5G and Wi-Fi, other models and devices. "
    "If anything compares, it is the shares. Energy of ours is modelled."
)


def beside(channels: Sequence[Mapping[str, Any]], cell: Callable[[Any, str], str]) -> list[list[str]]:
    """The paper's rows, then traditional speculation and the default policy as a share of it, for each channel.

    Args:
        channels: of the results.
        cell: makes a figure a text, given its form.

    Returns:
        Rows under `HEADS`; none where no channel has both.
    """
    found = [list(row) for row in ROWS]
    for channel in channels:
        strategies = channel["strategies"]
        if f"of_{_TRADITIONAL}" not in strategies.get(DEFAULT, {}):
            continue
        base, ours = strategies[_TRADITIONAL], strategies[DEFAULT]
        shares = ours[f"of_{_TRADITIONAL}"]
        found += [
            [
                f"{channel['title']}: `{_TRADITIONAL}`",
                "1",
                "1",
                "1",
                cell(base["acceptance"], ".0%"),
                _text(base),
            ],
            [
                f"{channel['title']}: `{DEFAULT}`",
                *(cell(shares[name], "share") for name in ("total", "bytes", "energy_j_per_100")),
                cell(ours["acceptance"], ".0%"),
                _text(ours),
            ],
        ]
    return found if len(found) > len(ROWS) else []


def _text(strategy: Mapping[str, Any]) -> str:
    return "of the same law" if strategy["own_text"] else "the target's, token for token"
