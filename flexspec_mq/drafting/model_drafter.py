"""The drafter: proposes one token for each of several sessions in one forward. Knows token ids only.

Everything here runs on a thread of its own, never on the event loop. It yields after every token, so that a rejection
reaches it within one.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.draft.confidence import KEY, USUAL, ConfidenceCalibration, Floats, features_of
from flexspec_mq.models.kv import ReadTokens
from flexspec_mq.models.runner import DraftRunner, ModelInput, to_numpy
from flexspec_mq.sampling.penalties import penalties
from schemas.messages import Sampling

if TYPE_CHECKING:
    from flexspec_mq.grammar.matcher import Mask
    from flexspec_mq.models.target_text import TokenMap

    Proposer = Callable[[npt.NDArray[np.float32], Sampling, int, int], DraftToken]
    """Called with logits of shape [columns], sampling parameters, the token's position in prompt + text, and how many
    of the draft's choices before it were right, one after another."""

_QUANTUM = 16
"""Tokens: smaller pieces of a prefix cost nearly as much as these."""
_WRITING = _QUANTUM
"""A session with no more unread tokens than these goes on with its text: a rejection, or tokens that were drafted
without the model, leave it some to read."""
LEAST = 32
"""Tokens in common from which going on pays; conversations of one template have some in common anyway."""


def proposer_of(
    calibration: ConfidenceCalibration | None, ids: npt.NDArray[np.int64] | None = None
) -> Proposer:
    """Maker of proposals from logits.

    Args:
        calibration: the draft's; without one, `USUAL`.
        ids: token id of each column of the logits, ascending; None when they are all ids. A column's noise is that
            of its token, whichever columns there are.
    """
    known = calibration or USUAL

    def propose(logits: npt.NDArray[np.float32], params: Sampling, position: int, run: int) -> DraftToken:
        token, features = chosen(logits, params, position, run, ids)
        return DraftToken(token, known.probability(features), sure=math.exp(features[2]))

    return propose


def chosen(
    logits: npt.NDArray[np.float32],
    params: Sampling,
    position: int,
    run: int,
    ids: npt.NDArray[np.int64] | None,
) -> tuple[int, Floats]:
    """Choose a token of `ids` as `features_of` does, and give its features."""
    column, features = features_of(logits, params, position, run, ids)
    return column if ids is None else int(ids[column]), features


def read_calibration(folder: Path) -> ConfidenceCalibration | None:
    """The calibration that ships with a draft's checkpoint; None if none does.

    Raises:
        ModelError: there is one that cannot be read.
    """
    try:
        marker: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / MARKER} cannot be read: {error}", hint="export the draft again"
        ) from error
    if not isinstance(marker, dict) or marker.get(KEY) is None:
        return None
    return ConfidenceCalibration.from_json(marker[KEY])


class DraftKVPool:
    """KV caches of texts that have ended: the next turn of a conversation goes on from one of them.

    The pool is bounded by what its members have room for, and the oldest go first. A text is found by the device that
    it was of: else one could tell by the time whether another had sent the same.

    Args:
        most: tokens.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: deque[tuple[str, ReadTokens]] = deque()

    def __len__(self) -> int:
        """Texts kept."""
        return len(self._texts)

    @property
    def tokens(self) -> int:
        """Tokens that all of them have room for."""
        return sum(kv.capacity for _, kv in self._texts)

    def put(self, kv: ReadTokens, device: str = "") -> None:
        """Keep one of a device's texts."""
        self._texts.append((device, kv))
        while self.tokens > self._most:
            self._texts.popleft()

    def take(self, context: Sequence[int], device: str = "") -> ReadTokens | None:
        """The device's one with the longest beginning of `context`, the newest of equals; it is not kept any more.

        None if none has enough of it.
        """
        best, _ = self._best(context, device)
        if best is None:
            return None
        _, kv = self._texts[best]
        del self._texts[best]
        return kv

    def common(self, context: Sequence[int], device: str = "") -> int:
        """Length of the beginning of `context` that `take` would give; 0 for None."""
        best, most = self._best(context, device)
        return 0 if best is None else most

    def _best(self, context: Sequence[int], device: str) -> tuple[int | None, int]:
        """Place of the text that `take` takes, and what it has in common."""
        best, most = None, LEAST - 1
        for place in range(len(self._texts) - 1, -1, -1):
            owner, kv = self._texts[place]
            if owner == device and (common := kv.common(context)) > most:
                best, most = place, common
        return best, most


