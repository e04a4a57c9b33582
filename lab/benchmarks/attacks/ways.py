"""Attacks of a malicious device. Each way makes packets as long as there is room for them, and hears what is said.

Nothing here breaks a rule of access: a device may write all of it, and a worker what `Forges` does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, cycle
from typing import ClassVar

import msgspec
import zstandard

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.protocol.digest import chain_for
from lab.benchmarks.attacks.line import publish
from schemas.messages import (
    MAX_AHEAD,
    MAX_DRAFT_TOKENS,
    MAX_PROMPT_TOKENS,
    NOISE_VERSION,
    PROTOCOL_VERSION,
    Close,
    CloseReason,
    Draft,
    Error,
    Fin,
    Identity,
    Open,
    Poll,
    Sampling,
    Verdict,
)

_CODEC = Codec()
_MOST_SESSIONS = 4096
"""Whose keys it keeps; the oldest goes first."""
_EOS = (2,)
"""Ends of texts of the default model."""
_WORDS = 8192
"""Random words, from which prompts are cut."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom it is about.

    Attributes:
        edge: own name.
        worker: name of a worker.
        version: version that the worker serves.
        fingerprint: fingerprint of the vocabulary.
        victim: name of an honest device.
        keys: own ones; None where the worker has none either.
        vocabulary: token ids below this may be sent.
    """

    edge: str
    worker: str
    version: str
    fingerprint: bytes
    victim: str
    keys: EdgeKeys | None = None
    vocabulary: int = 30_000


class Way:
    """A way to take more than one's share: without an override, none.

    Args:
        target: whom it is about.
        seed: seed of all that is drawn at random.
    """

    name: ClassVar[str] = "nothing"
    says: ClassVar[str] = "nothing at all"
    worker: ClassVar[str | None] = None
    """Version of which it is a worker; None is a device."""
    bounded: ClassVar[bool] = True
    """A broker bans who sends so many of these packets, as it does a device."""
    sealed: ClassVar[bool] = True
    """Its messages are under keys, where there are some."""
    burst: ClassVar[float] = 0.5
    """Seconds of silence of which it sends the messages afterwards, at once."""
    seconds: ClassVar[float] = 8.0
    """Time for which it is measured at least."""

    def __init__(self, target: Target, seed: int = 0) -> None:
        self.target = target
        self.rng = random.Random(f"{self.name} {seed}")
        self.opens = topics.open_topic(target.version, target.edge)
        self.drafts = topics.draft_topic(target.worker, target.edge)
        self._begun: list[int] = []
        self._held: dict[int, Verdict] = {}
        words = [self.rng.randrange(target.vocabulary) for _ in range(_WORDS)]
        self._words = words * 2
        """Words of all prompts, each of which begins somewhere else: an attacker's own time is not measured."""

    def packets(self, now: float) -> Iterator[bytes]:  # noqa: ARG002  only some look at the time
        """Packets, as many as are wanted now, by default one after the other without end."""
        return iter(self.packet, b"")

    def packet(self) -> bytes:
        """The next packet; an empty one is none."""
        return b""

    def heard(self, message: Verdict | Error) -> None:
        """Who answers with a verdict gave a place."""
        if isinstance(message, Verdict):
            self._held[message.session] = message
        else:
            self._held.pop(message.session, None)

    def farewell(self) -> list[bytes]:
        """Packets that end what it holds, so that the next measurement begins with an empty worker."""
        packets = []
        for session in self._held:
            with suppress(KeysRefused):  # it answered after its keys were forgotten
                close = Close(session, 2**31 - 1, 0, CloseReason.FAILED)
                packets.append(publish(self.drafts, self.payload(close)))
        return packets

    def payload(self, message: Open | Draft | Poll | Close, plain: bytes = b"") -> bytes:
        """A message as the daemon of a device would send it, or other bytes in its place."""
        plain = plain or _CODEC.encode(message)
        if self.target.keys is None or not self.sealed:
            return plain
        keys, now = self.target.keys, time.monotonic()
        if isinstance(message, Draft | Poll):
            with suppress(KeysRefused):  # before its worker has answered
                return keys.wrap(message, self.target.worker, plain, now)
            return keys.introduced(message.session, plain)
        # A worker keeps keys of so many sessions of a device; those that end are to be known to it in any case.
        return keys.wrap(message, None, plain, now)

    def opening(self, prompt: int, limit: int, ahead: int = 0) -> Open:
        """A message that opens a session of random words."""
        at = self.rng.randrange(_WORDS)
        words = tuple(self._words[at : at + prompt])
        identity = Identity(
            NOISE_VERSION, self.target.fingerprint, Sampling(seed=1), (), ignore_eos=True, limit=limit
        )
        message = Open(self.rng.randrange(1, 2**32), 1, identity, words, (), ahead, 1, ())
        if self.target.keys is not None:
            self.target.keys.begin(message.session, self.target.version)
            self._begun.append(message.session)
            if len(self._begun) > _MOST_SESSIONS:
                over = next((session for session in self._begun if session not in self._held), self._begun[0])
                self._begun.remove(over)
                self.target.keys.ended(over, time.monotonic())
        return message

    def open(self, prompt: int, limit: int, ahead: int = 0) -> bytes:
        """A packet that opens a session."""
        return publish(self.opens, self.payload(self.opening(prompt, limit, ahead)))

    def poll(self, session: int, seq: int, have: int, digest: int, ahead: int = 0) -> bytes:
        """A packet that polls a session."""
        return publish(self.drafts, self.payload(Poll(session, 1, seq, have, 0, digest, (), ahead)))


