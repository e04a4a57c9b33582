"""``flexspec head publish``: checks a head, copies it to where workers fetch it, and announces its version."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.check import add_base, base_path, check_head
from flexspec_mq.evolution.cli_common import DAY, add_command, add_lifetime, add_out, connected
from flexspec_mq.evolution.offline_signing import publish_or_write
from flexspec_mq.evolution.settings import from_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from flexspec_mq.catalogue.signing import PrivateKey
    from flexspec_mq.evolution.catalogue_client import CatalogueClient
    from flexspec_mq.heads.manifest import Manifest
    from flexspec_mq.heads.place import Place
    from schemas.catalogue import Catalogue

_LIFETIME_DAYS = 7.0


def add_publish_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``publish``."""
    about = "check a head, copy it to where workers fetch it, and announce its version"
    publish = add_command(actions, "publish", _publish, about)
    add = publish.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of the head, with its manifest")
    add("--name", required=True, metavar="NAME", help="of the version")
    add("--state", choices=("canary", "stable"), default="canary", help="what it becomes (default: canary)")
    about = "percent of new sessions for a canary (default: 10)"
    add("--share", type=int, default=10, metavar="P", help=about)
    about = "where this machine writes heads (default: where the catalogue says)"
    add("--upload", metavar="URL", help=about)
    add_base(publish)
    add("--first", action="store_true", help="begin the family's catalogue; the version is stable")
    add("--heads", metavar="URL", help="with --first: below which workers find heads")
    add_out(publish)
    add_lifetime(publish, f"with --first: days until a catalogue expires (default: {_LIFETIME_DAYS:g})")


def check_heads_url(heads: str) -> str:
    """Check a URL that a catalogue will name; returns what is to be said of it.

    Raises:
        UsageError: workers would not go there.
    """
    from flexspec_mq.heads.place import from_catalogue, scheme_of

    if scheme_of(heads) == "http":
        return "; by http only workers fetch heads that have this URL as their own --heads"
    from_catalogue(heads)
    return ""


def _publish(args: argparse.Namespace) -> int:
    if args.first and (args.state != "stable" or not args.heads):
        raise UsageError("--first needs --state stable and --heads URL")
    if not args.first and (args.heads or args.lifetime):
        raise UsageError(
            "--heads and --lifetime go with --first", hint="later, `flexspec head renew` changes them"
        )
    if args.state == "canary" and not 1 <= args.share <= 100:
        raise UsageError(f"--share {args.share} is not between 1 and 100")
    from flexspec_mq import topics
    from flexspec_mq.heads.place import scheme_of

    # What is wrong here is said before anybody waits for a broker.
    topics.checked("version", args.name)
    if args.upload:
        scheme_of(args.upload)
    if args.heads:
        check_heads_url(args.heads)
    signers = from_arguments(args).settings.head.signers()
    check_head(args.folder, base_path(args))
    return connected(args, lambda client: _announce(client, args, signers))


async def _announce(client: CatalogueClient, args: argparse.Namespace, signers: Sequence[PrivateKey]) -> None:
    from flexspec_mq.catalogue import editing
    from flexspec_mq.heads.place import from_catalogue
    from schemas.catalogue import VersionState

    if args.first and not client.absent():
        raise UsageError(
            "this family has a catalogue already", hint="leave out --first; see `flexspec head list`"
        )
    keys = client.keys()
    client.valid_signers(signers, others_sign=args.out is not None)
    base = b""
    if not args.first:
        base = await asyncio.to_thread(_other_base, args.folder, client.catalogue(), args.upload)
    place = args.upload or args.heads or from_catalogue(client.catalogue().heads)
    digest, copied = await asyncio.to_thread(_upload, args.folder, place)
    if args.first:
        catalogue = editing.begin(
            keys.family,
            name=args.name,
            digest=digest,
            heads=args.heads,
            lifetime=int((args.lifetime or _LIFETIME_DAYS) * DAY),
            key_set=keys.serial,
            now=client.clock(),
        )
    else:
        catalogue = editing.publish(
            client.catalogue(),
            client.clock(),
            name=args.name,
            digest=digest,
            state=VersionState[args.state.upper()],
            share=args.share,
            base=base,
        )
    where = "copied" if copied else "which was there"
    words = f"published {args.name} as {args.state}: head {digest.hex()}, {where}; epoch {catalogue.epoch}"
    if args.base == "none":
        words += "; checked without its base, whose workers look at the rest"
    if args.first:
        words += check_heads_url(args.heads)
    if base:
        words += f"; it has another base than {keys.family}: drafts of devices are independent models to it"
    await publish_or_write(client, catalogue, signers, args.out, words)


