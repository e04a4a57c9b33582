"""How well a share is known from counts."""

from math import sqrt

Z95 = 1.959963984540054
"""Standard deviations that leave 2.5 % of a normal distribution on either side."""


def wilson(count: int, of: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share (E. B. Wilson, 1927), within 0 to 1; all of that where nothing was tried.

    Args:
        count: number of successes among the tries.
        of: tries.
        z: half width in standard deviations.
    """
    if not of:
        return 0.0, 1.0
    share, odds = count / of, z * z / of
    middle = (share + odds / 2) / (1 + odds)
    spread = sqrt(share * (1 - share) * odds + odds * odds / 4) / (1 + odds)
    return max(0.0, middle - spread), min(1.0, middle + spread)
