"""A family as its operators have it: keys, a catalogue, heads in a folder."""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from flexspec_mq import topics
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.signing import PrivateKey, seal
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, digest, file_entry
from flexspec_mq.transport.link import Link
from schemas.catalogue import FORMAT, Catalogue, KeySet

FAMILY = "smol"


@dataclass
class Operator:
    """Holds both keys of a family, and puts heads into a folder.

    Attributes:
        heads: the folder.
        catalogue: as published last.
    """

    heads: Path
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    online: PrivateKey = field(default_factory=PrivateKey.generate)
    catalogue: Catalogue | None = None

    def head(self, files: dict[str, bytes] | Path, **facts: object) -> bytes:
        """Put a head where it belongs: its files, or those of a folder; its digest."""
        part = self.heads / "part"
        part.mkdir(parents=True)
        for name, data in (_read(files) if isinstance(files, Path) else files).items():
            (part / name).write_bytes(data)
        manifest = Manifest(files=tuple(map(file_entry, sorted(part.iterdir()))), **facts)  # type: ignore[arg-type]
        (part / MANIFEST).write_bytes(data := manifest.encode())
        part.rename(self.heads / digest(data).hex())
        return digest(data)

    def begin(self, name: str, first: bytes) -> None:
        """The first catalogue."""
        self.catalogue = editing.begin(
            FAMILY,
            name=name,
            digest=first,
            heads=str(self.heads),
            lifetime=3600,
            key_set=1,
            now=time.time() - 100,
        )

    @property
    def current(self) -> Catalogue:
        assert self.catalogue is not None
        return self.catalogue

    def keys(self, serial: int = 1, expires: float = 2e9) -> bytes:
        """The key set, sealed."""
        return seal(
            KeySet(FORMAT, FAMILY, serial, 1, (self.online.public,), expires=int(expires)), [self.root]
        )

    def sealed(self) -> bytes:
        """The catalogue, sealed."""
        return seal(self.current, [self.online])

    async def publish(self, link: Link) -> None:
        """Retain both at the broker."""
        await link.publish(topics.keys_topic(FAMILY), self.keys(), qos=1, retain=True)
        await link.publish(topics.catalogue_topic(FAMILY), self.sealed(), qos=1, retain=True)


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def simple(kind: str = "lora", canaries: tuple[Canary, ...] = ()) -> dict[str, object]:
    """Facts of a manifest for a base that nobody has."""
    fingerprint = hashlib.md5(b"base", usedforsecurity=False).hexdigest()
    return {
        "kind": kind,
        "base": fingerprint,
        "tokenizer": fingerprint,
        "layers": 30,
        "floor": 6,
        "canaries": canaries,
    }
