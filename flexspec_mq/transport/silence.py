"""When a connection has been silent for too long, so that another one is worth a try.

The broker sends again what it sent in an outage when its TCP would have tried next, up to as long after the outage as
that lasted, and all that it says later waits behind. The device's own bytes arrive meanwhile, so nothing looks
broken; a new connection is served at once. The timeout is that of RFC 6298 over the times of acknowledgements, with
its back-off: each connection that was given up doubles it until a message is acknowledged.
"""

from math import inf

from flexspec_mq import waiting

_DOUBLED = 4
"""Times that it doubles; then it is longer than any message may wait for its acknowledgement."""
_ANOTHER = 5
"""Round trips until another connection has answered something: four to connect."""
_CARRIES = 8_000.0
"""Bytes per second that a link is taken to carry up at least, so that a long message is not taken for silence."""


class LinkSilence:
    """Record of what a link sent that is to be answered, and of when something came. Times are seconds, on one clock.

    A message at QoS 0 is not acknowledged: where nothing comes after it, a PINGREQ asks, at once where nothing has
    come for long before.

    Args:
        now: the first moment.
        least: the timeout before it is doubled, at least: TCP has repaired a packet or two by then. It is five times as
            long at most.
    """

    def __init__(self, now: float, least: float = waiting.ANSWER) -> None:
        self._least = least
        self._smoothed: float | None = None
        self._deviation = 0.0
        self._doubled = 0
        self.begin(now)

    def begin(self, now: float) -> None:
        """Another connection begins: nothing is owed over it. Times of acknowledgements are still known."""
        self._heard = now
        self._first_sent = inf  # when the first message went out since that nobody acknowledges
        self._carried = now  # when a slow link has carried all of those
        self._owed = 0
        self._bytes = 0
        self._pinged = False
        self._from = inf  # since when nothing came although something is owed
        self._up = False

    def up(self) -> None:
        """Note that the connection is made. Until then acknowledgements do not say that messages get theirs."""
        self._up = True

    def given_up(self) -> None:
        """Note that the connection was silent for too long and is replaced."""
        self._doubled = min(_DOUBLED, self._doubled + 1)

    @property
    def timeout(self) -> float:
        """Silence that is too long after what was asked, in seconds, but for the time that its bytes take."""
        if self._smoothed is None:
            return self._least * 2.0**self._doubled
        late = self._smoothed + 4 * self._deviation
        return float(
            min(5 * self._least, max(self._least, late, _ANOTHER * self._smoothed)) * 2.0**self._doubled
        )

    @property
    def ping_at(self) -> float:
        """When to ask whether anybody is there; infinite for not at all."""
        if self._owed or self._pinged or self._first_sent == inf:
            return inf
        return max(self._first_sent, self._heard + self.timeout)

    @property
    def over_at(self) -> float:
        """When the silence is too long; infinite while no answer is owed."""
        return max(self._from, self._carried) + self.timeout + self._bytes / _CARRIES

    def sent(self, size: int, now: float) -> None:
        """Note that so many bytes went out at QoS 0."""
        self._first_sent = min(self._first_sent, now)
        self._carried = max(self._carried, now) + size / _CARRIES

    def sent_for_ack(self, size: int, now: float) -> None:
        """Note that so many bytes went out, which the broker acknowledges."""
        self._owed += 1
        self._bytes += size
        self._from = min(self._from, now)

    def pinged(self, now: float) -> None:
        """Note that a PINGREQ went out."""
        self._pinged = True
        self._from = min(self._from, now)

    def acknowledged(self, size: int, seconds: float) -> None:
        """Note that a message is acknowledged, after so many seconds. Call it after `heard`."""
        self._owed -= 1
        self._bytes -= size
        if not self._owed:
            self._from = inf
        self.measured(seconds)
        if self._up:
            self._doubled = 0

    def measured(self, seconds: float) -> None:
        """Note that something like an acknowledgement took so long.

        Twice the timeout at most: whatever takes longer says how long the link stood still.
        """
        seconds = min(seconds, 2 * self.timeout)
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(self._smoothed - seconds) - self._deviation) / 4
        self._smoothed += (seconds - self._smoothed) / 8

    def heard(self, now: float) -> None:
        """Note that something came, whatever it is."""
        self._heard, self._first_sent, self._pinged = now, inf, False
        self._from = now if self._owed else inf
