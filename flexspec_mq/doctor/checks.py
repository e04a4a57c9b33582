"""The table of all checks, of daemons and of brokers, and the runner that comes to findings with advice.

A row says what a check needs, what is lost without it, and what it means if its probe raises. The probe of a row is
the doctor's; a row for which a doctor has none is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from flexspec_mq.errors import FlexSpecError, LinkError, ModelError, UsageError, WorkerError

_FAULTS: Final = {
    UsageError.exit_code: ("settings", "port taken"),
    ModelError.exit_code: ("model missing", "wrong tokenizer"),
    LinkError.exit_code: (
        *("broker down", "wrong port", "3.1.1 only", "TLS mismatch", "login refused", "ACL refusal"),
        *("broker lacking", "link lost"),
    ),
    WorkerError.exit_code: ("no worker", "no text", "expired"),
}
_CODE_OF: Final = {fault: code for code, faults in _FAULTS.items() for fault in faults}


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table.

    Attributes:
        name: Name for people and programs.
        of: Programs that make it: ``edge``, ``cloud`` and ``broker``.
        needs: Names of the checks that it cannot do without.
        without: Reason for which the checks that need this one are skipped if it fails.
        doing: Progress message while it runs; ``{at}`` is the address of the broker.
        fault: Kind of fault of an error that its probe raises, other than of the link.
    """

    name: str
    of: str
    needs: tuple[str, ...] = ()
    without: str = ""
    doing: str = ""
    fault: str = "settings"


_ABOVE: Final = "it could not come to anything before the faults above are mended"
_LOGIN: Final = ("login",)
TABLE: Final = (
    Check("packages", "edge cloud"),
    Check("cache", "edge cloud", fault="disk full"),
    Check("api", "edge", doing="looking at the API's port"),
    Check("metrics", "cloud"),
    Check("broker", "edge cloud broker", (), "the broker cannot be used", "looking for the broker at {at}"),
    Check("login", "edge cloud broker", ("broker",), "the broker does not let us in", "logging in"),
    Check("model", "edge", (), "the draft cannot be loaded", "loading the draft", "model missing"),
    Check("model", "cloud", (), "the target cannot be loaded", "loading the target", "model missing"),
    Check("keys", "edge cloud", _LOGIN),
    Check("name", "edge cloud", _LOGIN, doing="listening for other daemons"),
    Check("catalogue", "edge cloud", _LOGIN, "no version of the family is known"),
    Check("access", "edge", ("login", "catalogue"), _ABOVE, "trying the access rules"),
    Check("access", "cloud", _LOGIN, doing="trying the access rules"),
    Check("exposure", "edge cloud", _LOGIN),
    Check("worker", "edge", ("login", "catalogue"), "no worker serves the version"),
    Check("tokenizer", "edge", ("model", "worker"), _ABOVE),
    Check("tokenizer", "cloud", ("model", "login", "catalogue")),
    Check("clock", "edge cloud", _LOGIN),
    Check("text", "edge", ("tokenizer", "access"), doing="writing a text", fault="no text"),
    Check("retained messages", "broker", _LOGIN, fault="broker lacking"),
    Check("shared subscriptions", "broker", _LOGIN, fault="broker lacking"),
    Check("reason codes", "broker", _LOGIN, fault="broker lacking"),
    Check("round trip", "broker", _LOGIN, fault="broker lacking"),
    Check("workers", "broker", _LOGIN),
)
"""All checks, in the order in which they are made."""


class State(StrEnum):
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


class Fault(FlexSpecError):
    """A fault: its kind, the observation, and how to mend it. A probe raises or returns it."""

    state = State.FAILED

    def __init__(self, fault: str, detail: str, advice: str) -> None:
        super().__init__(detail, hint=advice)
        self.fault = fault


class Warned(Fault):
    """It works, but."""

    state = State.WARNING

    def __init__(self, detail: str, advice: str, fault: str = "") -> None:
        super().__init__(fault, detail, advice)


class Skipped(Fault):
    """It could not be checked."""

    state = State.SKIPPED

    def __init__(self, why: str) -> None:
        super().__init__("", why, "")


Said = str | Fault
"""Word of a probe: that all is well, with an observation, or what is wrong."""
Told = Said | Sequence[Said]
"""All that a probe says."""
Probe = Callable[[], Told | Awaitable[Told]]


async def run_checks(
    program: str,
    probes: Mapping[str, Probe],
    tell: Callable[[str], None] = lambda _text: None,
    timeout: float | None = None,
    broker: str = "",
) -> list[Finding]:
    """Make the checks of a program one after the other and return all findings.

    Args:
        program: ``edge``, ``cloud`` or ``broker``.
        probes: Probe of each check by name.
        tell: Told what is being done.
        timeout: Seconds for all of them.
        broker: Address of the broker.
    """
    findings: list[Finding] = []
    checks = [check for check in TABLE if program in check.of.split() and check.name in probes]
    lost: dict[str, str] = {}
    doing = "beginning"
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            for check in checks:
                if why := next((lost[need] for need in check.needs if need in lost), ""):
                    lost[check.name] = why
                    findings.append(Finding(check.name, State.SKIPPED, why))
                    continue
                if check.doing:
                    tell(doing := check.doing.format(at=broker))
                findings += await _made(check, probes[check.name], lost)
    except TimeoutError:
        if not bound.expired():
            raise
        made = {finding.name for finding in findings}
        findings += [
            Finding(check.name, State.SKIPPED, "not reached") for check in checks if check.name not in made
        ]
        detail = f"not finished within {timeout:g} s; it was still {doing}"
        advice = "give more with --within on a slow machine or link"
        findings.append(Finding("time", State.FAILED, detail, advice, "time over"))
    return findings


async def _made(check: Check, probe: Probe, lost: dict[str, str]) -> list[Finding]:
    """Make a check; note in `lost` why those that need it, or what it needs, cannot be made."""
    try:
        said = probe()
        told = await said if isinstance(said, Awaitable) else said
    except Fault as fault:
        told = fault
    except LinkError as error:
        told = Fault(
            "link lost", error.message, error.hint or "try again; look into the broker's log meanwhile"
        )
        lost |= dict.fromkeys(check.needs, "the broker stopped answering")
    except FlexSpecError as error:
        told = Fault(check.fault, error.message, error.hint)
    findings = [
        Finding(check.name, State.OK, one)
        if isinstance(one, str)
        else Finding(check.name, one.state, one.message, one.hint, one.fault)
        for one in ((told,) if isinstance(told, str | Fault) else told)
    ]
    if check.without and any(finding.state is State.FAILED for finding in findings):
        lost[check.name] = check.without
    return findings
