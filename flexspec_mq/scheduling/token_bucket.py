"""A token bucket: what one device may take of something."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class TokenBucket:
    """The token bucket of one device, in milliseconds. Calls take `now` in seconds.

    Attributes:
        rate: Milliseconds that it gets back a second.
        burst: Milliseconds that it holds at most.
        left: Milliseconds; below 0 if its last message cost more than there was.
        at: Time when that was counted.
        refused: Messages that were not taken.
        tell_at: Time when the device may be told again.
        known: False once it is forgotten, and another one may be made for the device.
    """

    device: str
    rate: float
    burst: float
    left: float
    at: float
    refused: int = 0
    tell_at: float = 0.0
    known: bool = True

    def refill(self, now: float) -> float:
        """Add what has come back; return what is left."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        return self.left

    def pay(self, price: float, now: float) -> bool:
        """Take a price, if anything at all is left; it may be more than that."""
        if self.refill(now) <= 0.0:
            return False
        self.left -= price
        return True

    def charge(self, price: float) -> None:
        """Take a price for what is done already; a negative one gives something back."""
        self.left = min(self.burst, self.left - price)

    @property
    def wait(self) -> float:
        """Seconds from when it last paid until something is left again."""
        return max(0.0, -self.left) / self.rate