class AcceptedRun:
    """A session's proposals, and how many of them in a row the text took.

    A token that nobody proposed (the prompt's, a lookup's) neither adds to the run nor ends it. Tokens of
    the pending draft count as what they were drafted for, until the text turns out otherwise.
    """

    __slots__ = ("_length", "_proposals")

    def __init__(self) -> None:
        self._proposals: dict[int, int] = {}
        self._length = 0

    def proposed(self, position: int, token: int) -> None:
        """The draft would go on with this token.

        Args:
            position: tokens of prompt and text before it.
            token: id of the proposed token.
        """
        self._proposals[position] = token

    def keep(self, known: int) -> None:
        """Forget what was proposed after more than so many tokens: the text turned out otherwise there.

        Args:
            known: tokens at the front of the context that are what the draft has read.
        """
        self._proposals = {place: token for place, token in self._proposals.items() if place <= known}

    def length(self, context: Sequence[int], committed: int) -> int:
        """Proposals before the end of the context that were right, one after another.

        Args:
            context: prompt, committed tokens and pending draft.
            committed: how many of them are decided for good.
        """
        length = self._length
        for place, token in sorted(self._proposals.items()):
            if place >= len(context):
                break
            length = length + 1 if context[place] == token else 0
            if place < committed:
                self._length = length
                del self._proposals[place]
        return length


@dataclass(slots=True)
class _Session:
    """State that is kept of a session.

    Attributes:
        kv: KV cache of what was read, of the model's kind.
        params: the session's, the same for all of its tokens.
        run: acceptance of its drafted tokens.
        tokens: how its ids are the draft's; None where they are the same.
        never: columns of the logits that are no token of the session's target.
        device: whose text it is.
        read_at: forward that last read a piece of its prefix.
        columns: the target's id of each column of the logits; None until a grammar or a penalty asks.
    """

    kv: Any
    params: Sampling
    tokens: TokenMap | None
    never: npt.NDArray[np.int64] | None
    device: str = ""
    run: AcceptedRun = field(default_factory=AcceptedRun)
    read_at: int = 0
    columns: npt.NDArray[np.int64] | None = None

    @property
    def misfit(self) -> bool:
        """Whether the draft has nothing to say to its target."""
        return self.tokens is not None and bool(self.tokens.misfit)


