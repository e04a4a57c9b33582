"""The drafter: guesses one token for each of several sessions in one forward. Knows token ids only.

Everything here runs on one thread, never on the event loop. It yields after every token, so that a rejection
reaches it within one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_node.drafting.accepted_run import AcceptedRun
from edge_node.drafting.interface import Drafted, Wanted
from edge_node.drafting.kv_pool import DraftKVPool
from edge_node.drafting.proposal import guess_of
from flexspec_mq.models.runner import ModelInput, ModelRunner, to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from edge_node.drafting.interface import DraftToken
    from edge_node.drafting.proposal import GuessOf
    from flexspec_mq.models.kv import SessionKV

_QUANTUM = 16
"""Tokens: smaller pieces of a prefix cost nearly as much as these."""
_WRITING = _QUANTUM
"""A session with no more unread tokens than these goes on with its text: a rejection, or tokens that were drafted
without the model, leave it some to read."""


class ModelDrafter:
    """A `Drafter` over a draft model. It gives one token at a time.

    Args:
        model: the draft, packed.
        max_context: positions that it has; beyond them it has nothing to say.
        guess: turns a row of its logits into a guess; None for an uncalibrated one.
        prefill: tokens of unread prefixes that one forward may read.
        beside: the same while other sessions wait for a token of this forward, so that a long prompt does not
            hold them up.
        kept: tokens of ended texts whose keys and values are kept for a next turn.
    """

    def __init__(
        self,
        model: ModelRunner,
        *,
        max_context: int,
        guess: GuessOf | None = None,
        prefill: int = 256,
        beside: int = 32,
        kept: int = 8192,
    ) -> None:
        self._model = model
        self._max_context = max_context
        self._guess = guess or guess_of(None)
        self._prefill = prefill
        self._beside = min(beside, prefill)
        self._sessions: dict[int, SessionKV] = {}
        self._streaks: dict[int, AcceptedRun] = {}
        self._kept = DraftKVPool(kept)
        self._read: dict[int, int] = {}
        self._forwards = 0

    def draft(self, wanted: Sequence[Wanted]) -> list[Drafted]:
        """One forward over all that are ready, and over as much of the others' prefixes as it may read."""
        self._forwards += 1
        found: list[Drafted] = [None] * len(wanted)
        places, feeds = self._feeds(wanted)
        logits = to_numpy(self._model.forward(feeds))
        row = 0
        for place, feed in zip(places, feeds, strict=True):
            if feed.rows:
                found[place] = (self._guessed(wanted[place], logits[row]),)
                row += 1
        return found

    def free(self, session: int) -> None:
        """The session's text has ended; what was read may serve its next turn."""
        self._read.pop(session, None)
        self._streaks.pop(session, None)
        kv = self._sessions.pop(session, None)
        if kv is not None:
            self._kept.put(kv)

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._max_context

    def _guessed(self, one: Wanted, logits: npt.NDArray[np.float32]) -> DraftToken:
        position = len(one.context)
        streak = self._streaks[one.session]
        lasted = streak.length(one.context, position if one.committed is None else one.committed)
        guess = self._guess(logits, one.params, position, lasted)
        streak.guessed(position, guess.token)
        return guess

    def _feeds(self, wanted: Sequence[Wanted]) -> tuple[list[int], list[ModelInput]]:
        """What each of them feeds, and which they are; those whose turn it is not are left out."""
        unread = []
        for one in wanted:
            context = one.context[:-1]
            read = self._kv(one.session, context).match(context)
            self._streaks.setdefault(one.session, AcceptedRun()).keep(read)
            unread.append(len(one.context) - read)
        shares = self._shares([one.session for one in wanted], unread)
        places = [place for place, share in enumerate(shares) if share]
        return places, [self._feed(wanted[place], unread[place], shares[place]) for place in places]

    def _kv(self, session: int, context: Sequence[int]) -> SessionKV:
        kv = self._sessions.get(session)
        if kv is None:
            kv = self._sessions[session] = self._kept.take(context) or self._model.new_kv()
        return kv

    def _shares(self, sessions: Sequence[int], unread: Sequence[int]) -> list[int]:
        """How many tokens each may feed: all of those that write, pieces of those that read, longest ago first."""
        shares = [left if left <= _WRITING else 0 for left in unread]
        reading = [place for place, share in enumerate(shares) if not share]
        budget = self._beside if len(reading) < len(unread) else self._prefill
        reading.sort(key=lambda place: self._read.get(sessions[place], 0))
        for turn, place in enumerate(reading):
            if not budget:
                break
            fair = max(_QUANTUM, budget // (len(reading) - turn))
            shares[place] = min(unread[place], fair, budget)
            budget -= shares[place]
            self._read[sessions[place]] = self._forwards
        return shares

    def _feed(self, one: Wanted, unread: int, share: int) -> ModelInput:
        begin = len(one.context) - unread
        return ModelInput(
            self._sessions[one.session], one.context[begin : begin + share], int(share == unread)
        )
