"""Which worker an edge session has adopted, and which others may hold a copy of it."""

from collections import OrderedDict

from schemas.messages import Verdict

_MOST = 16
"""Workers remembered for closing, the oldest forgotten first: their lease ends them."""


class Peers:
    """Attempts and workers of one session.

    Args:
        attempts: number of the newest attempt that may have been published before.

    Attributes:
        attempt: newest published open; `attempts` before the first.
        fence: fencing token; accepts of lower attempts are not adopted: their chain is known to be another than ours.
        worker: adopted worker, if any.
        current: the attempt that it holds.
        former: worker that was left because it was silent, or stuck: it holds that attempt still, as far as we know.
        stuck: whether it was left although it answered; then only new tokens count as a sign of life.
    """

    def __init__(self, attempts: int) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()
        self.attempt = attempts
        self.fence = attempts + 1
        self.worker: str | None = None
        self.current = 0
        self.former: str | None = None
        self.stuck = False

    def opens(self) -> int:
        """The next open goes out; returns its attempt."""
        self.attempt += 1
        return self.attempt

    def resumes(self) -> int:
        """An open goes to the adopted worker, which holds less than we have; returns its attempt."""
        self.current = self.opens()
        return self.current

    def met(self, worker: str, attempt: int) -> None:
        """A worker says that it holds the session."""
        self._known[worker] = max(attempt, self._known.get(worker, 0))
        if len(self._known) > _MOST:
            self._known.popitem(last=False)

    def speaker(self, verdict: Verdict) -> str | None:
        """The worker that a verdict shows to hold the session: the one that it names, or one that comes back."""
        returns = self.worker is None and verdict.attempt == self.current
        return self.former if verdict.worker is None and returns else verdict.worker

    def adopts(self, worker: str, verdict: Verdict, *, news: bool) -> bool:
        """Whether a worker that speaks is to be adopted: the first at or above the fence, or the same one's next.

        Args:
            worker: the worker.
            verdict: verdict of it.
            news: whether that ends beyond what is committed.
        """
        if verdict.attempt < self.fence:
            return False
        if self.worker is None:
            return news or not self.stuck or worker != self.former
        return worker == self.worker and verdict.attempt > self.current

    def adopt(self, worker: str, attempt: int) -> list[tuple[str, int]]:
        """Adopt, forget all others, and return these with their attempts, to be closed."""
        self.worker, self.current, self.former, self.stuck = worker, attempt, None, False
        others = [(name, known) for name, known in self._known.items() if name != worker]
        self._known = OrderedDict({worker: attempt})
        return others

    def spoke(self, verdict: Verdict) -> bool:
        """Whether a verdict comes from the adopted worker and attempt."""
        named = verdict.worker is None or verdict.worker == self.worker
        return self.worker is not None and verdict.attempt == self.current and named

    def leave(self, *, raise_fence: bool, stuck: bool) -> None:
        """Look for another worker than the adopted one; with `raise_fence`, only an open to come can be adopted."""
        self.former, self.stuck = None if raise_fence else self.worker, stuck
        self.worker = None
        if raise_fence:
            self.fence = self.attempt + 1

    def forget_all(self) -> list[str]:
        """All workers that may hold the session, to be closed for good."""
        names = list(self._known)
        self._known.clear()
        self.worker = None
        return names
