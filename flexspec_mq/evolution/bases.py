"""Which base a version has: the family's, or another one that speaks the same tokens."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.heads.fetch import fetch_manifest
from flexspec_mq.heads.manifest import MANIFEST, HeadError, decode, digest
from flexspec_mq.heads.place import FetchError, from_catalogue
from schemas.catalogue import BASE_ID, VersionState

if TYPE_CHECKING:
    from pathlib import Path

    from flexspec_mq.heads.manifest import Manifest
    from schemas.catalogue import Catalogue


def other_base(folder: Path, catalogue: Catalogue, upload: str | None) -> bytes:
    """What the catalogue is to say of the base of a version.

    Args:
        folder: of its head.
        catalogue: of the family; a version in it with this head keeps what it says.
        upload: URL below which the family's heads lie too, seen from here.

    Returns:
        Empty if it is the family's base; the id of another.

    Raises:
        HeadError: it is of another tokenizer than the family, or of its base and touches its backbone.
        UsageError: no version of the family's base can be read, so that nobody knows which base that is.
    """
    data = (folder / MANIFEST).read_bytes()
    manifest, name = decode(data), digest(data)
    known = next((one for one in catalogue.versions if one.digest == name), None)
    if known is not None:
        return known.base
    family, floor = _of_the_family(catalogue, upload)
    if manifest.tokenizer != family.tokenizer:
        raise HeadError(
            f"it does not fit into {catalogue.family}: its tokenizer has the fingerprint {manifest.tokenizer}, the "
            f"family's has {family.tokenizer}. Vocabulary, special tokens or chat template are others, so the drafts "
            "that devices have would mean other tokens",
            hint="where only the chat template differs, give the base the family's and make the head anew; else "
            "begin a family of its own for it with --first",
        )
    if manifest.base != family.base:
        return bytes.fromhex(manifest.base)[:BASE_ID]
    if manifest.floor < floor:
        raise HeadError(
            f"it may touch layers from {manifest.floor} on, and the layers below {floor} are the backbone of "
            f"{catalogue.family}, which the drafts of devices share",
            hint=f"make it with --floor {floor}",
        )
    return b""


def _of_the_family(catalogue: Catalogue, upload: str | None) -> tuple[Manifest, int]:
    """The manifest of a version of the family's base, the stable one if it is such, and the lowest floor of all."""
    own = [one for one in reversed(catalogue.versions) if not one.base]
    own.sort(key=lambda one: one.state is not VersionState.STABLE)
    found: list[Manifest] = []
    why = ""
    for one in own:
        try:
            found.append(_manifest(one.digest, catalogue, upload))
        except (FetchError, HeadError, UsageError) as error:
            why = why or f": version {one.name}: {error.message}"
    if found:
        return found[0], min(one.floor for one in found)
    raise UsageError(
        f"it cannot be told which base {catalogue.family} has{why}",
        hint="put its head back where workers fetch it: `flexspec head publish` with its folder and name does",
    )


def _manifest(wanted: bytes, catalogue: Catalogue, upload: str | None) -> Manifest:
    if upload is not None:
        with suppress(FetchError, HeadError):
            return fetch_manifest(upload, wanted)
    return fetch_manifest(from_catalogue(catalogue.heads), wanted)