class Unpacks(Way):
    """Opens that unpack to the most tokens that a prompt may have."""

    name, says = "unpacks", "opens of some 80 bytes before keys that unpack to 131,000 tokens"

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        zeros = msgspec.msgpack.encode(bytes(MAX_PROMPT_TOKENS - 8))
        fields = [NOISE_VERSION, self.target.fingerprint, [0.0, 0, 1.0, 1], [], True, 64]
        body = b"\x98\x01\x07\x01" + msgspec.msgpack.encode(fields) + zeros + b"\xc4\x00\x00\x01"
        squeezed = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1
            )
        ).compress(body)
        self._body, self._message = bytes((PROTOCOL_VERSION << 4 | 1,)) + squeezed, self.opening(1, 1)

    def packet(self) -> bytes:
        """The same message for ever."""
        return publish(self.opens, self.payload(self._message, self._body))


class Bombs(Unpacks):
    """The same without keys."""

    name, says, sealed = "bombs", "opens without keys that unpack to 131,000 tokens", False


class Malformed(Way):
    """Messages that nobody can read."""

    name, says = "malformed", "8 bytes of noise, as many times as fit"

    def packet(self) -> bytes:
        """Other noise each time."""
        return publish(self.drafts, self.rng.randbytes(8))


class Acknowledged(Way):
    """Messages that nobody can read, and that each have to be acknowledged."""

    name, says = "acknowledged", "8 bytes of noise at QoS 1, as many times as fit"

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._numbers = count()

    def packet(self) -> bytes:
        """Other noise each time."""
        return publish(self.drafts, self.rng.randbytes(8), number=1 + next(self._numbers) % 65_535)


class Properties(Way):
    """Messages that paho would take 3 ms for, as it reads their properties."""

    name, says = "properties", "8 bytes of noise with 200 user properties, as many times as fit"

    def packet(self) -> bytes:
        """Other noise each time."""
        return publish(self.drafts, self.rng.randbytes(8), properties=b"\x26\x00\x01a\x00\x01b" * 200)


class Unknown(Way):
    """Messages of sessions that nobody opened."""

    name, says = "unknown", "sealed messages of sessions without a key, as many as fit"

    def packet(self) -> bytes:
        """Another session each time."""
        session = self.rng.randbytes(4)
        return publish(self.drafts, b"\x1f\x10" + session + b"\x01" + self.rng.randbytes(40))


class Introduced(Way):
    """Polls, each of a session of its own, for which a worker computes keys."""

    name, says = "introduced", "polls of new sessions with keys of their own, as many as fit"
    different: ClassVar[int] = 512
    """Sessions, more than those whose keys a worker keeps for a device."""

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        opened = (self.opening(1, 1).session for _ in range(self.different))
        self._packets = cycle([self.poll(session, 1, 0, 0) for session in opened])

    def packet(self) -> bytes:
        """Each of them, and again."""
        return next(self._packets)


class Large(Way):
    """Messages as large as a broker takes."""

    name, says = "large", "250 kB of noise, as many times as fit"

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._packet = publish(self.drafts, self.rng.randbytes(250_000))

    def packet(self) -> bytes:
        """The same noise each time."""
        return self._packet


