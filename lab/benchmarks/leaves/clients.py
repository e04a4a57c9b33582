"""How many clients one accelerator carries at a rate that each of them wants, by roofline arithmetic.

A step reads the weights once or computes its rows, whichever takes longer, and reads the keys and values of its
sessions. A draft beside the target does the same for each token of the chain at a share of the price.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.bench.figures.bootstrap import Floats
from lab.benchmarks.leaves.compared import Rates


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Prices in milliseconds.

    Attributes:
        weights: of reading the target's weights.
        row: of computing a row.
        session: of reading a session's keys and values.
    """

    weights: float = 6.7
    row: float = 0.09
    session: float = 0.13


@dataclass(frozen=True, slots=True)
class Drafting:
    """Where chains come from.

    Attributes:
        name: for people.
        share: of the target's forward that one of the draft costs beside it; 0 for a draft on the device.
        token: milliseconds that a device takes for a token of the chain.
        trip: milliseconds between a device and the worker and back.
    """

    name: str
    share: float = 0.0
    token: float = 0.0
    trip: float = 0.0

    @property
    def on_device(self) -> bool:
        """Whether sessions are away between two steps."""
        return self.share == 0.0


WAIT = 1.5
"""Steps from a draft's arrival to its verdict: its own, and half of the one that runs when it comes."""


def fits(step: Floats, rates: Rates, chip: Accelerator, drafting: Drafting, lengths: Floats) -> Floats:
    """Sessions that share a step of this length.

    Args:
        step: milliseconds, [draws, lengths].
        rates: of the rounds.
        chip: prices.
        drafting: whose chains.
        lengths: of the chains, [lengths].

    Returns:
        Not rounded, none below 0, [draws, lengths].
    """
    most = np.full_like(rates.tokens, np.inf)
    for target_reads in (True, False):
        for draft_reads in (True, False):
            constant = chip.weights * (target_reads + drafting.share * draft_reads * lengths)
            slope = chip.session + chip.row * (
                (not target_reads) * rates.rows + drafting.share * (not draft_reads) * lengths
            )
            most = np.minimum(most, (step - constant) / slope)
    found: Floats = np.maximum(most, 0.0)
    return found


def clients(
    rate: float, rates: Rates, chip: Accelerator, drafting: Drafting, lengths: tuple[int, ...]
) -> Floats:
    """Clients that get `rate` tokens a second each, not rounded, [draws, lengths].

    Beside the target, all of them share each step, and a step may last as long as a round. From devices, a step has
    those whose drafts are there.
    """
    k = np.array(lengths, dtype=np.float64)
    cycle = 1e3 * rates.tokens / rate
    if not drafting.on_device:
        return fits(cycle, rates, chip, drafting, k)
    step = np.maximum(cycle - drafting.trip - drafting.token * rates.drafted, 0.0) / WAIT
    together = fits(step, rates, chip, drafting, k)
    found: Floats = np.where(step > 0.0, together * cycle / np.where(step > 0.0, step, 1.0), 0.0)
    return found
