"""A deployment's keys in a folder, as `flexspec-broker` hands them out."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.keys.agreement import OpeningSecrets, new_opening_secrets
from flexspec_mq.keys.documents import DeploymentKey, KeyRole, sign_statement
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.worker import WorkerKeys
from flexspec_mq.transport.base import LinkSettings, Outbound
from schemas.status import WorkerStatus


def at(broker: PrivateBroker, client_id: str) -> LinkSettings:
    """Settings of a client that soon tries again."""
    return LinkSettings(port=broker.port, client_id=client_id, backoff=0.01, backoff_max=0.05)


def status_by(identity: KeyIdentity, status: WorkerStatus, credential: bytes = b"") -> bytes:
    """A status that the owner of some keys signs, with its credential or another one."""
    keys = WorkerKeys(identity, lease=1.0, capacity=1)
    shown = msgspec.structs.replace(status, credential=credential or keys.status_credential)
    return keys.signed_status(Codec().encode_status(shown))


@dataclass
class KeyedDeployment:
    """Makes identities, and files of them."""

    folder: Path
    versions: tuple[str, ...] = ()
    key: DeploymentKey = field(default_factory=DeploymentKey.generate)
    opening: OpeningSecrets = field(default_factory=new_opening_secrets)
    serial: int = 1
    revoked: list[bytes] = field(default_factory=list)
    serials: dict[str, bytes] = field(default_factory=dict)
    expires: float = 2e9

    def statement(self) -> bytes:
        opening = self.opening.public(self.versions)
        return sign_statement(self.key, self.serial, opening, self.revoked, int(self.expires))

    def edge(self, name: str = "edge") -> KeyIdentity:
        return self._noted(KeyIdentity.make(self.key, KeyRole.EDGE, name, self.statement()))

    def worker(self, name: str = "w1", *versions: str) -> KeyIdentity:
        identity = KeyIdentity.make(
            self.key, KeyRole.WORKER, name, self.statement(), versions=versions, opening=self.opening
        )
        return self._noted(identity)

    def edge_file(self, name: str = "edge") -> Path:
        return self._written(self.edge(name))

    def worker_file(self, name: str = "w1", *versions: str) -> Path:
        return self._written(self.worker(name, *versions))

    def revoke(self, name: str) -> Outbound:
        """The statement by which an identity is believed no more, as the broker publishes it."""
        self.serial += 1
        self.revoked.append(self.serials[name])
        return self.published()

    def published(self) -> Outbound:
        return Outbound(topics.statement_topic(), self.statement(), 1, retain=True)

    def _noted(self, identity: KeyIdentity) -> KeyIdentity:
        self.serials[identity.credential.name] = identity.credential.serial
        return identity

    def _written(self, identity: KeyIdentity) -> Path:
        path = self.folder / f"{identity.credential.name}.json"
        path.write_text(identity.text())
        path.chmod(0o600)
        return path
