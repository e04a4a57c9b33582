"""What a token takes with chains and leaves: one session, by the prices of a step and its rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.leaf_parts.compared import Rates
from benchmarks.pricing.bootstrap import Floats


@dataclass(frozen=True, slots=True)
class StepPrice:
    """Of a worker's step, in milliseconds.

    Attributes:
        step: with one row.
        row: each more.
        leaf: what a leaf costs beyond its row, for attention of its own.
        again: what a right leaf costs in the next step: a row, if it is read again, or a copy of its keys and values.
    """

    step: float
    row: float
    leaf: float = 0.0
    again: float = 0.0

    def of(self, rates: Rates) -> Floats:
        """Mean milliseconds of a step, [draws, lengths]."""
        extra = self.leaf * rates.leaves + self.again * rates.by_leaf
        return self.step + self.row * (rates.drafted + rates.leaves) + extra


@dataclass(frozen=True, slots=True)
class Place:
    """Who drafts, and what lies between two steps.

    Attributes:
        name: for people.
        draft: milliseconds of a drafted token.
        trip: milliseconds from the end of a step to the edge and back, what the edge does besides drafting included.
        load: milliseconds on top of each step, as of a larger target.
    """

    name: str
    draft: float
    trip: float = 0.0
    load: float = 0.0


def token_ms(rates: Rates, price: StepPrice, place: Place) -> Floats:
    """Milliseconds of a token, [draws, lengths]: draft, send, verify, tell, one after another."""
    step = price.of(rates) + place.load
    return (step + place.trip + place.draft * rates.drafted) / rates.tokens