class ModelDrafter:
    """A `Drafter` over a draft model. It gives one token at a time.

    Args:
        model: the draft, packed.
        max_context: positions that it has; beyond them it has nothing to say.
        proposer: turns a row of its logits into a proposal; None for an uncalibrated one.
        prefill: tokens of unread prefixes that one forward may read.
        beside: the same while other sessions wait for a token of this forward, so that a long prompt does not
            hold them up.
        pool: tokens of ended texts whose KV cache is kept for a next turn.
        ids: token id of each column of the logits; None when they are all ids.

    Attributes:
        prefill: tokens of unread prefixes that one forward may read.
        token_map: given the fingerprint of a text's tokenizer, how its ids are the draft's; None if they are the same.
    """

    token_map: Callable[[bytes], TokenMap | None]

    def __init__(
        self,
        model: DraftRunner,
        *,
        max_context: int,
        proposer: Proposer | None = None,
        prefill: int = 256,
        beside: int = 32,
        pool: int = 8192,
        ids: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._model = model
        self._max_context = max_context
        self._proposer = proposer or proposer_of(None)
        self.prefill = prefill
        self._beside = beside
        self._sessions: dict[int, _Session] = {}
        self._pool = DraftKVPool(pool)
        self._forwards = 0
        self._ids = ids
        self._lock = Lock()  # where it writes by itself as well, that is another thread
        self.token_map = lambda _fingerprint: None

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Run a forward over all that are ready, and over as much of the others' prefixes as it may read."""
        with self._lock:
            return self._draft(wanted)

    def _draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        self._forwards += 1
        drafted: list[Drafted] = [None] * len(wanted)
        places, inputs = self._inputs(wanted)
        for place, request in enumerate(wanted):
            if self._sessions[request.session].misfit:
                drafted[place] = ()
        if not inputs:
            return drafted
        logits = to_numpy(self._model.forward(inputs))
        row = 0
        for place, model_input in zip(places, inputs, strict=True):
            kv = model_input.kv
            if self._sessions[wanted[place].session].tokens is not None:  # noted as the draft's ids
                read = kv.length - len(model_input.tokens)
                kv.tokens[read:] = wanted[place].context[read : kv.length]
            if model_input.rows:
                proposal = self._proposed(wanted[place], logits[row])
                drafted[place] = () if proposal is None else (proposal,)
                row += 1
        return drafted

    def free(self, session: int) -> None:
        """The session's text has ended; what was read may serve its next turn."""
        with self._lock:
            ended = self._sessions.pop(session, None)
            if ended is not None:
                self._pool.put(ended.kv, ended.device)

    def unread(self, request: DraftRequest) -> int:
        """Tokens of the context that it has not read for this session, nor kept of another text of the device."""
        session = self._sessions.get(request.session)
        context = request.context[:-1]
        read = self._pool.common(context, request.device) if session is None else session.kv.common(context)
        return len(request.context) - read

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """None: every token of it takes a forward."""
        return [()] * len(wanted)

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._max_context

    def _proposed(self, request: DraftRequest, logits: npt.NDArray[np.float32]) -> DraftToken | None:
        position = len(request.context)
        session = self._sessions[request.session]
        lasted = session.run.length(request.context, request.committed)
        if session.never is not None:
            logits[session.never] = -np.inf
        if request.allowed is not None:
            allowed = self._allowed(self._columns(session, len(logits)), request.allowed.mask)
            if not allowed.any():
                return None
            logits[~allowed] = -np.inf
        if session.params.penalized:
            prompt, written = (
                request.context[: request.prompt_length],
                request.context[request.prompt_length :],
            )
            penalties(session.params, prompt, written).apply(logits, self._columns(session, len(logits)))
        proposal = self._proposer(logits, session.params, position, lasted)
        if session.tokens is not None:
            token = session.tokens.writes.get(proposal.token, proposal.token)
            proposal = replace(proposal, token=token)
        session.run.proposed(position, proposal.token)
        return proposal

    def _columns(self, session: _Session, columns: int) -> npt.NDArray[np.int64]:
        """The target's id of each column of the logits."""
        if session.columns is None:
            ids = np.arange(columns) if self._ids is None else self._ids
            if session.tokens is not None:
                ids = np.array([session.tokens.writes.get(each, each) for each in ids.tolist()])
            session.columns = ids
        return session.columns

    @staticmethod
    def _allowed(columns: npt.NDArray[np.int64], allowed: Mask) -> Mask:
        """Which columns of the logits are tokens that the text's grammar allows."""
        known = columns < len(allowed)
        return np.asarray(known & allowed[np.where(known, columns, 0)])

    def _inputs(self, wanted: Sequence[DraftRequest]) -> tuple[list[int], list[ModelInput[Any]]]:
        sessions, unread = [], []
        for request in wanted:
            context = request.context[:-1]
            session = self._session(request, context)
            read = session.kv.match(context)
            session.run.keep(read)
            sessions.append(session)
            unread.append(0 if session.misfit else len(request.context) - read)
        shares = self._shares(sessions, unread)
        places = [place for place, share in enumerate(shares) if share]
        return places, [self._model_input(wanted[place], unread[place], shares[place]) for place in places]

    def _session(self, request: DraftRequest, context: Sequence[int]) -> _Session:
        session = self._sessions.get(request.session)
        if session is None:
            kv = self._pool.take(context, request.device) or self._model.new_kv()
            tokens = self.token_map(request.identity.fingerprint)
            if tokens is not None and tokens.same:
                tokens = None
            never = None if tokens is None else tokens.columns(self._ids)
            params = request.identity.sampling
            session = _Session(kv, params, tokens, never, request.device)
            self._sessions[request.session] = session
        return session

    def _shares(self, sessions: Sequence[_Session], unread: Sequence[int]) -> list[int]:
        """How many tokens each may feed: all of those that write, pieces of those that read, longest ago first."""
        shares = [left if left <= _WRITING else 0 for left in unread]
        reading = [place for place, share in enumerate(shares) if not share]
        budget = min(self.prefill, self._beside) if len(reading) < len(unread) else self.prefill
        reading.sort(key=lambda place: sessions[place].read_at)
        for turn, place in enumerate(reading):
            if not budget:
                break
            fair = max(_QUANTUM, budget // (len(reading) - turn))
            shares[place] = min(unread[place], fair, budget)
            budget -= shares[place]
            sessions[place].read_at = self._forwards
        return shares

    def _model_input(self, request: DraftRequest, unread: int, share: int) -> ModelInput[Any]:
        begin, session = len(request.context) - unread, self._sessions[request.session]
        tokens = request.context[begin : begin + share]
        if session.tokens is not None:
            tokens = session.tokens.read(tokens)
        return ModelInput(session.kv, tokens, int(share == unread))
