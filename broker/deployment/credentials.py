"""What a deployment with keys signs: its statement, and who each client is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from broker.deployment.identities import Identities, Identity, PublicKeys
from broker.deployment.keyring import Keyring
from broker.settings import Role
from flexspec_mq.keys.credential import KeyRole
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.statement import sign_statement
from schemas.statement import ANY, Statement

KEY_ROLES = {Role.EDGE: KeyRole.EDGE, Role.WORKER: KeyRole.WORKER}
"""Who takes part in sessions, and so has a credential where there are keys."""


def with_new_keys(known: Identities, keyring: Keyring) -> Identities:
    """The same with keys that nobody has yet: all credentials are void, and so nothing need be revoked.

    Raises:
        OSError: their files cannot be written.
    """
    signing, opening = keyring.new_signing(), keyring.new_opening()
    serial = known.keys.read().serial + 1 if known.keys else 1
    statement = sign_statement(signing, serial, opening.public(known.versions), ())
    clients = {name: msgspec.structs.replace(one, credentials=()) for name, one in known.clients.items()}
    keys = PublicKeys(signing.public, statement)
    return msgspec.structs.replace(known, clients=clients, keys=keys)


def with_new_opening(known: Identities, keyring: Keyring) -> Identities:
    """The same with new opening keys; without keys it stays as it is.

    Raises:
        BrokerError: the key that signs is kept elsewhere.
        OSError: the new file cannot be written.
    """
    if known.keys is None:
        return known
    keyring.signing(known.keys.deployment)
    return _stated(known, known.keys, keyring, keyring.new_opening().public(known.versions), ())


def restated(known: Identities, keyring: Keyring, revoked: Iterable[str] = ()) -> Identities:
    """The same with a new statement, if there is anything new to say, or anything left unsigned.

    Args:
        known: with all clients as they are to be.
        keyring: of the deployment.
        revoked: serials of credentials that shall not hold any more.

    Raises:
        KeptElsewhere: the key that signs is not here, or what opening keys follow from and a version is new.
        UsageError: there are more revoked credentials than a statement holds.
    """
    if known.keys is None:
        return known
    said = known.keys.read().opening
    wanted = (*known.versions, ANY)
    if all(version in said for version in wanted):
        opening = {version: said[version] for version in wanted}
    else:
        opening = keyring.opening(said[ANY]).public(known.versions)
    return _stated(known, known.keys, keyring, opening, revoked)


def to_be_restated(known: Identities, revoked: Iterable[str]) -> Identities:
    """The same, with credentials that the next statement is to revoke: the key that signs is not here now."""
    if known.keys is None:
        return known
    keys = msgspec.structs.replace(known.keys, unsigned=(*known.keys.unsigned, *revoked))
    return msgspec.structs.replace(known, keys=keys)


def issued(known: Identities, keyring: Keyring, name: str, one: Identity) -> KeyIdentity | None:
    """A new credential for a client, with a key pair of its own; None for who needs none.

    Raises:
        BrokerError: the key that signs is kept elsewhere, or for a worker what opening keys follow from.
        UsageError: it is to serve more versions than a credential names.
    """
    role = KEY_ROLES.get(one.role)
    if known.keys is None or role is None:
        return None
    said = known.keys.read()
    return KeyIdentity.make(
        keyring.signing(known.keys.deployment),
        role,
        name,
        known.keys.statement,
        versions=one.versions,
        opening=keyring.opening(said.opening[ANY]) if role is KeyRole.WORKER else None,
    )


def outgrown(before: Identity, after: Identity) -> tuple[str, ...]:
    """Serials of the credentials that say more of a worker than it may do now."""
    more = not after.versions or (bool(before.versions) and set(before.versions) <= set(after.versions))
    return () if more else before.credentials


def _stated(
    known: Identities, keys: PublicKeys, keyring: Keyring, opening: dict[str, bytes], revoked: Iterable[str]
) -> Identities:
    said: Statement = keys.read()
    gone = said.revoked | {bytes.fromhex(one) for one in (*revoked, *keys.unsigned)}
    if (opening, gone) == (said.opening, said.revoked):
        return known
    signed = sign_statement(keyring.signing(keys.deployment), said.serial + 1, opening, gone)
    return msgspec.structs.replace(known, keys=PublicKeys(keys.deployment, signed))
