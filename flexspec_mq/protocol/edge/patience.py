"""How long a user waits for a session, and what the draft shows them while nobody answers.

The session speaks the wire only. This stands beside it: it reads when somebody was last heard, ends the session when
the user's time is over, and has the draft write on alone meanwhile. No I/O and no clock, as there.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import NamedTuple, Self

from flexspec_mq import waiting
from flexspec_mq.controller.estimators.node import ProvisionalShare
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.protocol.digest import common_length
from flexspec_mq.protocol.edge import failures
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import EdgeState
from flexspec_mq.protocol.effects import Commit, Effect, FinishReason, ProvisionalDraft
from schemas.openai import StoppedAlone


class Waits(NamedTuple):
    """Seconds that a text waits at most.

    Attributes:
        link: until there is a link to the broker, before anybody has answered.
        worker: until there is a worker of its version.
        token: until the next token, once it could begin.
        turn: the same, while workers say that they have too much to do.
        named: whether its user said how long.
    """

    link: float = waiting.UNLINKED
    worker: float = 0.0
    token: float = waiting.PATIENCE
    turn: float = waiting.QUEUED
    named: bool = False

    @classmethod
    def of(cls, seconds: float | None) -> Self:
        """The waits of a text whose user says that it waits so long; None and 0 leave it to us."""
        return cls(seconds, seconds, seconds, seconds, named=True) if seconds else cls()


_LIVE = (EdgeState.OPENING, EdgeState.ACTIVE)


class Patience:
    """A user's side of a session.

    Args:
        session: session that they wait for.
        deadline: on the clock of `now`; then it ends with `DEADLINE`.
        waits: after `token` seconds without a new one it fails, or `turn` seconds of word that there is too much to do.
        fallback: asked when nobody has answered for a moment: how many tokens the draft may then write behind what is
            committed. None keeps to the plan.
        share: told how much of what the draft wrote so was right.

    Attributes:
        shown: number of provisional tokens that the user has seen.
        confirmed: number of these that the target wrote as well.
        stopped: why the draft wrote no more alone in the last silence; empty while it may, or need not.
    """

    def __init__(
        self,
        session: EdgeSession,
        deadline: float | None = None,
        waits: Waits = Waits(),  # noqa: B008  a constant
        fallback: Callable[[], int] | None = None,
        share: ProvisionalShare | None = None,
    ) -> None:
        self._session = session
        self._deadline = inf if deadline is None else deadline
        self._waits = waits
        self._fallback = fallback
        self._share = share or ProvisionalShare()
        self._stands: tuple[int, ...] = ()  # provisional tokens behind what is committed
        self.shown = 0
        self.confirmed = 0
        self.stopped: StoppedAlone = ""

    @property
    def gives_up_at(self) -> float:
        """When it ends if nothing is heard until then, on the clock of `now`; `inf` is never."""
        silence = self._session.silence
        return min(
            self._deadline,
            silence.progress_at + self._waits.token,
            silence.queued_from + self._waits.turn,
        )

    @property
    def wrote_alone(self) -> bool:
        """Whether nobody answers, and the draft has written all that it may or can: nothing, where a limit says so."""
        fallback = self._session.fallback
        return fallback is not None and not (fallback and self._session.draft_request())

    def next_tick(self) -> float:
        """When `tick` wants to be called, for user or session; `inf` is never. Ask anew after every call of these."""
        session = self._session
        if session.state not in _LIVE:
            return inf
        at = session.next_tick()
        return min(self.gives_up_at, self._falls_back_at, inf if at is None else at)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due, at the user's side first."""
        session, effects = self._session, list[Effect]()
        if session.state in _LIVE:
            if self._deadline <= now:
                effects = self._over(now, FinishReason.DEADLINE)
            elif self.gives_up_at <= now:
                effects = self._over(now, FinishReason.FAILED, self._hopeless())
            elif self._fallback is not None and self._falls_back_at <= now:
                effects = session.fall_back(self._fallback(), now)
                if session.fallback:
                    effects += self._shows(0)
        return effects + self.watch(session.tick(now))

    def watch(self, effects: Iterable[Effect]) -> list[Effect]:
        """The effects of the session's last call, and between them what becomes of the provisional text."""
        out: list[Effect] = []
        for effect in effects:
            out.append(effect)
            if self._stands and isinstance(effect, Commit):
                out += self._judged(effect)
        if self._session.fallback:
            out += self._shows(len(self._stands))
            self.stopped = self._session.stopped_alone
        return out

    def _shows(self, known: int) -> list[Effect]:
        """Show what the draft has written behind so many provisional tokens."""
        pending = self._session.pending
        if len(pending) <= known:
            return []
        self.shown += len(pending) - len(self._stands)
        self._stands = pending
        return [ProvisionalDraft(self._session.committed_length + known, pending[known:])]

    def _judged(self, commit: Commit) -> list[Effect]:
        """Count provisional tokens that the target has decided; a wrong one takes all after it."""
        stood, right = len(self._stands), common_length(self._stands, commit.tokens)
        over = right < len(commit.tokens) or self._session.finished is not None
        replaced = stood - right if over else 0
        self.confirmed += right
        if right or replaced:
            self._share.judged(right, replaced)
        self._stands = () if over else self._stands[right:]
        return [ProvisionalDraft(commit.start + len(commit.tokens), ())] if replaced else []

    def _hopeless(self) -> FlexSpecError:
        session = self._session
        return failures.hopeless(
            session.version,
            linked=session.online,
            nobody=session.nobody,
            queued=session.silence.queued_from < inf,
            failed=session.failure,
        )

    def _over(self, now: float, reason: FinishReason, error: FlexSpecError | None = None) -> list[Effect]:
        """Nobody is waited for any longer: what the draft wrote alone is all that there will be, if there is any."""
        if self._stands:
            reason, error = FinishReason.PROVISIONAL, None
        return self._session.cancel(now, reason, error)

    @property
    def _falls_back_at(self) -> float:
        if self._fallback is None or self._session.fallback is not None:
            return inf
        silence = self._session.silence
        return silence.heard_at + silence.noticed
