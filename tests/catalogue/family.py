"""A family with fixed keys, for tests: what its publisher sends, and what attackers would."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason, SignedRefused
from flexspec_mq.catalogue.signing import DOMAINS, PrivateKey, key_id, seal
from schemas.catalogue import MAX_PAYLOAD, Catalogue, CatalogueVersion, KeySet, Signed, VersionState

FAMILY = "smol"
NOW = 1_800_000_000
DAY = 86_400
HEADS = "https://heads.example/fam"


def key(name: str) -> PrivateKey:
    """The same one each time."""
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


ROOT, ONLINE, SECOND, STRANGER = (key(name) for name in ("root", "online", "second", "stranger"))


def version(name: str, state: VersionState, share: int = 0) -> CatalogueVersion:
    return CatalogueVersion(name, state, hashlib.sha256(name.encode()).digest(), share)


VERSIONS = (
    version("base-135", VersionState.DRAINING),
    version("math-r16", VersionState.STABLE),
    version("json-r16", VersionState.CANARY, 10),
    version("terse-r8", VersionState.RETIRED),
)


def catalogue(epoch: int = NOW, **changes: Any) -> Catalogue:
    return msgspec.structs.replace(Catalogue(1, FAMILY, epoch, DAY, 1, HEADS, VERSIONS), **changes)


def key_set(serial: int = 1, keys: Sequence[PrivateKey] = (ONLINE,), **changes: Any) -> KeySet:
    body = KeySet(1, FAMILY, serial, 1, tuple(one.public for one in keys))
    return msgspec.structs.replace(body, **changes)


def raw(kind: type, body: bytes, keys: Sequence[PrivateKey]) -> bytes:
    """Signed bytes that `seal` would not sign."""
    signatures = tuple(key_id(one.public) + one.sign(DOMAINS[kind] + body) for one in keys)
    return msgspec.msgpack.encode(Signed(body, signatures))


def following(*payloads: bytes, now: float = NOW) -> Follower:
    """A follower that has adopted the first key set, and catalogues after it."""
    follower = Follower(FAMILY, ROOT.public)
    give_keys(follower, seal(key_set(), [ROOT]), now)
    for payload in payloads:
        give(follower, payload, now)
    return follower


def give(follower: Follower, payload: bytes, now: float = NOW) -> None:
    """Have a catalogue adopted."""
    _adopt(follower, follower.receive_catalogue(payload, now))


def give_keys(follower: Follower, payload: bytes, now: float = NOW) -> None:
    """Have a key set adopted."""
    _adopt(follower, follower.receive_keys(payload, now))


def _adopt(follower: Follower, answer: Accepted | SignedRefused | None) -> None:
    assert isinstance(answer, Accepted), answer
    follower.adopt(answer.record)


def _odd(change: Callable[[list[Any]], object]) -> bytes:
    """A catalogue of the online key whose encoded fields were changed."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(catalogue(NOW + 1)))
    change(fields)
    return raw(Catalogue, msgspec.msgpack.encode(fields), [ONLINE])


def sealed(*keys: PrivateKey, **changes: Any) -> bytes:
    """A catalogue that is newer than `NOW`, with changes."""
    return seal(catalogue(**{"epoch": NOW + 1, **changes}), keys or (ONLINE,))


ATTACKS: dict[str, tuple[Reason, bytes]] = {
    "endless data": (Reason.OVERSIZE, sealed() + bytes(MAX_PAYLOAD)),
    "arbitrary data": (Reason.MALFORMED, b"\x93\x01\x02\x03"),
    "data after the end": (Reason.MALFORMED, sealed() + b"\0"),
    "a deep nest": (Reason.MALFORMED, b"\x91" * MAX_PAYLOAD),
    "a signed deep nest": (Reason.MALFORMED, raw(Catalogue, b"\x91" * 3000, [ONLINE])),
    "a name with a slash": (Reason.MALFORMED, _odd(lambda fields: fields[6][0].__setitem__(0, "a/b"))),
    "a short digest": (Reason.MALFORMED, _odd(lambda fields: fields[6][0].__setitem__(2, b"short"))),
    "a name twice": (Reason.MALFORMED, _odd(lambda fields: fields[6].append(fields[6][0]))),
    "a base's id that is too long": (
        Reason.MALFORMED,
        _odd(lambda fields: fields[6][0].__setitem__(4, b"bases")),
    ),
    "no versions": (Reason.MALFORMED, _odd(lambda fields: fields[6].clear())),
    "two stable versions": (Reason.MALFORMED, _odd(lambda fields: fields[6][0].__setitem__(1, 2))),
    "a version named as a channel": (
        Reason.MALFORMED,
        _odd(lambda fields: fields[6][0].__setitem__(0, "stable")),
    ),
    "a key set as catalogue": (Reason.MALFORMED, seal(key_set(), [ONLINE])),
    "a later format": (Reason.FORMAT, _odd(lambda fields: fields.__setitem__(0, 2))),
    "another family": (Reason.FAMILY, sealed(family="other")),
    "a stranger's signature": (Reason.SIGNATURE, sealed(STRANGER)),
    "the root's own signature": (Reason.SIGNATURE, sealed(ROOT)),
    "a signature of another body": (
        Reason.SIGNATURE,
        msgspec.msgpack.encode(
            [msgspec.msgpack.decode(sealed(lifetime=9 * DAY))[0], msgspec.msgpack.decode(sealed())[1]]
        ),
    ),
    "a signature of another domain": (
        Reason.SIGNATURE,
        msgspec.msgpack.encode(
            Signed(
                body := msgspec.msgpack.encode(catalogue(NOW + 1)),
                (key_id(ONLINE.public) + ONLINE.sign(DOMAINS[KeySet] + body),),
            )
        ),
    ),
    "a key set that is not here": (Reason.KEY_SET, sealed(key_set=7)),
    "rollback": (Reason.ROLLBACK, sealed(epoch=NOW - 1)),
    "freeze": (Reason.EXPIRED, sealed(lifetime=1)),
    "fast-forward": (Reason.FUTURE, sealed(epoch=NOW + 400)),
    "equivocation": (Reason.EQUIVOCATION, sealed(epoch=NOW, lifetime=2 * DAY)),
    "a cleared topic": (Reason.EMPTY, b""),
}
"""Attacks on a reader that adopted `catalogue()` at `NOW`: reason and payload, refused at `LATER`."""

LATER = NOW + 50.0
