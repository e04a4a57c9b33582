"""Trying again: exponential back-off with full jitter, bounded, cancellable, and never silent.

Only connections are retried here. Messages are retried by the session protocol, which knows what is still
worth sending. Full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_before_delay, stop_never

from flexspec_mq import waiting

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A retry that waits, for a log line or a progress display.

    Attributes:
        what: the thing tried, as a person would say it.
        attempt: number of the attempt that failed just now, from 1.
        delay: seconds until the next one.
        error: error of this attempt.
    """

    what: str
    attempt: int
    delay: float
    error: BaseException

    def __str__(self) -> str:
        reason = str(self.error).partition("\n")[0]
        return f"{self.what}: {reason}; attempt {self.attempt} failed, next in {self.delay:.1f} s"


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between attempts.

    Attributes:
        first: upper bound of the first wait in seconds, which doubles with each attempt.
        top: upper bound of any wait in seconds.
        give_up_after: seconds after which no further attempt begins; None never gives up.
        awaited: tells before each wait whether somebody waits for the outcome, and so less long. None: nobody does.
    """

    first: float = waiting.RETRY[0]
    top: float = waiting.RETRY[1]
    give_up_after: float | None = None
    awaited: Callable[[], bool] | None = None

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the `attempt`-th failure, from 1: uniform below the bound."""
        top = self.top
        if self.awaited is not None and self.awaited():
            top = min(top, waiting.RETRY_AWAITED)
        return random.uniform(0.0, min(top, self.first * 2.0 ** min(attempt - 1, 30)))  # noqa: S311


async def retrying(
    attempt: Callable[[], Awaitable[T]],
    *,
    what: str,
    on: type[Exception],
    backoff: Backoff,
    on_wait: Callable[[Waiting], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Call `attempt` until it does not raise `on`.

    Args:
        attempt: function to try; other exceptions than `on` pass through at once.
        what: names it in `Waiting`.
        on: exceptions that are worth another try.
        backoff: the waits, and when to give up.
        on_wait: called before each wait.
        sleep: waits so many seconds, or less.

    Raises:
        Exception: the last `on`, when `give_up_after` is over.
    """

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            delay = state.next_action.sleep if state.next_action else 0.0
            on_wait(Waiting(what, state.attempt_number, delay, error))

    retries = AsyncRetrying(
        sleep=sleep,
        wait=lambda state: backoff.delay(state.attempt_number),
        stop=stop_never if backoff.give_up_after is None else stop_before_delay(backoff.give_up_after),
        retry=retry_if_exception_type(on),
        before_sleep=report,
        reraise=True,
    )
    return await retries(attempt)
