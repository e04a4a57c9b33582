"""The table of checks: each row has a name, a probe and what it needs; a run of it comes to findings with advice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from flexspec_mq.errors import LinkError, ModelError, UsageError, WorkerError

_CODES = {
    UsageError.exit_code: ("settings", "port taken"),
    ModelError.exit_code: ("model missing", "wrong tokenizer"),
    LinkError.exit_code: (
        *("broker down", "wrong port", "3.1.1 only", "TLS mismatch", "login refused", "ACL refusal"),
        *("broker lacking", "link lost"),
    ),
    WorkerError.exit_code: ("no worker", "no text", "expired"),
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
    """

    name: str
    state: State
    detail: str
    advice: str = ""
    fault: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code of the fault's kind, as all our commands have it; 0 unless the check failed."""
        return _CODE_OF.get(self.fault, 1) if self.state is State.FAILED else 0


@dataclass
class Report:
    """Findings of one check, which its probe writes."""

    name: str
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
        self.findings.append(Finding(self.name, state, detail, advice, fault))


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table.

    Attributes:
        name: Name for people and programs.
        probe: Looks, and writes what it finds into the report.
        needs: Names of the checks that it cannot do without.
        without: Why the checks that need this one could not be done, if this one fails.
        doing: Progress message while it runs.
    """

    name: str
    probe: Callable[[Report], Awaitable[None] | None]
    needs: tuple[str, ...] = ()
    without: str = ""
    doing: str = ""


async def run_checks(
    checks: Sequence[Check], tell: Callable[[str], None] = lambda _text: None, timeout: float | None = None
) -> list[Finding]:
    """Run the checks one after the other and return all findings."""
    reports = {check.name: Report(check.name) for check in checks}
    lost: dict[str, str] = {}
    doing = "beginning"
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            for check in checks:
                if check.doing and not _why_not(check, lost):
                    doing = check.doing
                    tell(doing)
                await _try(check, reports[check.name], lost)
    except TimeoutError:
        if not bound.expired():
            raise
        over = reports["time"] = Report("time")
        detail = f"not finished within {timeout:g} s; it was still {doing}"
        over.fail("time over", detail, "give more with --within on a slow machine or link")
    for report in reports.values():
        if not report.findings:
            report.skip("not reached")
    return [finding for report in reports.values() for finding in report.findings]


def _why_not(check: Check, lost: dict[str, str]) -> str:
    return next((lost[need] for need in check.needs if need in lost), "")


async def _try(check: Check, report: Report, lost: dict[str, str]) -> None:
    """Make a check; note in `lost` why those that need it, or what it needs, cannot be made."""
    if why := _why_not(check, lost):
        lost[check.name] = why
        report.skip(why)
        return
    try:
        if (probing := check.probe(report)) is not None:
            await probing
    except LinkError as error:
        report.fail(
            "link lost", error.message, error.hint or "try again; look into the broker's log meanwhile"
        )
        lost |= dict.fromkeys(check.needs, "the broker stopped answering")
    if report.failed and check.without:
        lost[check.name] = check.without
