"""The manifest of a head: all that decides a version's text, in one file whose SHA-256 names the version.

A head lies in a folder named by that digest: `MANIFEST`, and beside it the files that it lists. The catalogue signs
the digest, so neither a file nor the base, dtype or layers that it belongs to can be exchanged.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flexspec_mq.errors import ModelError
from schemas.catalogue import BASE_ID

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST = 1 << 20
"""Bytes."""
MAX_FILES = 16
MAX_CANARIES = 16
CANARY_SHARE = 0.9
"""Share of all canaries' tokens that must come out: near ties may fall otherwise on another processor or engine."""

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$(?!\n)")]
TokenIds = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**24)], ...], Meta(min_length=1, max_length=1024)]


class HeadError(ModelError):
    """A head that cannot be used: damaged, of another base, or touching what it must not."""


class HeadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file beside the manifest."""

    name: FileName
    size: Annotated[int, Meta(ge=0, lt=2**40)]
    sha256: Hex32


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt, and what the version writes behind it greedily."""

    prompt: TokenIds
    text: TokenIds


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Manifest of a version: all that it is made of.

    Attributes:
        format: `FORMAT`.
        kind: ``base`` has no files: the base itself. ``lora`` is a PEFT adapter directory. ``full`` has all weights
            of the layers from `floor` on, with the base's names, and maybe final norm and LM head.
        base: fingerprint of the base's weights.
        tokenizer: fingerprint of its tokenizer.
        layers: number of the base's layers.
        floor: the lowest layer that the head may touch, the depth of the family's backbone.
        dtype: type that the version is computed in.
        weights: the base's: ``native`` or ``int8``.
        files: beside the manifest.
        canaries: texts that must come out, but for ties.
    """

    format: int = FORMAT
    kind: Literal["base", "lora", "full"]
    base: Fingerprint
    tokenizer: Fingerprint
    layers: Annotated[int, Meta(ge=1, le=4096)]
    floor: Annotated[int, Meta(ge=0, le=4096)]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    weights: Literal["native", "int8"] = "native"
    files: Annotated[tuple[HeadFile, ...], Meta(max_length=MAX_FILES)] = ()
    canaries: Annotated[tuple[Canary, ...], Meta(max_length=MAX_CANARIES)] = ()

    @property
    def base_id(self) -> bytes:
        """As catalogues name bases that are not the family's."""
        return bytes.fromhex(self.base)[:BASE_ID]

    def encode(self) -> bytes:
        """The bytes of the file; `digest` of them is the version's."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def digest(manifest: bytes) -> bytes:
    """SHA-256 of a manifest's bytes, which names the version."""
    return hashlib.sha256(manifest).digest()


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        HeadError: it is too long, not of this format, or names a file twice.
    """
    if len(data) > MAX_MANIFEST:
        raise HeadError(f"the manifest has {len(data)} bytes, more than {MAX_MANIFEST}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise HeadError(f"the manifest cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise HeadError(
            f"the manifest has format {manifest.format}; this program reads {FORMAT}",
            hint="update this program",
        )
    names = [file.name for file in manifest.files]
    if len(set(names)) < len(names) or MANIFEST in names:
        raise HeadError("the manifest names a file twice, or itself")
    return manifest


def file_entry(path: Path) -> HeadFile:
    """Size and digest of a file, for a manifest."""
    with path.open("rb") as file:
        return HeadFile(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read_head(folder: Path, expected: bytes | None = None) -> Manifest:
    """Read a head's manifest, and compare all its files with what it says.

    Args:
        folder: the head's.
        expected: digest that the manifest must have; None takes any.

    Raises:
        HeadError: a file is missing or another one than the manifest says, or so is the manifest.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        if expected is not None and digest(data) != expected:
            raise HeadError(f"{folder / MANIFEST} is not the manifest {expected.hex()[:16]}…")
        manifest = decode(data)
        for file in manifest.files:
            if file_entry(folder / file.name) != file:
                raise HeadError(f"{folder / file.name} is not the file that the manifest lists")
    except OSError as error:
        raise HeadError(
            f"the head in {folder} cannot be read: {error}",
            hint="give a folder that `flexspec head train`, `base` or `import` has written; `import` makes one of an "
            "adapter that PEFT has saved",
        ) from error
    return manifest