def _other_base(folder: Path, catalogue: Catalogue, upload: str | None) -> bytes:
    """Id of a head's base, for the catalogue; empty if it is the family's base.

    Args:
        folder: folder of the head.
        catalogue: the family's; a version in it with this head keeps what it says.
        upload: URL below which the family's heads lie too, seen from here.

    Raises:
        HeadError: it is of another tokenizer than the family, or of its base and touches its backbone.
        UsageError: no version of the family's base can be read, so that nobody knows which base that is.
    """
    from flexspec_mq.heads.manifest import MANIFEST, HeadError, decode, digest
    from schemas.catalogue import BASE_ID

    data = (folder / MANIFEST).read_bytes()
    manifest, name = decode(data), digest(data)
    known = next((version for version in catalogue.versions if version.digest == name), None)
    if known is not None:
        return known.base
    family, floor = _family_base(catalogue, upload)
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


def _family_base(catalogue: Catalogue, upload: str | None) -> tuple[Manifest, int]:
    """The manifest of a version of the family's base, the stable one if it is such, and the lowest floor of all."""
    from flexspec_mq.heads.fetch import fetch_manifest
    from flexspec_mq.heads.manifest import HeadError
    from flexspec_mq.heads.place import FetchError, from_catalogue
    from schemas.catalogue import VersionState

    def fetch(digest: bytes) -> Manifest:
        if upload is not None:
            with suppress(FetchError, HeadError):
                return fetch_manifest(upload, digest)
        return fetch_manifest(from_catalogue(catalogue.heads), digest)

    own = [version for version in reversed(catalogue.versions) if not version.base]
    own.sort(key=lambda version: version.state is not VersionState.STABLE)
    manifests: list[Manifest] = []
    why = ""
    for version in own:
        try:
            manifests.append(fetch(version.digest))
        except (FetchError, HeadError, UsageError) as error:
            why = why or f": version {version.name}: {error.message}"
    if manifests:
        return manifests[0], min(manifest.floor for manifest in manifests)
    raise UsageError(
        f"it cannot be told which base {catalogue.family} has{why}",
        hint="put its head back where workers fetch it: `flexspec head publish` with its folder and name does",
    )


def _upload(folder: Path, heads: str) -> tuple[bytes, bool]:
    """See that a head lies at ``<heads>/<digest>``; copy it there if it does not, its manifest last.

    Returns:
        The digest of its manifest, and whether it had to be copied.

    Raises:
        HeadError: the folder's files are not those that its manifest lists.
        UsageError: what is at the URL is another head, or it is not there and cannot be copied there.
    """
    from flexspec_mq.heads.manifest import MANIFEST, digest, read_head
    from flexspec_mq.heads.place import Place

    manifest = read_head(folder)
    data = (folder / MANIFEST).read_bytes()
    name = digest(data)
    place = Place(f"{heads.rstrip('/')}/{name.hex()}")
    if _lies_at(place, data, manifest):
        return name, False
    place.put(folder, (*(file.name for file in manifest.files), MANIFEST))
    if not _lies_at(place, data, manifest):
        raise UsageError(
            f"what was written to {place.url} cannot be read back as it was",
            hint="look at the permissions and the room there; then give this command again",
        )
    return name, True


def _lies_at(place: Place, data: bytes, manifest: Manifest) -> bool:
    """Whether all of the head is there, byte by byte."""
    from flexspec_mq.heads.manifest import MANIFEST, MAX_MANIFEST, HeadError
    from flexspec_mq.heads.place import FetchError

    try:
        if place.read(MANIFEST, MAX_MANIFEST) != data:
            return False
        for file in manifest.files:
            place.copy(file)
    except (FetchError, HeadError):
        return False
    return True
