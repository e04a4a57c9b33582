"""Places for answers that edges fetch later: those that are promised, and those that the broker keeps.

A retained message is the broker's memory. A worker keeps account of the answers that it leaves there until their edges
close the sessions, or they expire; a worker that starts anew begins with none.
"""

from collections import Counter
from math import inf
from typing import NamedTuple

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkerConfig
from schemas.messages import MAX_DELIVERED_TOKENS, Open

_TOKEN, _AROUND = 4, 1024
"""Bytes that a token takes at most, and what is around an answer: topic, credential, seal and padding."""


class _Place(NamedTuple):
    """A place.

    Attributes:
        nbytes: size of the answer at most.
        expires: when the broker drops it; `inf` while it is only promised.
        kept: whether the broker may keep one.
    """

    nbytes: int = 0
    expires: float = inf
    kept: bool = False


class DeliveryPlaces:
    """Decides whose answers are kept.

    Args:
        config: bounds of a device and of all.

    Attributes:
        nbytes: bytes that the answers may come to.
        expires: when `expire` is to be called next; `inf` is never.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._places: dict[SessionKey, _Place] = {}
        self._of_device = Counter[str]()
        self.nbytes = 0
        self.expires = inf

    def __len__(self) -> int:
        """Answers that are promised or kept."""
        return len(self._places)

    def grant(self, key: SessionKey, message: Open) -> int:
        """Seconds for which the answer of a session will be kept, if its edge is away; 0 if it will not."""
        seconds = min(message.deliver, self._config.deliver_for)
        kept = self.leave(key)
        limit = message.identity.limit
        size = _AROUND + _TOKEN * limit
        if (
            not seconds
            or limit > MAX_DELIVERED_TOKENS
            or self._of_device[key[0]] >= self._config.device_deliveries
            or self.nbytes + size > self._config.deliver_bytes
        ):
            return 0
        self._take(key, _Place(size, inf, kept))
        return seconds

    def kept(self, key: SessionKey, tokens: int, expires: float) -> None:
        """The broker keeps an answer of so many tokens until then."""
        self.leave(key)
        self._take(key, _Place(_AROUND + _TOKEN * tokens, expires, kept=True))
        self.expires = min(self.expires, expires)

    def leave(self, key: SessionKey) -> bool:
        """Give a place back, if there is one; tell whether the broker may keep an answer there."""
        place = self._places.pop(key, _Place())
        self.nbytes -= place.nbytes
        self._of_device[key[0]] -= bool(place.nbytes)
        if not self._of_device[key[0]]:
            del self._of_device[key[0]]
        return place.kept

    def expire(self, now: float) -> None:
        """Give back the places of answers that the broker has dropped by now."""
        if now >= self.expires:
            for key in [key for key, place in self._places.items() if place.expires <= now]:
                self.leave(key)
            self.expires = min((place.expires for place in self._places.values()), default=inf)

    def _take(self, key: SessionKey, place: _Place) -> None:
        self._places[key] = place
        self._of_device[key[0]] += 1
        self.nbytes += place.nbytes
