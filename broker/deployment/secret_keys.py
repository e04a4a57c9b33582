"""The deployment's own secrets, and all that is signed with them: its statement and its clients' credentials.

Secrets are the key that signs for the deployment, and what opening keys follow from. Only commands need them, never
the broker that runs. So their folder may be kept elsewhere and put back, or linked to, for a command. Each file is
named by what it holds, so that a change of the deployment takes up a new one at once.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from broker.deployment.identities import Client, Identities, PublicKeys
from broker.files import private_folder, read_text, write_private
from broker.settings import Role
from flexspec_mq.daemon.dated import DAY, LIFETIME
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.keys.agreement import OpeningSecrets, new_opening_secrets, public_key
from flexspec_mq.keys.documents import DeploymentKey, KeyRole, sign_statement
from flexspec_mq.keys.identity_file import KeyIdentity
from schemas.statement import ANY

KEY_ROLES = {Role.EDGE: KeyRole.EDGE, Role.WORKER: KeyRole.WORKER}
"""Roles that take part in sessions, and so have a credential where there are keys."""
_NAMED_BY = 8
"""Hexadecimal digits of a public key in a file's name."""


class KeptElsewhere(BrokerError):
    """A file of the deployment's secrets is not here."""


class SecretKeys:
    """Secrets of a deployment, in files of a folder; `clock` gives seconds since the Unix epoch.

    Methods that sign raise `KeptElsewhere` where a secret that is needed is not here, and those that make secrets
    `OSError` where none can be written.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock

    def with_new_keys(self, known: Identities) -> Identities:
        """The same with keys that nobody has yet: all credentials are void, and so nothing need be revoked."""
        key = DeploymentKey.generate()
        private_folder(self.folder)
        write_private(self.signing_path(key.public), key.pem().decode())
        serial = known.keys.read().serial + 1 if known.keys else 1
        opening = self._new_opening().public(known.versions)
        statement = sign_statement(key, serial, opening, (), self._until())
        clients = {name: replace(client, credentials=()) for name, client in known.clients.items()}
        return replace(known, clients=clients, keys=PublicKeys(key.public, statement))

    def with_new_opening(self, known: Identities) -> Identities:
        """The same with new opening keys; without keys it stays as it is."""
        if known.keys is None:
            return known
        self._signing(known.keys.deployment)  # or no file is made
        return self._stated(known, known.keys, self._new_opening().public(known.versions), ())

    def restated(self, known: Identities, revoked: Iterable[str] = ()) -> Identities:
        """The same with a new statement, if there is anything new to say, or anything left unsigned.

        A statement that was signed more than a day ago is signed anew as well, where the key that signs is here.

        Args:
            known: the identities, with all clients as they are to be.
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
            opening = self._opening(present[ANY]).public(known.versions)
        return self._stated(known, known.keys, opening, revoked)

    def renewed(self, known: Identities) -> Identities:
        """The same with a statement that says what the present one does, and holds for longer.

        Raises:
            UsageError: the deployment has no keys.
        """
        if known.keys is None:
            raise UsageError(
                "this broker has no keys, so there is nothing that expires",
                hint="`flexspec-broker rotate DIR --keys` makes some",
            )
        return self._stated(known, known.keys, known.keys.read().opening, (), again=True)

    def issued(self, known: Identities, name: str, client: Client) -> KeyIdentity | None:
        """A new credential for a client, with a key pair of its own; None for who needs none.

        Raises:
            UsageError: it is to serve more versions than a credential names.
        """
        role = KEY_ROLES.get(client.role)
        if known.keys is None or role is None:
            return None
        return KeyIdentity.make(
            self._signing(known.keys.deployment),
            role,
            name,
            known.keys.statement,
            versions=client.versions,
            opening=self._opening(known.keys.read().opening[ANY]) if role is KeyRole.WORKER else None,
        )

    def signing_path(self, public: bytes) -> Path:
        """Path of the key that signs, here or not, by its public part."""
        return self.folder / f"deployment-{public.hex()[:_NAMED_BY]}.key"

    def opening_path(self, public: bytes) -> Path:
        """Path of the secrets from which opening keys follow, here or not, by the public opening key of `ANY`."""
        return self.folder / f"opening-{public.hex()[:_NAMED_BY]}.key"

    def _until(self) -> int:
        return int(self._clock()) + LIFETIME

    def _stated(
        self,
        known: Identities,
        keys: PublicKeys,
        opening: dict[str, bytes],
        void: Iterable[str],
        *,
        again: bool = False,
    ) -> Identities:
        present = keys.read()
        revoked = present.revoked | {bytes.fromhex(serial) for serial in (*void, *keys.unsigned)}
        if (opening, revoked) == (present.opening, present.revoked) and not again:
            signed_of_late = present.expires >= self._until() - DAY
            if signed_of_late or not self.signing_path(keys.deployment).exists():
                return known
        signer, until = self._signing(keys.deployment), self._until()
        if not again:  # nor for a clock that was set back
            until = max(until, present.expires)
        signed = sign_statement(signer, present.serial + 1, opening, revoked, until)
        return replace(known, keys=PublicKeys(keys.deployment, signed))

    def _new_opening(self) -> OpeningSecrets:
        opening = new_opening_secrets()
        private_folder(self.folder)
        write_private(self.opening_path(opening.public(())[ANY]), opening.master.hex() + "\n")
        return opening

    def _signing(self, public: bytes) -> DeploymentKey:
        """Read the key that signs.

        Raises:
            KeptElsewhere: it is not here.
            BrokerError: it is another one, or none.
        """
        path = self.signing_path(public)
        text = _read(path, "signs who a client is, and who is none any more")
        try:
            key = DeploymentKey.from_pem(text.encode())
        except ValueError as error:
            raise BrokerError(f"{path} cannot be used: this is {error}", hint=_put_back(path)) from error
        if key.public != public:
            raise BrokerError(f"{path} is the key of another deployment", hint=_put_back(path))
        return key

    def _opening(self, public: bytes) -> OpeningSecrets:
        """Read the secrets from which opening keys follow.

        Raises:
            KeptElsewhere: they are not here.
            BrokerError: they are others, or none.
        """
        path = self.opening_path(public)
        text = _read(path, "is needed to hand workers the keys of their versions")
        try:
            opening = OpeningSecrets(bytes.fromhex(text.strip()))
            own = public_key(opening.private_key(ANY) or b"")
        except ValueError as error:
            raise BrokerError(f"{path} cannot be used: {error}", hint=_put_back(path)) from error
        if own != public:
            raise BrokerError(f"{path} is of another deployment", hint=_put_back(path))
        return opening


def outgrown(before: Client, after: Client) -> tuple[str, ...]:
    """Serials of the credentials that say more of a worker than it may do now."""
    more = not after.versions or (bool(before.versions) and set(before.versions) <= set(after.versions))
    return () if more else before.credentials


def _read(path: Path, purpose: str) -> str:
    if not path.exists():
        raise KeptElsewhere(f"{path} is not here, which {purpose}", hint=_put_back(path))
    return read_text(path)


def _put_back(path: Path) -> str:
    return f"put {path.name} back into {path.parent} for this command; afterwards it may go away again"
