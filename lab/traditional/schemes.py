"""Schemes of traditional speculation by name, importable without a model's libraries."""

from dataclasses import dataclass

GUESSES = 5
"""Tokens drafted a round, as FlexSpec (arXiv 2601.00644) has its fixed draft do."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to speculate.

    Attributes:
        distributions: whole ones are sent with the guesses.
    """

    distributions: bool = False

    def says_the_targets_text(self, temperature: float) -> bool:
        """Whether its text is, token for token, the one that the target alone writes with the same seed.

        Rejection sampling draws from the target's distribution with other dice, so it writes another text.
        """
        return temperature == 0.0 or not self.distributions


SCHEMES = {"traditional": Scheme(distributions=True), "traditional-ids": Scheme()}
