"""Tokenizers of the targets that a node can ask.

A status says which tokenizer a target has. Where that is not the node's, the worker's document is read once: it tells
all but the vocabulary. Where that is another one too, or the node has none, the tokenizer itself is fetched and kept in
the cache. Until it is there, texts wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import FlexSpecError, LinkDown, LinkRefused, ModelError, WorkerError
from flexspec_mq.models.fingerprint import Difference, other_vocabulary
from flexspec_mq.models.load import byte_text
from flexspec_mq.models.target_text import (
    MOST_PACKED,
    TokenMap,
    as_fetched,
    as_told,
    token_map,
    unpacked_tokenizer,
)
from flexspec_mq.transport.blobs import BlobFetch
from schemas.status import TokenizerStatus, WorkerStatus

if TYPE_CHECKING:
    from edge_node.fleet.fetched_draft import FetchedDraft
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.link import Link

_MOST = 32
"""Tokenizers that are kept."""

OTHER_VOCABULARY = (
    "give another --draft, or ask for another --version; or name the target's tokenizer with --tokenizer, and the node "
    "streams"
)
"""Advice for a node whose vocabulary is not the target's, and that cannot fetch it."""

_log = logging.getLogger(__name__)


class TargetTexts:
    """Texts of targets, and what the node's draft knows of their tokens.

    Args:
        draft: the node's.
        edge: name of the node on topics.
        folder: where fetched tokenizers are kept; None keeps none.
        fetched_draft: fetches a draft; None where that is not wanted.

    Attributes:
        own: the node's own text part; None where it has no tokenizer.
        changed: called when a worker has told.
    """

    def __init__(
        self,
        draft: DraftModel,
        edge: str = topics.NOBODY,
        folder: Callable[[], Path] | None = None,
        fetched_draft: FetchedDraft | None = None,
    ) -> None:
        self.own = draft.loaded
        self._edge, self._folder, self._fetched_draft = edge, folder, fetched_draft
        self._fetch: BlobFetch | None = None
        self._fetches: list[BlobFetch] = []
        self._draft = draft.own
        self._codec = Codec()
        self._known: ExpiringMap[str, LoadedText | str] = ExpiringMap(most=_MOST)
        self._maps: ExpiringMap[bytes, TokenMap] = ExpiringMap(most=_MOST)
        self._asked: ExpiringMap[str, float] = ExpiringMap(most=_MOST, ttl=waiting.CONNECT)
        self._stated: ExpiringMap[str, WorkerStatus] = ExpiringMap(most=_MOST)
        self._work: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        self._denied = False
        self.changed: Callable[[], None] = lambda: None
        if self.own is not None:
            self._compare(self.own)
        if draft.model is not None:
            draft.model.token_map = self._map_of

    def of(self, status: WorkerStatus) -> LoadedText | str | None:
        """Text part of a worker's target; why there is none, in words; None while the worker has not told."""
        stated, known = status.tokenizer, self._known
        own = self.own
        if status.fingerprint == byte_text().fingerprint.hex():
            return byte_text()
        if own is not None and status.fingerprint in ("", own.fingerprint.hex()):
            text: LoadedText | str | None = own
        elif stated is None:
            return "the worker does not say in what it differs"
        else:
            text = known.get(status.fingerprint, 0.0) or known.get(_name(status), 0.0)
            if text is None and (self._denied or not stated.rows):
                text = self._untold(stated)
        if text is None or isinstance(text, str) or stated is None:
            return text
        return replace(text, eos=stated.eos, vocab_size=stated.rows or text.vocab_size)

    def chosen(self, statuses: Sequence[WorkerStatus]) -> LoadedText | None:
        """Text part by which a text is written that any of some workers may take; None while none of them has told.

        They are asked for what they have not told.

        Raises:
            WorkerError: this node can write for none of them.
        """
        texts = [self.of(status) for status in statuses] or [self.own]
        known = [text for text in texts if text is not None and not isinstance(text, str)]
        if known:
            ours = (
                text for text in known if self.own is not None and text.fingerprint == self.own.fingerprint
            )
            return next(ours, known[-1])
        if None in texts:
            for status in statuses:
                self.heard(status, entropy.now())
            return None
        if self.own is None:
            raise WorkerError(f"this node has no tokenizer of the target: {texts[-1]}")
        raise WorkerError(
            f"the tokenizer of this node is not the target's: {texts[-1]}",
            hint=f"{OTHER_VOCABULARY}; `flexspec-edge doctor` says more",
        )

    def give_up(self, statuses: Sequence[WorkerStatus]) -> None:
        """Wait no longer for the documents of some workers. Tokenizers are fetched for the next text still."""
        for status in statuses:
            stated = status.tokenizer
            if stated is not None and not self.lacks(stated) and self.of(status) is None:
                self._known.put(_name(status), self._untold(stated), 0.0)

    def _untold(self, stated: TokenizerStatus) -> str:
        """Why there is no text part of a target whose worker tells nothing but this, or nothing that we may read."""
        if self.own is None:
            return "this node has none, and its worker has not given it"
        return (
            other_vocabulary(self.own.tokenizer_status, stated) or "how its texts are written cannot be read"
        )

    @property
    def fetched(self) -> tuple[int, int]:
        """Bytes that are there of a tokenizer which is being fetched, and all its bytes; 0 where that is not known."""
        return (0, 0) if self._fetch is None else (len(self._fetch), self._fetch.size)

    def lacks(self, stated: TokenizerStatus) -> bool:
        """Whether a target's tokenizer has to be fetched, and can be."""
        return bool(stated.file) and (
            self.own is None or bool(other_vocabulary(self.own.tokenizer_status, stated))
        )

    def difference(self, status: WorkerStatus) -> Difference:
        """How a worker's target differs from the node's draft, as far as that is known."""
        text = self.of(status)
        if text is None or isinstance(text, str):
            return Difference(text or "")
        if text is byte_text():
            return Difference()
        words = []
        if (tokens := self._map_of(text.fingerprint)) is not None and tokens.misfit:
            words.append(f"the draft drafts nothing for it: {tokens.misfit}")
        elif tokens is not None and (tokens.lacking or tokens.writes):
            words.append(f"the draft lacks {tokens.lacking} of its tokens")
        own = self.own
        if own is not None and status.tokenizer is not None:
            if status.tokenizer.template != own.tokenizer_status.template:
                words.append("the chat templates differ; prompts are written by the target's")
            if text.eos != own.eos:
                words.append(f"it ends texts with {_ids(text.eos)} and the draft with {_ids(own.eos)}")
        return Difference("", "; ".join(words))

    def heard(self, status: WorkerStatus, now: float, *, wanted: bool = True) -> None:
        """Take a status, and ask for the worker's document where it is news and wanted."""
        if status.state == "gone":
            self._stated.pop(status.worker)
        if not wanted or status.state == "gone":
            return
        if self._fetched_draft is not None:
            self._fetched_draft.heard(status)
        text = self.of(status)
        if text is None:
            self._stated.put(status.worker, status, 0.0)
            if self._asked.get(status.fingerprint, now) is None:
                self._asked.put(status.fingerprint, now, now)
                self._work.put_nowait((status.worker, None))
        elif not isinstance(text, str) and text is not byte_text():
            self._compare(text)

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on the topic of a worker's document, or of pieces of a tokenizer; tell whether it did.

        Raises:
            RemoteProtocolError: it is no piece.
        """
        if topic == topics.blob_topic(self._edge):
            for fetch in self._fetches:
                fetch.take(payload)
            return True
        worker = topics.worker_of_status(topic, "t")
        if worker is not None and payload:
            self._work.put_nowait((worker, payload))
        return worker is not None

    async def run(self, link: Link) -> None:
        """Read documents until cancelled.

        Raises:
            LinkError: the link failed for good.
        """
        while True:
            worker, payload = await self._work.get()
            if payload is None:
                await self._ask(link, worker)
            elif (status := self._stated.get(worker, 0.0)) is not None and self.of(status) is None:
                await self._learn(link, status, payload)
                self.changed()

    async def fetch_draft(self, link: Link) -> None:
        """Fetch a draft where one is wanted.

        Raises:
            LinkError: the link failed for good.
        """
        if self._fetched_draft is not None:
            await self._fetched_draft.run(link, self._pieces)

    @asynccontextmanager
    async def _pieces(self, link: Link, fetch: BlobFetch) -> AsyncIterator[None]:
        """Have pieces of blobs come inside the block, for a fetch."""
        pieces = topics.blob_topic(self._edge)
        if not self._fetches:
            await link.subscribe(pieces)
        self._fetches.append(fetch)
        try:
            yield
        finally:
            self._fetches.remove(fetch)
            if not self._fetches:
                with suppress(LinkDown):  # the filter is forgotten all the same
                    await link.unsubscribe(pieces)

    async def _learn(self, link: Link, status: WorkerStatus, payload: bytes) -> None:
        """Read a worker's document, and fetch the tokenizer where it takes that."""
        stated, text = status.tokenizer, None
        try:
            if stated is not None and self.lacks(stated):
                text = await self._tokenizer(link, stated.file)
                if text is None:
                    return  # whoever comes next is asked
        except LinkDown:
            return
        except FlexSpecError as error:
            self._known.put(_name(status), f"its tokenizer cannot be fetched: {error.message}", 0.0)
        else:
            await asyncio.to_thread(self.read, status, payload, text)

    async def _tokenizer(self, link: Link, name: str) -> str | None:
        """The tokenizer of this name, of the cache or of a worker; None if no worker is left that holds it.

        Raises:
            LinkError: it cannot be asked for.
            RemoteProtocolError: what came is something else.
            ModelError: it cannot be read.
        """
        path = None
        with suppress(ModelError):  # a user without a home keeps none
            path = None if self._folder is None else self._folder() / f"{name}.zst"
        if path is not None and (kept := await asyncio.to_thread(fetched, path, name)) is not None:
            return await asyncio.to_thread(unpacked_tokenizer, kept, checked=True)
        into = BytesIO()
        self._fetch = BlobFetch(self._edge, name, MOST_PACKED, into, lambda: self._holder(name))
        _log.warning("fetching the target's tokenizer from a worker, once")
        try:
            async with self._pieces(link, self._fetch):
                if not await self._fetch.run(link):
                    return None
        finally:
            self._fetch = None
        file = into.getvalue()
        text = await asyncio.to_thread(unpacked_tokenizer, file, checked=False)
        _log.warning("the target's tokenizer is here: %.1f MB", len(file) / 1e6)
        if path is not None:
            await asyncio.to_thread(_keep, path, file)
        return text

    def _holder(self, name: str) -> str | None:
        """A worker that holds a tokenizer, each in its turn."""
        for worker, status in tuple(self._stated.items()):
            if status.tokenizer is not None and status.tokenizer.file == name:
                self._stated.put(worker, status, 0.0)
                return worker
        return None

    async def _ask(self, link: Link, worker: str) -> None:
        try:
            await link.subscribe(topics.target_text_topic(worker))
        except LinkDown:  # the link remembers it
            return
        except LinkRefused as error:
            self._denied = True
            _log.warning("how workers' targets write prompts cannot be read: %s", error.message)

    def read(self, status: WorkerStatus, payload: bytes, tokenizer: str | None = None) -> None:
        """Read what the worker of a status tells. May take a second.

        Args:
            status: status for which `of` has no text yet.
            payload: the worker's document.
            tokenizer: the target's tokenizer.json; None where the node's vocabulary is the target's.
        """
        stated = status.tokenizer
        assert stated is not None  # noqa: S101  else `of` has an answer
        try:
            told = self._codec.decode_target_text(payload)
            if tokenizer is not None:
                text = as_fetched(tokenizer, told, status.fingerprint, stated)
            elif self.own is not None:
                text = as_told(self.own, told, status.fingerprint, stated)
            else:
                raise WorkerError(self._untold(stated))
        except FlexSpecError as error:
            # Said of this worker alone: another one of the same tokenizer may tell the truth.
            self._known.put(_name(status), f"{error.message} ({error.hint})".removesuffix(" ()"), 0.0)
        else:
            self._compare(text)
            self._known.put(status.fingerprint, text, 0.0)

    def _compare(self, text: LoadedText) -> None:
        """Compare the draft's tokens with a target's, of which several may have the same but for padding."""
        known = self._map_of(text.fingerprint)
        if self._draft is not None and (known is None or known.target_rows > text.vocab_size):
            self._maps.put(text.fingerprint, token_map(self._draft, text), 0.0)

    def _map_of(self, fingerprint: bytes) -> TokenMap | None:
        return self._maps.get(fingerprint, 0.0)


def _name(status: WorkerStatus) -> str:
    return f"{status.fingerprint} at {status.worker}"


def fetched(path: Path, name: str) -> bytes | None:
    """A tokenizer of the cache, by its path and name; None if it is not there, or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if blob_name(data) == name else None


def _keep(path: Path, data: bytes) -> None:
    try:
        with whole(path) as part:
            part.write_bytes(data)
    except OSError as error:
        _log.warning("the target's tokenizer is fetched again at the next start: %s", error)


def _ids(ids: tuple[int, ...]) -> str:
    return " or ".join(f"id {token}" for token in ids) or "no token"
