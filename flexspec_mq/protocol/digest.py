"""The CRC-32 chain that names every prefix of a text, and the longer name of the beginning of a prompt.

::

    root   = crc32(canonical msgpack of all that determines the text)
    d(0)   = crc32(le32 of each prompt token, root)
    d(p+1) = crc32(le32 of token p, d(p))

Two sides that agree on ``d(p)`` hold the same first ``p`` generated tokens of the same request. A difference
in a single token is always caught, anything else with probability 1 - 2^-32. It detects; it does not
authenticate. Session, attempt and worker are left out on purpose: equal inputs give equal text, so sharing it
is harmless.

The beginning of a prompt has a name of 128 bits, as that selects a KV cache. Whether the right one was selected
is seen all the same: the chain of both sides covers the whole prompt.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain as chained
from itertools import islice
from typing import overload
from zlib import crc32

import msgspec

from flexspec_mq.errors import LocalProtocolError
from schemas.messages import Identity, Sampling

_LE32 = struct.Struct("<I")
_OFF = Sampling()


def root(identity: Identity, version: str) -> int:
    """Digest of what determines the text beside prompt and tokens, made from the caller's own parsed values.

    Args:
        identity: sampling parameters, seed, end-of-text ids, limit, vocabulary fingerprint and grammar.
        version: target version that decides the tokens.
    """
    sampling = msgspec.structs.asdict(identity.sampling)
    fields = [
        identity.noise,
        version,
        identity.fingerprint,
        *(sampling.pop(name) for name in ("temperature", "top_k", "top_p", "seed")),
        sorted(set(identity.eos)),
        identity.ignore_eos,
        identity.limit,
    ]
    if identity.grammar is not None:
        fields.append(identity.grammar)
    if others := {name: value for name, value in sampling.items() if value != getattr(_OFF, name)}:
        fields.append(others)
    return crc32(msgspec.msgpack.encode(fields))


def after(digest: int, token: int) -> int:
    """Digest of a prefix and one more token."""
    return crc32(_LE32.pack(token), digest)


def after_all(digest: int, tokens: Sequence[int]) -> int:
    """Digest of a prefix and several more tokens."""
    return crc32(struct.pack(f"<{len(tokens)}I", *tokens), digest)


def prefix_name(fingerprint: bytes, version: str, tokens: Sequence[int]) -> bytes:
    """BLAKE2b-128 of a target version, its vocabulary's fingerprint and token ids, 32 bits each, little-endian."""
    name = blake2b(msgspec.msgpack.encode([version, fingerprint]), digest_size=16)
    ids = array("I", tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    name.update(ids)
    return name.digest()


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix of some tokens, or characters."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


def chain_for(identity: Identity, version: str, prompt: Sequence[int]) -> Chain:
    """The empty chain of a request: no generated token yet, and the digest of the prompt."""
    return Chain(after_all(root(identity, version), prompt))


class TokenView(Sequence[int]):
    """Prompt followed by the first `length` entries of a list that its owner only ever appends to.

    Slices come back as tuples. Thousands of tokens per step would make copies quadratic over a long text.
    """

    __slots__ = ("_head", "_length", "_tail")

    def __init__(self, head: tuple[int, ...], tail: list[int], length: int) -> None:
        self._head = head
        self._tail = tail
        self._length = length

    def __len__(self) -> int:
        return len(self._head) + self._length

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return tuple(self[i] for i in range(start, stop, step))
            cut = len(self._head)
            return self._head[start:stop] + tuple(self._tail[max(0, start - cut) : max(0, stop - cut)])
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._head[index] if index < len(self._head) else self._tail[index - len(self._head)]

    def __iter__(self) -> Iterator[int]:
        return chained(self._head, islice(self._tail, self._length))


class Chain:
    """Generated tokens with the digest at every position.

    Args:
        start: digest before the first generated token.
    """

    __slots__ = ("_digests", "_tokens")

    def __init__(self, start: int) -> None:
        self._tokens: list[int] = []
        self._digests = array("L", [start])

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, position: int) -> int:
        return self._tokens[position]

    def digest(self, position: int) -> int:
        """Digest of the first `position` tokens.

        Raises:
            LocalProtocolError: the chain is shorter than that.
        """
        if not 0 <= position < len(self._digests):
            raise LocalProtocolError(f"no digest at {position} in a chain of {len(self)} tokens")
        return self._digests[position]

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """Copy of the tokens at positions `start` to `stop - 1`."""
        return tuple(self._tokens[start:stop])

    def append(self, token: int) -> int:
        """Add one token at the end; return the digest there."""
        self._tokens.append(token)
        digest = crc32(_LE32.pack(token), self._digests[-1])
        self._digests.append(digest)
        return digest

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens at the end."""
        pack, digest, note, add = _LE32.pack, self._digests[-1], self._digests.append, self._tokens.append
        for token in tokens:
            digest = crc32(pack(token), digest)
            note(digest)
            add(token)

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens.

        Copies instead of deleting in place, so that views taken before still show what they showed.
        """
        if length < len(self._tokens):
            self._tokens = self._tokens[:length]
            self._digests = self._digests[: length + 1]

    def mismatch(self, start: int, tokens: Sequence[int]) -> int | None:
        """First position from `start` on where chain and `tokens` both have a token and they differ."""
        for position, token in enumerate(tokens[: max(0, len(self) - start)], start):
            if self._tokens[position] != token:
                return position
        return None

    def view(self, prompt: tuple[int, ...], length: int | None = None) -> TokenView:
        """Read-only prompt + first `length` tokens (all when None), without a copy."""
        return TokenView(prompt, self._tokens, len(self) if length is None else length)
