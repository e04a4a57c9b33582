"""Tokenizers of the targets that a node can ask: each worker tells what its own has beside the common vocabulary.

A status says which tokenizer a target has. Where that is not the node's, the worker's document is read once, and a
tokenizer made of both. Until that is there nothing can be said of it, and texts wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import FlexSpecError, LinkDown, LinkRefused, WorkerError
from flexspec_mq.models.fingerprint import Difference, other_vocabulary
from flexspec_mq.models.target_text import TokenMap, as_told, token_map
from schemas.status import TokenizerStatus, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.link import Link

_MOST = 32
"""Tokenizers that are kept."""

OTHER_VOCABULARY = (
    "give another --draft, or ask for another --version; or name the target's tokenizer with --tokenizer, and the node "
    "streams"
)
"""Advice for a node whose vocabulary is not the target's."""

_log = logging.getLogger(__name__)


class TargetTexts:
    """Texts of targets, and what the node's draft knows of their tokens.

    Args:
        draft: the node's; its text part has the vocabulary that all targets must have.

    Attributes:
        own: the node's own text part.
        changed: called when a worker has told.
    """

    def __init__(self, draft: DraftModel) -> None:
        self.own = draft.loaded
        self._draft = draft.own
        self._codec = Codec()
        self._known: ExpiringMap[str, LoadedText | str] = ExpiringMap(most=_MOST)
        self._maps: ExpiringMap[bytes, TokenMap] = ExpiringMap(most=_MOST)
        self._asked: ExpiringMap[str, float] = ExpiringMap(most=_MOST, ttl=waiting.CONNECT)
        self._stated: ExpiringMap[str, WorkerStatus] = ExpiringMap(most=_MOST)
        self._work: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        self._denied = False
        self.changed: Callable[[], None] = lambda: None
        self._compare(self.own)
        if draft.model is not None:
            draft.model.token_map = self._map_of

    def of(self, status: WorkerStatus) -> LoadedText | str | None:
        """Text part of a worker's target; why there is none, in words; None while the worker has not told."""
        stated, known = status.tokenizer, self._known
        if status.fingerprint in ("", self.own.fingerprint.hex()):
            text: LoadedText | str | None = self.own
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
            return next((text for text in known if text.fingerprint == self.own.fingerprint), known[-1])
        if None in texts:
            for status in statuses:
                self.heard(status, entropy.now())
            return None
        raise WorkerError(
            f"the tokenizer of this node is not the target's: {texts[-1]}",
            hint=f"{OTHER_VOCABULARY}; `flexspec-edge doctor` says more",
        )

    def give_up(self, statuses: Sequence[WorkerStatus]) -> None:
        """Wait no longer for the documents of some workers."""
        for status in statuses:
            if self.of(status) is None and status.tokenizer is not None:
                self._known.put(_name(status), self._untold(status.tokenizer), 0.0)

    def _untold(self, stated: TokenizerStatus) -> str:
        """Why there is no text part of a target whose worker tells nothing but this, or nothing that we may read."""
        return (
            other_vocabulary(self.own.tokenizer_status, stated) or "how its texts are written cannot be read"
        )

    def difference(self, status: WorkerStatus) -> Difference:
        """How a worker's target differs from the node's draft, as far as that is known."""
        text = self.of(status)
        if text is None or isinstance(text, str):
            return Difference(text or "")
        words = []
        if (tokens := self._map_of(text.fingerprint)) is not None and tokens.misfit:
            words.append(f"the draft drafts nothing for it: {tokens.misfit}")
        elif tokens is not None and (tokens.lacking or tokens.writes):
            words.append(f"the draft lacks {tokens.lacking} of its tokens")
        if status.tokenizer is not None and status.tokenizer.template != self.own.tokenizer_status.template:
            words.append("the chat templates differ; prompts are written by the target's")
        if text.eos != self.own.eos:
            words.append(f"it ends texts with {_ids(text.eos)} and the draft with {_ids(self.own.eos)}")
        return Difference("", "; ".join(words))

    def heard(self, status: WorkerStatus, now: float, *, wanted: bool = True) -> None:
        """Take a status, and ask for the worker's document where it is news and wanted."""
        if not wanted or status.state == "gone":
            return
        text = self.of(status)
        if text is None:
            self._stated.put(status.worker, status, 0.0)
            if self._asked.get(status.fingerprint, now) is None:
                self._asked.put(status.fingerprint, now, now)
                self._work.put_nowait((status.worker, None))
        elif not isinstance(text, str):
            self._compare(text)

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on the topic of a worker's document; tell whether it is one."""
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
                await asyncio.to_thread(self.read, status, payload)
                self.changed()

    async def _ask(self, link: Link, worker: str) -> None:
        try:
            await link.subscribe(topics.target_text_topic(worker))
        except LinkDown:  # the link remembers it
            return
        except LinkRefused as error:
            self._denied = True
            _log.warning("how workers' targets write prompts cannot be read: %s", error.message)

    def read(self, status: WorkerStatus, payload: bytes) -> None:
        """Read what the worker of a status tells. May take a second.

        Args:
            status: status for which `of` has no text yet.
            payload: the worker's document.
        """
        stated = status.tokenizer
        assert stated is not None  # noqa: S101  else `of` has an answer
        try:
            told = self._codec.decode_target_text(payload)
            text = as_told(self.own, told, status.fingerprint, stated)
        except FlexSpecError as error:
            # Said of this worker alone: another one of the same tokenizer may tell the truth.
            self._known.put(_name(status), error.message, 0.0)
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


def _ids(ids: tuple[int, ...]) -> str:
    return " or ".join(f"id {token}" for token in ids) or "no token"
