"""The table of checks: each row has a name, a probe and what it needs; a run of it comes to findings with advice."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from flexspec_mq.errors import LinkError, ModelError, UsageError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

_CODES = {
    UsageError.exit_code: ("settings", "port taken"),
    ModelError.exit_code: ("model missing", "wrong tokenizer"),
    LinkError.exit_code: (
        *("broker down", "wrong port", "3.1.1 only", "TLS mismatch", "login refused", "ACL refusal"),
        *("broker lacking", "link lost"),
    ),
    WorkerError.exit_code: ("no worker", "no text"),
}
_CODE_OF = {fault: code for code, faults in _CODES.items() for fault in faults}


class State(Enum):
    """Outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        name: Name of the check.
        state: Outcome.
        detail: Observation.
        advice: How to mend it; empty where nothing is to be mended.
        fault: Kind of fault in a few fixed words, for programs as well; empty without one.
        part: Daemon whose setup it is about: ``edge`` or ``cloud``.
    """

    name: str
    state: State
    detail: str
    advice: str = ""
    fault: str = ""
    part: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code of the fault's kind, as all our commands have it; 0 unless the check failed."""
        return _CODE_OF.get(self.fault, 1) if self.state is State.FAILED else 0


@dataclass
class Report:
    """Findings of one check, which its probe writes."""

    name: str
    part: str = ""
    findings: list[Finding] = field(default_factory=list)

    def ok(self, detail: str) -> None:
        """All is well."""
        self._add(State.OK, detail)

    def warn(self, detail: str, advice: str, fault: str = "") -> None:
        """It works, but."""
        self._add(State.WARNING, detail, advice, fault)

    def fail(self, fault: str, detail: str, advice: str) -> None:
        """It does not work."""
        self._add(State.FAILED, detail, advice, fault)

    def skip(self, why: str) -> None:
        """It could not be checked."""
        self._add(State.SKIPPED, why)

    @property
    def failed(self) -> bool:
        """Whether a fault was found."""
        return any(finding.state is State.FAILED for finding in self.findings)

    def _add(self, state: State, detail: str, advice: str = "", fault: str = "") -> None:
        self.findings.append(Finding(self.name, state, detail, advice, fault, self.part))


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table.

    Attributes:
        name: Name for people and programs.
        probe: Looks, and writes what it finds into the report.
        needs: Names of the checks that it cannot do without.
        without: Why the checks that need this one could not be done, if this one fails.
        doing: Progress message while it runs.
        turn: Rows of a lower turn run before those of a higher one; the table's order is that of the findings.
        background: Start at once, and wait for it in its turn.
    """

    name: str
    probe: Callable[[Report], Awaitable[None] | None]
    needs: tuple[str, ...] = ()
    without: str = ""
    doing: str = ""
    turn: int = 0
    background: bool = False


async def run_checks(
    checks: Sequence[Check],
    part: str = "",
    tell: Callable[[str], None] = lambda _text: None,
    timeout: float | None = None,
) -> list[Finding]:
    """Run a table to its end and return all findings, in the table's order."""
    run = _Run(checks, part, tell)
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            await run.to_end()
    except TimeoutError:
        if not bound.expired():
            raise
        over = run.reports["time"] = Report("time", part)
        detail = f"not finished within {timeout:g} s; it was still {run.doing}"
        over.fail("time over", detail, "give more with --within on a slow machine or link")
    for report in run.reports.values():
        if not report.findings:
            report.skip("not reached")
    return [finding for report in run.reports.values() for finding in report.findings]


class _Run:
    """A run of a table.

    Attributes:
        doing: Progress message of the check that runs.
        lost: Checks that failed, and why those that need them cannot be done.
    """

    def __init__(self, checks: Sequence[Check], part: str, tell: Callable[[str], None]) -> None:
        self.checks = checks
        self.reports = {check.name: Report(check.name, part) for check in checks}
        self.lost: dict[str, str] = {}
        self.doing = "beginning"
        self._tell = tell

    async def to_end(self) -> None:
        started = {
            check.name: asyncio.create_task(self._try(check)) for check in self.checks if check.background
        }
        try:
            for check in sorted(self.checks, key=lambda check: check.turn):
                if check.doing and not self._blocked(check):
                    self.doing = check.doing
                    self._tell(check.doing)
                await (started.get(check.name) or self._try(check))
        finally:
            for task in started.values():
                task.cancel()

    def _blocked(self, check: Check) -> str:
        return next((self.lost[need] for need in check.needs if need in self.lost), "")

    async def _try(self, check: Check) -> None:
        report = self.reports[check.name]
        if why := self._blocked(check):
            self.lost[check.name] = why
            report.skip(why)
            return
        try:
            if (probing := check.probe(report)) is not None:
                await probing
        except LinkError as error:
            advice = error.hint or "try again; look into the broker's log meanwhile"
            report.fail("link lost", error.message, advice)
            self.lost |= dict.fromkeys(check.needs, "the broker stopped answering")
        if report.failed and check.without:
            self.lost[check.name] = check.without


async def on_thread(work: Callable[[], T]) -> T:
    """Call `work` on a thread of its own, which ends with the process at the latest.

    Unlike the event loop's executor, neither cancellation nor the end of the program waits for it: a check that hangs
    must not keep the doctor from ending.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # a cancelled wait is not told to it: its result is dropped

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await asyncio.wrap_future(done)
