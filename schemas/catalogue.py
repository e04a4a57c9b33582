"""The signed messages of a target family: its key set on ``f1/k/<family>`` and its catalogue on ``f1/h/<family>``.

Published is `Signed`: the exact bytes of a `KeySet` or a `Catalogue`, and signatures over them. All are
msgpack arrays. Fields are only ever appended, with a default; unknown fields at the end are skipped, and last fields
that hold their defaults are left out.
"""

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages import Name
from schemas.statement import UNDATED, Second

FORMAT = 1

MAX_PAYLOAD = 4096
"""Bytes of a signed message; longer ones are refused before they are read."""
MAX_VERSIONS = 32
MAX_KEYS = 16

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
BASE_ID = 4
"""Bytes of a base's id, the beginning of the fingerprint of its weights."""
BaseId = Annotated[bytes, Meta(max_length=BASE_ID)]
KEY_ID = 4
"""Bytes of a key's id, the beginning of the SHA-256 of the public key."""
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
KeySignature = Annotated[bytes, Meta(min_length=KEY_ID + 64, max_length=KEY_ID + 64)]
"""Id of the key, and its signature behind it."""
Serial = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class VersionState(IntEnum):
    """Where a version stands.

    `CANARY` takes its share of new sessions, `STABLE` the others; exactly one version is stable. `DRAINING` is served
    only to those who name it; `RETIRED` takes no new sessions at all.
    """

    CANARY = 1
    STABLE = 2
    DRAINING = 3
    RETIRED = 4


class CatalogueVersion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """A version of a family.

    Attributes:
        name: on topics and in the API.
        state: where it stands.
        digest: SHA-256 of its head's manifest, which binds the head's files, the base that it belongs to, and the
            dtype and weights that it is computed with: two workers with this digest write the same texts.
        share: percent of new sessions that a canary takes.
        base: id of its base where that is another one than the family's, so that workers know which versions are
            theirs; empty where it is the family's. The drafts of devices share the lower layers of the family's base
            alone: beside any other they are independent small models.
    """

    name: Name
    state: VersionState
    digest: Digest
    share: Annotated[int, Meta(ge=0, le=100)] = 0
    base: BaseId = b""


class Catalogue(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """All of a family at one moment.

    Attributes:
        format: `FORMAT`.
        family: as on the topic.
        epoch: when it was issued; a later catalogue has a higher one.
        lifetime: seconds from `epoch` until it expires.
        key_set: serial of the key set whose keys signed it.
        heads: URL below which heads lie, each in a folder named by its digest in hex.
        versions: all that exist, each name once.
    """

    format: Annotated[int, Meta(ge=0, le=255)]
    family: Name
    epoch: Second
    lifetime: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    key_set: Serial
    heads: Annotated[str, Meta(max_length=512)]
    versions: Annotated[tuple[CatalogueVersion, ...], Meta(max_length=MAX_VERSIONS)]


class KeySet(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Who may sign a family's catalogues; signed by the offline root key.

    Attributes:
        format: `FORMAT`.
        family: as on the topic.
        serial: a later key set has a higher one.
        threshold: different keys that must sign a catalogue.
        keys: Ed25519 public keys.
        reset: catalogues with an epoch above this that were seen before this key set do not count any more; 0 resets
            nothing.
        expires: second from which it counts no more: a later one may be withheld.
    """

    format: Annotated[int, Meta(ge=0, le=255)]
    family: Name
    serial: Serial
    threshold: Annotated[int, Meta(ge=1, le=MAX_KEYS)]
    keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=MAX_KEYS)]
    reset: Second = 0
    expires: Second = UNDATED


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """A signed document, as it is published.

    Attributes:
        body: msgpack of a `KeySet` or a `Catalogue`, exactly as it was signed.
        signatures: each the id of a key and its Ed25519 signature over a domain prefix and `body`.
    """

    body: Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]
    signatures: Annotated[tuple[KeySignature, ...], Meta(min_length=1, max_length=MAX_KEYS)]
