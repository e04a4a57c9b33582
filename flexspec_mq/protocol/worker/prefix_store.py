"""Texts of sessions that are over, kept for a while so that the same edge can go on from them.

Only tokens are here. The keys and values that belong to them may be gone from the engine, which then reads the tokens
again: naming a prefix saves at least the bytes, and mostly the reading. An edge reaches its own texts only, as the
time to the first token would tell others what was read.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.prefix import prefix_name
from flexspec_mq.protocol.worker.session import WorkerSession
from flexspec_mq.protocol.worker.types import WorkerConfig
from schemas.messages import Fin, Open, Prefix


@dataclass(frozen=True, slots=True)
class _Text:
    tokens: Sequence[int]
    fingerprint: bytes
    expires: float


@dataclass(frozen=True, slots=True)
class Whole:
    """An open with its whole prompt.

    Attributes:
        source: session whose keys and values begin with the prefix; None where none was named.
    """

    message: Open
    source: SessionKey | None


class PrefixStore:
    """The texts kept.

    Args:
        config: how many, for how long, and the version that they are of.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._texts: OrderedDict[SessionKey, _Text] = OrderedDict()

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._texts

    @property
    def expires(self) -> float | None:
        """When the oldest text goes; None when there is none."""
        return next((text.expires for text in self._texts.values()), None)

    def put(self, session: WorkerSession, now: float) -> list[SessionKey]:
        """Keep the text of a session that is over; return those that had to go for it."""
        tokens = array("I", session.prompt + session.chain.tokens(0, len(session.chain)))
        self._texts.pop(session.key, None)
        self._texts[session.key] = _Text(tokens, session.identity.fingerprint, now + self._config.shelf_life)
        over = max(0, len(self._texts) - self._config.shelf)
        return [self._texts.popitem(last=False)[0] for _ in range(over)]

    def take(self, key: SessionKey) -> None:
        """A text has gone on in another session, or in its own; it need not be here."""
        self._texts.pop(key, None)

    def expire(self, now: float) -> list[SessionKey]:
        """Texts whose time is over; they are forgotten."""
        gone = []
        while self._texts and next(iter(self._texts.values())).expires <= now:
            gone.append(self._texts.popitem(last=False)[0])
        return gone

    def whole(self, key: SessionKey, message: Open, sessions: Iterable[WorkerSession]) -> Whole | None:
        """Put the named prefix before the rest of a prompt.

        It is looked for in the prompt of the session itself, if it is here, then in texts of the same edge that have
        ended, the newest first.

        Returns:
            None if nothing here begins with that prefix.
        """
        prefix = message.prefix
        if prefix is None:
            return Whole(message, None)
        for source, tokens, fingerprint in self._candidates(key, sessions):
            if self._begins(tokens, fingerprint, prefix):
                prompt = (*tokens[: prefix.count], *message.prompt)
                return Whole(msgspec.structs.replace(message, prompt=prompt, prefix=None), source)
        return None

    def _candidates(
        self, key: SessionKey, sessions: Iterable[WorkerSession]
    ) -> Iterator[tuple[SessionKey, Sequence[int], bytes]]:
        if not self._config.shelf:
            return
        mine = [session for session in sessions if session.key[0] == key[0]]
        for session in mine:
            if session.key == key:
                yield key, session.prompt, session.identity.fingerprint
        for other, text in reversed(self._texts.items()):
            if other[0] == key[0]:
                yield other, text.tokens, text.fingerprint
        for session in reversed(mine):
            if session.ended is not Fin.NONE and session.key != key:
                tokens = session.chain.view(session.prompt)
                yield session.key, tokens, session.identity.fingerprint

    def _begins(self, tokens: Sequence[int], fingerprint: bytes, prefix: Prefix) -> bool:
        if len(tokens) < prefix.count:
            return False
        return prefix_name(fingerprint, self._config.version, tokens[: prefix.count]) == prefix.name
