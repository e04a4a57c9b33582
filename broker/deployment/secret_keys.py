"""The deployment's own secrets: the key that signs for it, and what opening keys follow from.

Only commands need them, never the broker that runs. So their folder may be kept elsewhere and put back, or linked to,
for a command. Each file is named by what it holds, so that a change of the deployment takes up a new one at once.
"""

from __future__ import annotations

from pathlib import Path

from broker.files import private_folder, read_text, write_private
from flexspec_mq.errors import BrokerError
from flexspec_mq.keys.agreement import OpeningSecrets, new_opening_secrets, public_key
from flexspec_mq.keys.documents import DeploymentKey
from schemas.statement import ANY

_NAMED_BY = 8
"""Hexadecimal digits of a public key in a file's name."""


class KeptElsewhere(BrokerError):
    """A file of the deployment's secrets is not here."""


class SecretKeys:
    """Secrets of a deployment, in files of a folder. Methods that write raise `OSError` where they cannot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_signing(self) -> DeploymentKey:
        """Make a key that signs."""
        key = DeploymentKey.generate()
        private_folder(self.folder)
        write_private(self.signing_path(key.public), key.pem().decode())
        return key

    def new_opening(self) -> OpeningSecrets:
        """Make secrets from which opening keys follow."""
        opening = new_opening_secrets()
        private_folder(self.folder)
        write_private(self.opening_path(opening.public(())[ANY]), opening.master.hex() + "\n")
        return opening

    def signing(self, public: bytes) -> DeploymentKey:
        """Read the key that signs.

        Args:
            public: public part of the key.

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

    def signing_path(self, public: bytes) -> Path:
        """Path of the key that signs, here or not."""
        return self.folder / f"deployment-{public.hex()[:_NAMED_BY]}.key"

    def opening(self, public: bytes) -> OpeningSecrets:
        """Read the secrets from which opening keys follow.

        Args:
            public: the public opening key of `ANY`, which tells them from others.

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

    def opening_path(self, public: bytes) -> Path:
        """Path of the secrets from which opening keys follow, here or not; `public` as for `opening`."""
        return self.folder / f"opening-{public.hex()[:_NAMED_BY]}.key"


def _read(path: Path, purpose: str) -> str:
    if not path.exists():
        raise KeptElsewhere(f"{path} is not here, which {purpose}", hint=_put_back(path))
    return read_text(path)


def _put_back(path: Path) -> str:
    return f"put {path.name} back into {path.parent} for this command; afterwards it may go away again"