class Polls(Way):
    """A session, and polls of it."""

    name, says = "polls", "polls of one session, as many as fit"

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._numbers = count()
        self._opened = self.opening(16, 64)
        self._digest = chain_for(self._opened.identity, target.version, self._opened.prompt).digest(0)

    def packet(self) -> bytes:
        """An open, then nothing but polls."""
        if not (number := next(self._numbers)):
            return publish(self.opens, self.payload(self._opened))
        return self.poll(self._opened.session, number, 0, self._digest)


class Sessions(Way):
    """As many sessions as are given, held without a word more than they need."""

    name, says = "sessions", "opens until no session is given any more, and holds them"
    each, prompt, limit, ahead, wanted = 0.02, 16, 512, 0, 64

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._opened_at = self._polled_at = float("-inf")

    def packets(self, now: float) -> Iterator[bytes]:
        """Opens, one at a time, up to as many sessions as are wanted, and a poll of each now and then."""
        if now - self._opened_at >= self.each and len(self._held) < self.wanted:
            self._opened_at = now
            yield self.open(self.prompt, self.limit, self.ahead)
        if now - self._polled_at >= 1.0:
            self._polled_at = now
            yield from [self.touch(session, verdict) for session, verdict in self._held.items()]

    def touch(self, session: int, verdict: Verdict) -> bytes:
        """Keep a session."""
        return self.poll(session, 2, 0, verdict.digest if not verdict.tokens else 0, self.ahead)


class Ahead(Sessions):
    """Sessions that have the worker write on and on."""

    name, says = "ahead", "60 sessions for which the worker runs 256 tokens ahead"
    each, limit, ahead, wanted = 0.005, 4000, MAX_AHEAD, 60

    def touch(self, session: int, verdict: Verdict) -> bytes:
        """Say that all of it has come, so that it goes on."""
        end = verdict.start + len(verdict.tokens)
        return self.poll(session, 2 + end, end, verdict.digest, self.ahead)


class Prompts(Sessions):
    """Long prompts, again and again."""

    name, says = "prompts", "opens of 7,800 tokens, as many as fit, for one token each"
    each, prompt, limit, ahead, wanted = 0.0, 7800, 1, 1, 10**9


class Drafts(Sessions):
    """Sessions that have the worker verify what is wrong."""

    name, says = (
        "drafts",
        f"60 sessions with drafts of {MAX_DRAFT_TOKENS} random tokens, as soon as there is an answer",
    )
    each, limit, wanted = 0.005, 4000, 60

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._seq = count(2)
        self._answers: list[Verdict] = []

    def packets(self, now: float) -> Iterator[bytes]:
        """A draft for each answer."""
        yield from super().packets(now)
        answers, self._answers = self._answers, []
        for verdict in answers:
            at = self.rng.randrange(_WORDS)
            words = tuple(self._words[at : at + MAX_DRAFT_TOKENS])
            have = verdict.start + len(verdict.tokens)
            draft = Draft(verdict.session, 1, next(self._seq), have, 0, verdict.digest, words, 0)
            yield publish(self.drafts, self.payload(draft))

    def heard(self, message: Verdict | Error) -> None:
        """An answer is gone on from."""
        super().heard(message)
        if isinstance(message, Verdict):
            self._answers.append(message)

    def touch(self, session: int, verdict: Verdict) -> bytes:
        """Say what has come, so that what was lost comes again."""
        have = verdict.start + len(verdict.tokens)
        return self.poll(session, next(self._seq), have, verdict.digest)


class Opens(Sessions):
    """Opens that mean something, without end."""

    name, says = "opens", "opens of 16 tokens, as many as fit"
    limit, ahead, wanted = 64, 0, 10**9

    def packets(self, now: float) -> Iterator[bytes]:
        """Nothing but opens."""
        return Way.packets(self, now)

    def packet(self) -> bytes:
        """Another session each time."""
        return self.open(self.prompt, self.limit)


class Grammars(Opens):
    """Opens that have the worker compile, each a grammar of its own."""

    name, says = (
        "grammars",
        "opens, each with another grammar that takes as long as one may, or ends its compiler",
    )

    def opening(self, prompt: int, limit: int, ahead: int = 0) -> Open:
        """An open with a grammar."""
        message, grammar = super().opening(prompt, limit, ahead), self.grammar()
        identity = msgspec.structs.replace(
            message.identity, grammar=grammar.digest(engine_name()), ignore_eos=False, eos=_EOS
        )
        return msgspec.structs.replace(message, identity=identity, grammar=grammar.pack())

    def grammar(self) -> Grammar:
        """Another one each time."""
        number = self.rng.randrange(10**6)
        return self.rng.choice((
            Grammar.from_json_schema({"type": "integer", "multipleOf": 1_000_003 + number}),
            Grammar.from_regex(f"((a{{100}}){{100}}){{100}}{number}"),
            Grammar.from_lark("".join(f"r{n}: r{n + 1}\n" for n in range(5000)) + f'r5000: "{number}"\nstart: r0'),
        ))  # fmt: skip


