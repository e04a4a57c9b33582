"""The deployment's own secrets: the key that signs for it, and what opening keys follow from.

Only commands need them, never the broker that runs. So their folder may be kept elsewhere and put back, or linked to,
for a command. Each file is named by what it holds, so that a change of the deployment takes up a new one at once.
"""

from __future__ import annotations

from pathlib import Path

from broker.files import private_folder, read_text, write_private
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.keys.credential import public_key
from flexspec_mq.keys.opening import OpeningSecrets, new_opening_secrets
from flexspec_mq.keys.signing import DeploymentKey
from schemas.statement import ANY

_NAMED_BY = 8
"""Hexadecimal digits of a public key in a file's name."""


class KeptElsewhere(BrokerError):
    """A file of the keyring is not here."""


class Keyring:
    """Secrets of a deployment.

    Args:
        folder: of their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_signing(self) -> DeploymentKey:
        """Make a key that signs.

        Raises:
            OSError: it cannot be written.
        """
        made = DeploymentKey.generate()
        private_folder(self.folder)
        write_private(self.path_of_signing(made.public), made.pem())
        return made

    def new_opening(self) -> OpeningSecrets:
        """Make secrets from which opening keys follow.

        Raises:
            OSError: they cannot be written.
        """
        made = new_opening_secrets()
        private_folder(self.folder)
        write_private(self._opening(made.public(())[ANY]), made.master.hex() + "\n")
        return made

    def signing(self, public: bytes) -> DeploymentKey:
        """The key that signs.

        Args:
            public: its public part.

        Raises:
            KeptElsewhere: it is not here.
            BrokerError: it is another one, or none.
        """
        path = self.path_of_signing(public)
        text = _text(path, "signs who a client is, and who is none any more")
        try:
            found = DeploymentKey.of_pem(text)
        except UsageError as error:
            raise BrokerError(f"{path} cannot be used: {error.message}", hint=_elsewhere(path)) from error
        if found.public != public:
            raise BrokerError(f"{path} is the key of another deployment", hint=_elsewhere(path))
        return found

    def path_of_signing(self, public: bytes) -> Path:
        """Where the key that signs should be."""
        return self.folder / f"deployment-{public.hex()[:_NAMED_BY]}.key"

    def opening(self, public: bytes) -> OpeningSecrets:
        """Secrets from which opening keys follow.

        Args:
            public: the public opening key of `ANY`, which tells them from others.

        Raises:
            KeptElsewhere: they are not here.
            BrokerError: they are others, or none.
        """
        path = self._opening(public)
        text = _text(path, "is needed to hand workers the keys of their versions")
        try:
            master = bytes.fromhex(text.strip())
            found = OpeningSecrets(master)
            own = public_key(found.of(ANY) or b"")
        except ValueError as error:
            raise BrokerError(f"{path} cannot be used: {error}", hint=_elsewhere(path)) from error
        if own != public:
            raise BrokerError(f"{path} is of another deployment", hint=_elsewhere(path))
        return found

    def drop_signing(self, public: bytes) -> None:
        """Remove a key that signs no more, if it is here."""
        self.path_of_signing(public).unlink(missing_ok=True)

    def drop_opening(self, public: bytes) -> None:
        """Remove secrets from which no opening key follows any more, if they are here."""
        self._opening(public).unlink(missing_ok=True)

    def _opening(self, public: bytes) -> Path:
        return self.folder / f"opening-{public.hex()[:_NAMED_BY]}.key"


def _text(path: Path, what_for: str) -> str:
    if not path.exists():
        raise KeptElsewhere(f"{path} is not here, which {what_for}", hint=_elsewhere(path))
    return read_text(path)


def _elsewhere(path: Path) -> str:
    return f"put {path.name} back into {path.parent} for this command; afterwards it may go away again"
