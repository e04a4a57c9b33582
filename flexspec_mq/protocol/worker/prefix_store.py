"""Texts of sessions that are over, kept for a while so that the same edge can go on from them.

Only tokens are here. The KV cache that belongs to them may be gone from the engine, which then reads the tokens
again: naming a prefix saves at least the bytes, and mostly the reading. An edge reaches its own texts only, as the
time to the first token would tell others what was read.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.protocol.digest import prefix_name
from flexspec_mq.protocol.effects import SessionKey, Transfer
from flexspec_mq.protocol.worker.session import WorkerSession
from flexspec_mq.protocol.worker.turns import to_go
from flexspec_mq.protocol.worker.types import WorkerConfig
from schemas.messages import Fin, Open, Prefix

_LOOK, _LOOK_AGAIN = 600_000, 60_000.0
"""Tokens that are hashed to look for the prefixes that an edge names: so many at once, and so many more each second.
Otherwise each open of 64 bytes could have all be hashed that its edge has here."""
_MOST_LOOKING = 1024
"""Edges of which that is remembered."""


@dataclass(frozen=True, slots=True)
class _Text:
    tokens: Sequence[int]
    prompt_length: int
    fingerprint: bytes
    version: str

    def begins_with(self, prefix: Prefix) -> bool:
        return prefix_name(self.fingerprint, self.version, self.tokens[: prefix.count]) == prefix.name


class PrefixStore:
    """The texts kept.

    Args:
        config: how many, and for how long.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._texts = ExpiringMap[SessionKey, _Text](most=config.prefixes + 1, ttl=config.prefix_ttl)
        self._looked = ExpiringMap[str, tuple[float, float]](most=_MOST_LOOKING)  # tokens, and when

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._texts

    @property
    def expires(self) -> float | None:
        """When the oldest text goes; None when there is none."""
        return self._texts.next_expiry

    def put(self, session: WorkerSession, now: float) -> list[SessionKey]:
        """Keep the text of a session that is over; return those that had to go for it, of who has the most."""
        tokens = array("I", session.prompt + session.chain.tokens(0, len(session.chain)))
        gone = [key for key, _ in self._texts.put(session.key, _text(session, tokens), now)]
        if len(self._texts) > self._config.prefixes:
            gone.append(to_go([*self._texts]))
            self._texts.pop(gone[-1])
        return gone

    def take(self, key: SessionKey) -> None:
        """A text has gone on in another session, or in its own; it need not be here."""
        self._texts.pop(key)

    def drop(self, version: str) -> list[SessionKey]:
        """Forget the texts of a version; return whose they were."""
        gone = [key for key, text in self._texts.items() if text.version == version]
        for key in gone:
            self._texts.pop(key)
        return gone

    def expire(self, now: float) -> list[SessionKey]:
        """Texts whose time is over; they are forgotten."""
        return [key for key, _ in self._texts.expire(now)]

    def whole(
        self,
        key: SessionKey,
        message: Open,
        version: str | None,
        sessions: Iterable[WorkerSession],
        now: float,
    ) -> tuple[Open, str, Transfer | None] | None:
        """Put the named prefix before the rest of a prompt.

        A text that goes on as the next turn of a conversation moves; one whose prompt the new one leaves, as agents'
        do behind the description of their tools, stays for others.

        It is looked for in the prompt of the session itself, if it is here, then in texts of the same edge that have
        ended, the newest first.

        Args:
            key: key of the session that is to be.
            message: open of the session.
            version: version for which the open is; None is for that of the prefix.
            sessions: all that are here.
            now: seconds.

        Returns:
            The open with its whole prompt, the version that it is for, and how it comes to the KV cache of the
            prefix, if one was named. None if nothing here begins with that prefix, as far as this edge may have us
            look.
        """
        prefix = message.prefix
        if prefix is None:
            return message, version or next(iter(self._config.versions)), None
        for source, text in self._candidates(key, sessions):
            if version not in (None, text.version) or len(text.tokens) < prefix.count:
                continue
            if not self._may_look(key[0], prefix.count, now):
                return None
            if text.begins_with(prefix):
                prompt = (*text.tokens[: prefix.count], *message.prompt)
                whole = msgspec.structs.replace(message, prompt=prompt, prefix=None)
                shared = prefix.count if prefix.count < text.prompt_length else None
                return whole, text.version, Transfer(source, key, shared)
        return None

    def _may_look(self, edge: str, tokens: int, now: float) -> bool:
        """Whether so many tokens may be hashed for an edge now; counts them."""
        looked, at = self._looked.get(edge, now) or (0.0, now)
        looked = max(0.0, looked - _LOOK_AGAIN * (now - at)) + tokens
        if looked > _LOOK:
            return False
        self._looked.put(edge, (looked, now), now)
        return True

    def _candidates(
        self, key: SessionKey, sessions: Iterable[WorkerSession]
    ) -> Iterator[tuple[SessionKey, _Text]]:
        if not self._config.prefixes:
            return
        mine = [session for session in sessions if session.key[0] == key[0]]
        for session in mine:
            if session.key == key:
                yield key, _text(session, session.prompt)
        for other, text in reversed(list(self._texts.items())):
            if other[0] == key[0]:
                yield other, text
        for session in reversed(mine):
            if session.ended is not Fin.NONE and session.key != key:
                yield session.key, _text(session, session.chain.view(session.prompt))


def _text(session: WorkerSession, tokens: Sequence[int]) -> _Text:
    return _Text(tokens, len(session.prompt), session.identity.fingerprint, session.version)