class Followed(Grammars, Ahead):
    """Sessions that have the worker write by a grammar which takes it long at each token."""

    name, says = "followed", "60 sessions run ahead, by grammars of which each mask takes as long as it may"
    each, limit, ahead, wanted = Ahead.each, Ahead.limit, Ahead.ahead, Ahead.wanted

    def packets(self, now: float) -> Iterator[bytes]:
        """As of sessions without grammars."""
        return Ahead.packets(self, now)

    def grammar(self) -> Grammar:
        """Texts of a single letter, each of which can be read in more and more ways."""
        return Grammar.from_lark(f'start: s\ns: s s | s s s | "a" | "{self.rng.randrange(10**6)}"')


class Bare(Opens):
    """The same without keys."""

    name, says, sealed = "bare", "opens of 16 tokens without keys, as many as fit", False


class Bursts(Polls):
    """As many at once as a broker bears."""

    name, says = "bursts", "polls of one session, those of ten seconds at once"
    burst, seconds = 9.5, 20.0

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._at = float("-inf")

    def packets(self, now: float) -> Iterator[bytes]:
        """Nothing, until there is room for them."""
        if now - self._at < self.burst:
            return iter(())
        self._at = now
        return super().packets(now)


class Retained(Way):
    """Messages that the broker is to keep."""

    name, says = "retained", "retained messages of 250 kB under its own name"

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._noise = self.rng.randbytes(250_000)
        self._kept = self.opens, self.drafts, topics.edge_status_topic(target.edge)
        self._topics = cycle(self._kept)

    def packet(self) -> bytes:
        """On every topic that it may write, in turn."""
        return publish(next(self._topics), self._noise, retain=True)

    def farewell(self) -> list[bytes]:
        """Have the broker keep nothing of it."""
        return [publish(topic, b"", retain=True) for topic in self._kept]


class Forges(Way):
    """Answers in the name of somebody else's worker."""

    name, says = "forges", "verdicts for an honest device, by a worker of another version"
    worker = "other"
    bounded = False

    def packet(self) -> bytes:
        """The first token of another session each time."""
        session, token, digest = (
            self.rng.randrange(1, most) for most in (2**32, self.target.vocabulary, 2**32)
        )
        verdict = Verdict(session, 1, 0, 0, (token,), digest, Fin.NONE, 0, 30)
        return publish(topics.verdict_topic(self.target.victim), _CODEC.encode(verdict))


class Mixture(Way):
    """Several ways at a time, others every few seconds."""

    name, says, seconds = "mixture", "three ways at a time, drawn anew every ten seconds", 40.0
    _EVERY, _AT_ONCE = 10.0, 3

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target, seed)
        self._parts = [way(target, seed) for way in _MIXED]
        self._now: list[Way] = []
        self._until = float("-inf")

    def packets(self, now: float) -> Iterator[bytes]:
        """A packet of each in turn."""
        if now >= self._until:
            self._until = now + self._EVERY
            self._now = self.rng.sample(self._parts, self._AT_ONCE)
        ways = [part.packets(now) for part in self._now]
        while ways:
            for way in tuple(ways):
                packet = next(way, None)
                if packet is None:
                    ways.remove(way)
                else:
                    yield packet

    def heard(self, message: Verdict | Error) -> None:
        """Tell the one whose session it is."""
        for part in self._parts:
            if message.session in part._begun:  # noqa: SLF001  a way like this one
                part.heard(message)

    def farewell(self) -> list[bytes]:
        """End what any of them holds."""
        return list(chain.from_iterable(part.farewell() for part in self._parts))


_MIXED = (
    Unpacks, Bombs, Sessions, Opens, Bare, Polls, Grammars, Followed, Introduced, Unknown, Ahead, Drafts, Malformed,
    Properties, Acknowledged, Large, Prompts, Retained,
)  # fmt: skip
WAYS: dict[str, type[Way]] = {way.name: way for way in (*_MIXED, Bursts, Forges, Mixture)}
"""By name."""
