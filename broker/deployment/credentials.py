"""Statement and credentials of a deployment with keys: all that it signs.

Functions raise `KeptElsewhere` where a secret that is needed is not here, and `OSError` where none can be written.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from broker.deployment.identities import Client, Identities, PublicKeys
from broker.deployment.secret_keys import SecretKeys
from broker.settings import Role
from flexspec_mq.keys.documents import KeyRole, sign_statement
from flexspec_mq.keys.identity_file import KeyIdentity
from schemas.statement import ANY

KEY_ROLES = {Role.EDGE: KeyRole.EDGE, Role.WORKER: KeyRole.WORKER}
"""Roles that take part in sessions, and so have a credential where there are keys."""


def with_new_keys(known: Identities, keys: SecretKeys) -> Identities:
    """The same with keys that nobody has yet: all credentials are void, and so nothing need be revoked."""
    signing, opening = keys.new_signing(), keys.new_opening()
    serial = known.keys.read().serial + 1 if known.keys else 1
    statement = sign_statement(signing, serial, opening.public(known.versions), ())
    clients = {name: replace(client, credentials=()) for name, client in known.clients.items()}
    return replace(known, clients=clients, keys=PublicKeys(signing.public, statement))


def with_new_opening(known: Identities, keys: SecretKeys) -> Identities:
    """The same with new opening keys; without keys it stays as it is."""
    if known.keys is None:
        return known
    keys.signing(known.keys.deployment)  # or no file is made
    return _stated(known, known.keys, keys, keys.new_opening().public(known.versions), ())


def restated(known: Identities, keys: SecretKeys, revoked: Iterable[str] = ()) -> Identities:
    """The same with a new statement, if there is anything new to say, or anything left unsigned.

    Args:
        known: the identities, with all clients as they are to be.
        keys: secrets of the deployment.
        revoked: serials of credentials that shall not hold any more.

    Raises:
        UsageError: there are more revoked credentials than a statement holds.
    """
    if known.keys is None:
        return known
    present = known.keys.read().opening
    wanted = (*known.versions, ANY)
    if all(version in present for version in wanted):
        opening = {version: present[version] for version in wanted}
    else:
        opening = keys.opening(present[ANY]).public(known.versions)
    return _stated(known, known.keys, keys, opening, revoked)


def to_be_restated(known: Identities, revoked: Iterable[str]) -> Identities:
    """The same, with credentials that the next statement is to revoke: the key that signs is not here now."""
    if known.keys is None:
        return known
    return replace(known, keys=replace(known.keys, unsigned=(*known.keys.unsigned, *revoked)))


def issued(known: Identities, keys: SecretKeys, name: str, client: Client) -> KeyIdentity | None:
    """A new credential for a client, with a key pair of its own; None for who needs none.

    Raises:
        UsageError: it is to serve more versions than a credential names.
    """
    role = KEY_ROLES.get(client.role)
    if known.keys is None or role is None:
        return None
    return KeyIdentity.make(
        keys.signing(known.keys.deployment),
        role,
        name,
        known.keys.statement,
        versions=client.versions,
        opening=keys.opening(known.keys.read().opening[ANY]) if role is KeyRole.WORKER else None,
    )


def outgrown(before: Client, after: Client) -> tuple[str, ...]:
    """Serials of the credentials that say more of a worker than it may do now."""
    more = not after.versions or (bool(before.versions) and set(before.versions) <= set(after.versions))
    return () if more else before.credentials


def _stated(
    known: Identities, public: PublicKeys, keys: SecretKeys, opening: dict[str, bytes], void: Iterable[str]
) -> Identities:
    present = public.read()
    revoked = present.revoked | {bytes.fromhex(serial) for serial in (*void, *public.unsigned)}
    if (opening, revoked) == (present.opening, present.revoked):
        return known
    signed = sign_statement(keys.signing(public.deployment), present.serial + 1, opening, revoked)
    return replace(known, keys=PublicKeys(public.deployment, signed))
