"""Identities of a deployment that lasts as long as a benchmark."""

from pathlib import Path

from flexspec_mq.keys.agreement import new_opening_secrets
from flexspec_mq.keys.documents import DeploymentKey, KeyRole, sign_statement
from flexspec_mq.keys.identity_file import KeyIdentity
from schemas.statement import UNDATED


class Identities:
    """Makes identities that believe each other.

    Attributes:
        statement: statement of their deployment, signed.
    """

    def __init__(self) -> None:
        self._key = DeploymentKey.generate()
        self._opening = new_opening_secrets()
        self.statement = sign_statement(self._key, 1, self._opening.public(()), (), UNDATED)

    def edge(self, name: str) -> KeyIdentity:
        """Identity of a device."""
        return KeyIdentity.make(self._key, KeyRole.EDGE, name, self.statement)

    def worker(self, name: str) -> KeyIdentity:
        """Identity of a worker of any version."""
        return KeyIdentity.make(self._key, KeyRole.WORKER, name, self.statement, opening=self._opening)

    @staticmethod
    def written(identity: KeyIdentity, folder: Path) -> Path:
        """The file of an identity, as a daemon takes it."""
        path = folder / f"{identity.credential.role}-{identity.credential.name}.json"
        path.touch(mode=0o600)
        path.write_text(identity.text(), encoding="utf-8")
        return path
