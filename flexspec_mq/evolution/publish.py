"""``flexspec head publish``: checks a head, copies it to where workers fetch it, and announces its version."""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from flexspec_mq import topics
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.changes import check_heads_url, publish_or_write
from flexspec_mq.evolution.check import base_path, check_head
from flexspec_mq.evolution.evidence import Evidence
from flexspec_mq.evolution.overview import Statuses
from flexspec_mq.evolution.settings import head_options
from flexspec_mq.heads.fetch import fetch_manifest
from flexspec_mq.heads.manifest import MANIFEST, MAX_MANIFEST, HeadError, Manifest, decode, digest, read_head
from flexspec_mq.heads.place import FetchError, Place, from_catalogue, scheme_of
from schemas.catalogue import Catalogue, VersionState

LIFETIME = 7 * 86_400
"""Seconds until a family's first catalogue expires; `renew` sets another time."""


def publish(args: argparse.Namespace) -> int:
    """``flexspec head publish``: returns the exit code."""
    if args.first and not args.heads:
        raise UsageError("--first needs --heads URL")
    if not args.first and args.heads:
        raise UsageError("--heads goes with --first", hint="later, `flexspec head renew` changes it")
    if not 1 <= args.share <= 100:
        raise UsageError(f"--share {args.share} is not between 1 and 100")
    # What is wrong here is said before anybody waits for a broker.
    topics.checked("version", args.name)
    if args.upload:
        scheme_of(args.upload)
    if args.heads:
        check_heads_url(args.heads)
    signers = head_options(args).signers()
    check_head(args.folder, base_path(args), args.draft)
    asks = args.base == "none" and not (args.first or args.unserved)
    statuses = Statuses(Evidence(head_options(args).named_family()))
    filters = (topics.worker_status_topic("+"),) if asks else ()
    announce = partial(_announce, args=args, signers=signers, statuses=statuses if asks else None)
    return connected(args, announce, filters, statuses.take)


async def _announce(
    client: CatalogueClient,
    args: argparse.Namespace,
    signers: Sequence[PrivateKey],
    statuses: Statuses | None,
) -> None:
    if args.first and not client.absent():
        raise UsageError(
            "this family has a catalogue already", hint="leave out --first; see `flexspec head list`"
        )
    keys = client.keys()
    client.valid_signers(signers, others_sign=args.out is not None)
    base = b""
    if not args.first:
        base = await asyncio.to_thread(_other_base, args.folder, client.catalogue(), args.upload)
        if statuses is not None:
            await _see_workers(client, statuses, args.folder, base)
    place = args.upload or args.heads or from_catalogue(client.catalogue().heads)
    head, copied = await asyncio.to_thread(_upload, args.folder, place)
    if args.first:
        catalogue = editing.begin(
            keys.family,
            name=args.name,
            digest=head,
            heads=args.heads,
            lifetime=LIFETIME,
            key_set=keys.serial,
            now=client.clock(),
        )
    else:
        catalogue = editing.publish(
            client.catalogue(),
            client.clock(),
            name=args.name,
            digest=head,
            state=VersionState[args.state.upper()],
            share=args.share,
            base=base,
        )
    where = "copied" if copied else "which was there"
    state = "stable" if args.first else args.state
    words = f"published {args.name} as {state}: head {head.hex()}, {where}; epoch {catalogue.epoch}"
    if args.base == "none":
        words += "; checked without its base, whose workers look at the rest"
    if args.first:
        words += check_heads_url(args.heads)
    if base:
        words += f"; it has another base than {keys.family}: drafts of devices are independent models to it"
    await publish_or_write(client, catalogue, signers, args.out, words)


async def _see_workers(client: CatalogueClient, statuses: Statuses, folder: Path, base: bytes) -> None:
    """See that workers have the base of a head that was checked without it, unless it is out already.

    Raises:
        UsageError: none is known to have it.
    """
    head = digest((folder / MANIFEST).read_bytes())
    out = (VersionState.STABLE, VersionState.CANARY)
    if any(version.digest == head and version.state in out for version in client.catalogue().versions):
        return
    await client.look(lambda: statuses.serving(client.catalogue(), base))
    if not statuses.serving(client.catalogue(), base):
        whose = f"the base {base.hex()}" if base else "the family's base"
        raise UsageError(
            f"no worker is there that serves a version of {whose}, so nobody looks at what --base none leaves out, "
            "and nobody could serve it",
            hint="start a worker of that base, or have the head checked here, with --base FOLDER; the first version of "
            "a base may come before its workers: --unserved publishes it all the same",
        )


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
        return manifest.base_id
    if manifest.floor < floor:
        raise HeadError(
            f"it may touch layers from {manifest.floor} on, and the layers below {floor} are the backbone of "
            f"{catalogue.family}, which the drafts of devices share",
            hint=f"make it with --floor {floor}",
        )
    return b""


def _family_base(catalogue: Catalogue, upload: str | None) -> tuple[Manifest, int]:
    """The manifest of a version of the family's base, the stable one if it is such, and the lowest floor of all."""

    def fetch(head: bytes) -> Manifest:
        if upload is not None:
            with suppress(FetchError, HeadError):
                return fetch_manifest(upload, head)
        return fetch_manifest(from_catalogue(catalogue.heads), head)

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
    try:
        if place.read(MANIFEST, MAX_MANIFEST) != data:
            return False
        for file in manifest.files:
            place.copy(file)
    except (FetchError, HeadError):
        return False
    return True
