"""Heads at the place from which workers fetch them: put there, and compared with what is to be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.heads.manifest import MANIFEST, MAX_MANIFEST, HeadError, digest, read_head
from flexspec_mq.heads.place import FetchError, Place

if TYPE_CHECKING:
    from pathlib import Path

    from flexspec_mq.heads.manifest import Manifest


def upload(folder: Path, heads: str) -> tuple[bytes, bool]:
    """See that a head lies at ``<heads>/<digest>``, copying it there if it does not.

    The manifest is copied last, so nobody fetches half a head.

    Args:
        folder: the head, which is compared with its manifest first.
        heads: URL or path of all heads.

    Returns:
        The digest of its manifest, and whether it had to be copied.

    Raises:
        HeadError: the folder's files are not those that its manifest lists.
        UsageError: what is at the URL is another head, or it is not there and cannot be copied there.
    """
    manifest = read_head(folder)
    data = (folder / MANIFEST).read_bytes()
    name = digest(data)
    place = Place(f"{heads.rstrip('/')}/{name.hex()}")
    if _there(place, data, manifest):
        return name, False
    place.put(folder, (*(one.name for one in manifest.files), MANIFEST))
    if not _there(place, data, manifest):
        raise UsageError(
            f"what was written to {place.url} cannot be read back as it was",
            hint="look at the permissions and the room there; then give this command again",
        )
    return name, True


def _there(place: Place, data: bytes, manifest: Manifest) -> bool:
    """Whether all of the head is there, byte by byte."""
    try:
        if place.read(MANIFEST, MAX_MANIFEST) != data:
            return False
        for file in manifest.files:
            place.copy(file)
    except (FetchError, HeadError):
        return False
    return True
