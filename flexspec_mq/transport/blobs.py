"""Blobs over a link: who holds some answers requests for them, and who fetches one puts its pieces together.

A device asks for a few pieces at a time, and for the rest when these are there: so a bad link costs what was on its
way, and a holder sends nothing that nobody waits for. Any holder of a blob can go on where another one stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec.blobs import decode_blob, encode_blob, name_of_file
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.daemon.tasks import on_thread
from flexspec_mq.errors import LinkDown, PublishRefused, RemoteProtocolError
from flexspec_mq.transport.base import NO_SUBSCRIBERS
from schemas.blobs import MAX_PIECE, BlobPiece, BlobRequest

if TYPE_CHECKING:
    from mmap import mmap

    from flexspec_mq.transport.link import Link

_PIECES = 16
"""Pieces that are asked for at a time at most; it begins with one."""
_ASKERS = 1024
"""Requests that wait, and clients and blobs of which the bytes of the day are counted."""
_DAY = 86_400.0
_A_DAY = 4
"""Times that a client gets the bytes of a blob in a day."""

_log = logging.getLogger(__name__)


class BlobHolder:
    """Answers requests for blobs, one piece after the other, behind all else that is to be published.

    Args:
        blobs: bytes by their names, of large ones as a mapped file.
        others: waits until nothing else is to be published, or for so many seconds.
        clock: seconds.
        topic: topic of pieces for a client.
        sent: told the blob's name and the bytes of each piece that was published.
    """

    def __init__(
        self,
        blobs: Mapping[str, bytes | mmap],
        others: Callable[[float], Awaitable[object]],
        clock: Callable[[], float] = entropy.now,
        topic: Callable[[str], str] = topics.blob_topic,
        sent: Callable[[str, int], None] = lambda _name, _size: None,
    ) -> None:
        self._blobs, self._others, self._clock = blobs, others, clock
        self._topic, self._sent = topic, sent
        self._requests: OrderedDict[tuple[str, str], BlobRequest] = OrderedDict()
        self._given: ExpiringMap[tuple[str, str], list[int]] = ExpiringMap(most=_ASKERS, ttl=_DAY)
        self._work = asyncio.Event()

    def ask(self, asker: str, payload: bytes) -> None:
        """Take a client's request, in place of its last one for that blob.

        Raises:
            RemoteProtocolError: it is none.
        """
        request = decode_blob(payload, BlobRequest)
        if (asker, request.name) not in self._requests and len(self._requests) >= _ASKERS:
            return  # it asks again
        self._requests[asker, request.name] = request
        self._work.set()

    async def run(self, link: Link) -> None:
        """Send pieces until cancelled."""
        while True:
            await self._work.wait()
            if not self._requests:
                self._work.clear()
                continue
            (asker, _), request = self._requests.popitem(last=False)
            for piece in self._answer(asker, request):
                await self._others(waiting.ANSWER)
                try:
                    await link.publish(self._topic(asker), payload := encode_blob(piece), qos=1)
                    self._sent(piece.name, len(payload))
                except (LinkDown, PublishRefused) as error:
                    _log.info("a piece of a blob for %s was lost: %s", asker, error.message)
                    break

    def _answer(self, asker: str, request: BlobRequest) -> list[BlobPiece]:
        blob, now = self._blobs.get(request.name, b""), self._clock()
        if (given := self._given.get((asker, request.name), now)) is None:
            self._given.put((asker, request.name), given := [0], now)
        end = min(len(blob), request.begin + min(request.most, _PIECES * MAX_PIECE))
        if request.begin >= end or given[0] + end - request.begin > _A_DAY * len(blob):
            return [BlobPiece(request.name, 0, request.begin)]
        given[0] += end - request.begin
        return [
            BlobPiece(request.name, len(blob), begin, blob[begin : min(end, begin + MAX_PIECE)])
            for begin in range(request.begin, end, MAX_PIECE)
        ]


class BlobFetch:
    """A blob that is being fetched, from one holder after another where one is silent.

    Args:
        asker: client that fetches it.
        name: which.
        most: bytes that it may have.
        into: file of its bytes, of which some may be there from an earlier run.
        holder: names the holder to ask next; None where there is none any more.
        clock: seconds.
        size: bytes of it; None where the first piece tells.
    """

    def __init__(
        self,
        asker: str,
        name: str,
        most: int,
        into: BinaryIO,
        holder: Callable[[], str | None],
        clock: Callable[[], float] = entropy.now,
        size: int | None = None,
    ) -> None:
        self._clock = clock
        self._asker, self._name, self._most, self._holder = asker, name, most, holder
        self._into, self._have = into, into.seek(0, os.SEEK_END)
        self._size = size
        self._refused = False
        self._news = asyncio.Event()

    @property
    def size(self) -> int:
        """Bytes of it; 0 until the first of them are there."""
        return self._size or 0

    def __len__(self) -> int:
        """Bytes that are there."""
        return self._have

    def take(self, payload: bytes) -> None:
        """Take a piece; one of another blob, or of another place, is left.

        Raises:
            RemoteProtocolError: it is none.
        """
        piece = decode_blob(payload, BlobPiece)
        if piece.name != self._name or piece.begin != len(self):
            return
        self._refused = not piece.data
        if piece.data and len(self) + len(piece.data) <= piece.size == (self._size or piece.size):
            self._size = piece.size
            if piece.size <= self._most:
                self._have += self._into.write(piece.data)
        self._news.set()

    async def run(self, link: Link) -> bool:
        """Fetch it; False if nobody is left who holds it, or nothing of it has come for a while.

        Args:
            link: link that is subscribed to the topic of pieces.

        Raises:
            RemoteProtocolError: it is too large, or what came has another hash.
            PublishRefused: the broker lets nobody ask for it.
        """
        asked: str | None = None
        pieces, patience, moved = 1, waiting.CONNECT, self._clock()
        while len(self) < (self.size or 1) <= self._most:
            if (asked := asked or self._holder()) is None:
                return False
            before = len(self)
            try:
                await self._ask(link, asked, pieces, patience)
                pieces = min(2 * pieces, _PIECES)
            except TimeoutError:  # lost, or the link is slow
                pieces, patience = 1, min(2 * patience, waiting.STALLED)
            except LinkDown as error:
                _log.info("blob %s waits: %s", self._name, error.message)
                await asyncio.sleep(waiting.LOOK)
                with suppress(LinkDown):
                    await link.wait_up(waiting.STALLED)
                moved = self._clock()
            if len(self) > before:
                moved = self._clock()
                continue
            if self._clock() > moved + waiting.STALLED:
                return False
            if self._refused:
                _log.info("%s does not give blob %s", asked, self._name)
                await asyncio.sleep(waiting.CONNECT)
            asked = None
        if self.size > self._most:
            raise RemoteProtocolError(f"it has {self.size} bytes, more than {self._most}")
        if await on_thread(name_of_file, self._into) != self._name:
            raise RemoteProtocolError("it has another hash than its name")
        return True

    async def _ask(self, link: Link, holder: str, pieces: int, patience: float) -> None:
        """Ask for some pieces, and wait until they are there, or not to be had.

        Raises:
            LinkDown: they cannot be asked for now.
            PublishRefused: nor later.
            TimeoutError: none came for so many seconds.
        """
        begin, end = len(self), len(self) + pieces * MAX_PIECE
        request = encode_blob(BlobRequest(self._name, begin, end - begin))
        self._refused = False
        try:
            await link.publish(topics.blob_request_topic(holder, self._asker), request, qos=1)
        except PublishRefused as error:
            if error.reason_code != NO_SUBSCRIBERS:
                raise
            await asyncio.sleep(waiting.LOOK)  # it is gone
            return
        while len(self) < min(end, self.size or end) and self.size <= self._most and not self._refused:
            self._news.clear()
            async with asyncio.timeout(patience):
                await self._news.wait()
