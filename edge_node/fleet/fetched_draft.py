"""A draft that a node without one fetches from a worker, once, and drafts with from its next start on.

It takes the first draft that a worker of its version gives, and no other ever after: the hash of that file is pinned.
It comes in pieces, which are kept on the disk, so that a bad link and a restart cost what was on its way. The node
writes the graphs itself and tries them, in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flexspec_mq import entropy, waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    ModelError,
    PublishRefused,
    RemoteProtocolError,
    UsageError,
)
from flexspec_mq.models.onnx.folder import read_manifest
from flexspec_mq.transport.blobs import BlobFetch
from schemas.status import DraftOffer, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link

    Pieces = Callable[[Link, BlobFetch], AbstractAsyncContextManager[None]]

_DAY, _A_DAY = 86_400.0, 4
"""Seconds of a day, and fetches that may begin in one."""
_ROOM = 4
"""Times the size of the file that the disk must have free: it is unpacked, and graphs are written of it."""
_MOST = 64
"""Workers, and other drafts, that are remembered."""
_PINNED, _PART, _GRAPHS = "pinned.json", "draft.part", "draft"

_log = logging.getLogger(__name__)


class Pinned(msgspec.Struct):
    """The draft that this device has taken, or is about to.

    Attributes:
        offer: name and size of its file.
        worker: who gave it first.
        begun: when fetches of it began, in seconds since the Unix epoch.
    """

    offer: DraftOffer
    worker: str
    begun: list[float] = []


def fetched_draft(folder: Path) -> Path | None:
    """The folder of a draft that was fetched into a folder; None where there is none that this release can read."""
    with suppress(ModelError):
        read_manifest(folder / _GRAPHS)
        return folder / _GRAPHS
    return None


class FetchedDraft:
    """Fetches a draft into a folder, as soon as a worker gives one.

    Args:
        edge: name of the node on topics.
        folder: where it is kept.

    Raises:
        ModelError: nobody can read which draft it has taken.
    """

    def __init__(self, edge: str, folder: Path) -> None:
        self._edge, self._folder = edge, folder
        self._holders: ExpiringMap[str, None] = ExpiringMap(most=_MOST)
        self._others: ExpiringMap[str, None] = ExpiringMap(most=_MOST)
        self._given = asyncio.Event()
        self._pinned: Pinned | None = None
        try:
            self._pinned = msgspec.json.decode((folder / _PINNED).read_bytes(), type=Pinned)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            raise ModelError(
                f"which draft this device fetches cannot be read: {error}",
                hint=f"to fetch one anew, remove {folder}",
            ) from error

    def heard(self, status: WorkerStatus) -> None:
        """Take the status of a worker that this node may ask."""
        if (offer := status.offer) is None:
            self._holders.pop(status.worker)
            return
        pinned = self._pinned = self._pinned or Pinned(offer, status.worker)
        if pinned.offer == offer:
            self._holders.put(status.worker, None, 0.0)
            self._given.set()
        elif offer.file not in self._others:
            self._others.put(offer.file, None, 0.0)
            _log.warning(
                "worker %s gives another draft than the one that %s gave first, which stays: to fetch it, remove %s",
                status.worker, pinned.worker, self._folder,
            )  # fmt: skip

    async def run(self, link: Link, pieces: Pieces) -> None:
        """Fetch it and write its graphs, unless they are there.

        Args:
            link: link to the broker.
            pieces: has pieces of blobs come on it inside the block, for a fetch.

        Raises:
            LinkError: the link failed for good.
        """
        while fetched_draft(self._folder) is None:
            await self._given.wait()
            pinned = self._pinned
            assert pinned is not None  # noqa: S101  else nobody gave it
            wait = waiting.CONNECT
            try:
                if await self._fetch(link, pieces, pinned):
                    await self._write(pinned)
                    return
            except LinkDown:
                pass
            except (LinkRefused, PublishRefused) as error:
                _log.warning("the broker lets nobody fetch a draft: %s", error.message)
                return
            except (OSError, FlexSpecError) as error:
                _log.warning("the draft of worker %s is not here yet: %s", pinned.worker, error)
                wait = waiting.QUEUED
            self._given.clear()  # until the next status
            await asyncio.sleep(wait)

    async def _fetch(self, link: Link, pieces: Pieces, pinned: Pinned) -> bool:
        """Fetch the file, or what is missing of it; False if no worker is left that gives it.

        Raises:
            LinkError: it cannot be asked for.
            RemoteProtocolError: what came is something else.
            UsageError: there is no room for it, or too many fetches have begun today.
            OSError: it cannot be kept.
        """
        part, size = self._folder / _PART, pinned.offer.size
        self._folder.mkdir(parents=True, exist_ok=True)
        with part.open("a+b", buffering=0) as file:
            there, free = file.seek(0, os.SEEK_END), shutil.disk_usage(self._folder).free
            if free < (needed := _ROOM * size - there):
                raise UsageError(
                    f"it takes {needed / 1e6:.0f} MB of the disk, and {free / 1e6:.0f} MB are free",
                    hint=f"free some space where {self._folder} is",
                )
            if not there or not pinned.begun:
                self._begin(pinned)
            mega = there / 1e6, size / 1e6
            _log.warning(
                "fetching the draft of worker %s, once: %.1f of %.1f MB are here", pinned.worker, *mega
            )
            fetch = BlobFetch(self._edge, pinned.offer.file, size, file, self._holder, size=size)
            try:
                async with pieces(link, fetch):
                    return await fetch.run(link)
            except RemoteProtocolError:
                file.truncate(0)
                raise

    def _begin(self, pinned: Pinned) -> None:
        """Pin the draft, and count another fetch from its beginning.

        Raises:
            UsageError: too many have begun today.
            OSError: it cannot be kept.
        """
        now = entropy.wall()
        pinned.begun = [at for at in pinned.begun if now - _DAY < at <= now]
        if len(pinned.begun) >= _A_DAY:
            raise UsageError(f"{_A_DAY} fetches have begun within a day", hint="the next one begins tomorrow")
        pinned.begun.append(now)
        with whole(self._folder / _PINNED, durable=True) as part:
            part.write_bytes(msgspec.json.encode(pinned))

    async def _write(self, pinned: Pinned) -> None:
        """Write its graphs, in a process of its own, which takes the memory with it.

        Raises:
            ModelError: it is no draft that runs here, or what writes graphs is not installed.
        """
        part, graphs = self._folder / _PART, self._folder / _GRAPHS
        command = (sys.executable, "-m", __name__, part, graphs)
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(waiting.STARTS):
                _, said = await process.communicate()
        except TimeoutError:
            raise ModelError(f"its graphs were not written within {waiting.STARTS:.0f} s") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            why = said.decode(errors="replace").strip()[-1000:]
            raise ModelError(why or f"its process ended with {process.returncode}")
        part.unlink()
        _log.warning(
            "the draft of worker %s is here: this node drafts with it from its next start on", pinned.worker
        )

    def _holder(self) -> str | None:
        """A worker that gives it, each in its turn."""
        if (worker := next(iter(self._holders), None)) is not None:
            self._holders.put(worker, None, 0.0)
        return worker


def make(file: Path, out: Path) -> None:
    """Write a draft's folder as its first start would load it, and run it once.

    Args:
        file: the file that a worker gave.
        out: the folder, which appears when the draft has run.

    Raises:
        FlexSpecError: it is no draft that runs here.
        OSError: the folder cannot be written.
    """
    from flexspec_mq.drafting.load import load
    from flexspec_mq.drafting.settings import DraftSettings
    from flexspec_mq.models.onnx.offered import write_offered
    from flexspec_mq.models.runner import ModelInput

    tried = out.with_name(f"{out.name}.tried")
    write_offered(file, tried)
    draft = load(DraftSettings(draft=str(tried)), lambda _: None)
    if (network := draft.network) is not None:
        network.forward([ModelInput(network.new_kv(), [0])])
    shutil.rmtree(out, ignore_errors=True)  # of another release
    tried.rename(out)


if __name__ == "__main__":
    try:
        make(*map(Path, sys.argv[1:]))
    except (FlexSpecError, OSError) as error:
        sys.exit(str(error))
