"""Drafts of the worker's own, behind the edges': one forward of a draft for all sessions that have room for them.

Both sides throw the same dice, so who drafts a token changes nothing but the time. The target verifies these drafts
with the edges' own, in the same forward.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import DraftRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.drafting.interface import Drafted, Drafter
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem

_log = logging.getLogger(__name__)

MOST_TOKENS = 65_536
"""Tokens of contexts that a draft keeps keys and values of: 1.4 GB of the default draft's with ONNX Runtime, half of
it with the compact engine."""


@dataclass(slots=True)
class _Path:
    """What is drafted for an item in this step.

    Attributes:
        number: of the session at the drafter.
        own: drafted so far.
        survival: probability that the target takes the edge's draft and all of `own`, as far as the drafter knows.
        done: nothing more is wanted.
    """

    item: WorkItem
    number: int
    own: tuple[int, ...] = ()
    survival: float = 1.0
    done: bool = False
    context: list[int] = field(default_factory=list)

    def request(self) -> DraftRequest:
        """What to draft next."""
        item = self.item
        return DraftRequest(
            session=self.number,
            context=self.context,
            identity=item.identity,
            committed=len(item.context),
            prompt_length=item.prompt_length,
            most=item.room - len(self.own),
            joint_acceptance=self.survival,
        )


class ColocatedDrafts:
    """Drafts for the sessions of a worker, on the engine's thread.

    Drafts are hints: a drafter that raises is not asked again, and the texts go on without it.

    Args:
        drafter: proposes; knows token ids only.
        name: of the draft, for people.
        most_tokens: of contexts that it may hold; beyond, the sessions that it drafted for longest ago are forgotten.

    Attributes:
        name: empty once it has failed.
        drafted: tokens of the newest step.
    """

    def __init__(self, drafter: Drafter, name: str, *, most_tokens: int = MOST_TOKENS) -> None:
        self._drafter: Drafter | None = drafter
        self.name = name
        self.drafted = 0
        self._most_tokens = most_tokens
        self._numbers = itertools.count()
        self._known: dict[SessionKey, tuple[int, int]] = {}
        """Number at the drafter and length of the context, by session; the newest drafted for at the end."""

    def draft(self, items: Sequence[WorkItem]) -> dict[SessionKey, tuple[int, ...]]:
        """Tokens behind the drafts of items with room, up to their room; items without any are left out.

        A session whose prompt the drafter has not read to its end gets none in this step, and a piece of it is read.
        """
        self.drafted = 0
        drafter = self._drafter
        wanted = [item for item in items if item.room]
        if drafter is None or not wanted:
            return {}
        try:
            own = self._drafted(drafter, wanted)
        except Exception:  # noqa: BLE001  logged, and the target needs no drafts
            _log.exception("the worker's drafter failed; texts go on without its drafts")
            self._drafter, self.name = None, ""
            self._known.clear()
            return {}
        self.drafted = sum(map(len, own.values()))
        return own

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        known = self._known.pop(key, None)
        if known is not None and self._drafter is not None:
            self._drafter.free(known[0])

    def _drafted(self, drafter: Drafter, items: Sequence[WorkItem]) -> dict[SessionKey, tuple[int, ...]]:
        paths = [self._path(item) for item in items]
        self._make_room(len(items))
        while asked := [path for path in paths if not path.done and drafter.fits(path.context)]:
            found = drafter.draft([path.request() for path in asked])
            for path, proposals in zip(asked, found, strict=True):
                _take(path, proposals)
            if all(proposals is None for proposals in found):  # pieces of prompts were read, and nothing else
                break
        return {path.item.key: path.own for path in paths if path.own}

    def _path(self, item: WorkItem) -> _Path:
        known = self._known.pop(item.key, None)
        number = next(self._numbers) if known is None else known[0]
        context = [*item.context, *item.draft]
        self._known[item.key] = number, len(context) + item.room
        return _Path(item, number, context=context)

    def _make_room(self, needed: int) -> None:
        """Forget sessions, but the newest ones that are needed now."""
        held = sum(tokens for _, tokens in self._known.values())
        for key in list(self._known)[:-needed]:
            if held <= self._most_tokens:
                return
            held -= self._known[key][1]
            self.free(key)


def _take(path: _Path, proposals: Drafted) -> None:
    """Go on with what was proposed; nothing (an empty sequence) ends the draft, None is asked for again."""
    if proposals is None:
        return
    path.done = not proposals
    for proposal in proposals:
        path.own += (proposal.token,)
        path.context.append(proposal.token)
        path.survival *= proposal.confidence
    identity = path.item.identity
    path.done |= len(path.own) >= path.item.room
    path.done |= not identity.ignore_eos and path.context[-1] in identity.eos
