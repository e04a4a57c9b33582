"""Opening keys: to which an open is sealed before anybody knows which worker will answer it.

Each version has an X25519 key pair, which follows from a secret of the deployment. Its public part is in the
statement; its private part is known to the workers that may serve the version. Versions that the statement does not
name have a pair in common, under the name ``*``, which workers of any version know.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flexspec_mq.errors import UsageError
from flexspec_mq.keys.credential import public_key
from schemas.statement import ANY

_LABEL = b"flexspec opening key 1\0"


@dataclass(frozen=True, slots=True)
class OpeningSecrets:
    """Private opening keys that somebody knows.

    Attributes:
        master: 32 bytes from which all follow; empty if not known.
        keys: version → private key of 32 bytes, for those who know some only.
    """

    master: bytes = field(default=b"", repr=False)
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def private_key(self, version: str) -> bytes | None:
        """The private key of a version, or of `ANY`; None if it is not known."""
        if self.master:
            kdf = HKDF(SHA256(), length=32, salt=None, info=_LABEL + version.encode())
            return kdf.derive(self.master)
        return self.keys.get(version)

    def candidates(self, version: str) -> tuple[bytes, ...]:
        """Private keys that an open of a version may be sealed to, likeliest first.

        A device whose statement does not name the version yet takes the key of `ANY`.
        """
        return tuple(key for key in (self.private_key(version), self.private_key(ANY)) if key is not None)

    def only(self, versions: Iterable[str]) -> OpeningSecrets:
        """Secrets for a worker of these versions; all if there are none.

        Raises:
            UsageError: one is not known.
        """
        keys: dict[str, bytes] = {}
        for version in versions:
            key = self.private_key(version)
            if key is None:
                raise UsageError(f"the opening key of version {version} is not known here")
            keys[version] = key
        return OpeningSecrets(b"", keys) if keys else self

    def public(self, versions: Iterable[str]) -> dict[str, bytes]:
        """Public keys for a statement: those of `versions` and the one of `ANY`, as far as known."""
        known = ((version, self.private_key(version)) for version in (*versions, ANY))
        return {version: public_key(private) for version, private in known if private is not None}


def new_opening_secrets() -> OpeningSecrets:
    """Secrets that nobody knows yet."""
    return OpeningSecrets(secrets.token_bytes(32))
