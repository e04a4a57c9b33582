"""What was checked, what came of it, and how that is shown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import LinkError, ModelError, RemoteProtocolError, UsageError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console


class State(Enum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


_MARKS = {State.OK: "✓", State.WARNING: "!", State.FAILED: "✗", State.SKIPPED: "–"}
_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.SKIPPED: "dim"}

_CODES = {
    UsageError.exit_code: ("settings", "port taken"),
    ModelError.exit_code: ("model missing", "wrong tokenizer"),
    LinkError.exit_code: (
        *("broker down", "wrong port", "3.1.1 only", "TLS mismatch", "login refused", "ACL refusal"),
        *("broker lacking", "link lost"),
    ),
    WorkerError.exit_code: ("no worker", "no text"),
    RemoteProtocolError.exit_code: ("protocol",),
}
_CODE_OF = {fault: code for code, faults in _CODES.items() for fault in faults}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: of the check.
        state: what came of it.
        detail: what was seen.
        advice: how to mend it; empty where nothing is to be mended.
        fault: what is wrong, in a few fixed words, for programs as well; empty if nothing is.
        part: whose setup it is about: ``edge`` or ``cloud``.
    """

    name: str
    state: State
    detail: str
    advice: str = ""
    fault: str = ""
    part: str = ""

    @property
    def exit_code(self) -> int:
        """That of the fault's kind, as all our commands have it; 0 unless it failed."""
        return _CODE_OF.get(self.fault, 1) if self.state is State.FAILED else 0


@dataclass
class Findings:
    """Collects findings of one part, in order.

    Args:
        part: ``edge`` or ``cloud``.
        tell: told what is checked now.
    """

    part: str
    tell: Callable[[str], None]
    all: list[Finding] = field(default_factory=list)

    def ok(self, name: str, detail: str) -> None:
        """All is well."""
        self._add(name, State.OK, detail)

    def warn(self, name: str, detail: str, advice: str, fault: str = "") -> None:
        """It works, but."""
        self._add(name, State.WARNING, detail, advice, fault)

    def fail(self, name: str, fault: str, detail: str, advice: str) -> None:
        """It does not work."""
        self._add(name, State.FAILED, detail, advice, fault)

    def skip(self, names: Iterable[str], why: str) -> None:
        """It could not be checked."""
        for name in names:
            self._add(name, State.SKIPPED, why)

    def failed(self, name: str) -> bool:
        """Whether a check of this name failed."""
        return any(one.name == name and one.state is State.FAILED for one in self.all)

    def _add(self, name: str, state: State, detail: str, advice: str = "", fault: str = "") -> None:
        self.all.append(Finding(name, state, detail, advice, fault, self.part))


def exit_code(findings: Sequence[Finding]) -> int:
    """Of a whole examination: that of the first failure, 0 without any."""
    return next((one.exit_code for one in findings if one.exit_code), 0)


def as_json(findings: Sequence[Finding], seconds: float) -> str:
    """One JSON object on a line."""
    rows = [asdict(one) | {"state": one.state.value} for one in findings]
    ok = not any(one.state is State.FAILED for one in findings)
    return json.dumps({"ok": ok, "seconds": round(seconds, 1), "findings": rows}) + "\n"


def from_json(document: dict[str, Any]) -> list[Finding]:
    """What `as_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    return [Finding(**{**row, "state": State(row["state"])}) for row in document["findings"]]


def show(findings: Sequence[Finding], seconds: float, console: Console) -> None:
    """A list for people: each finding, what is wrong with it and how to mend it; the sum of it at the end."""
    from rich.table import Table
    from rich.text import Text

    parts = list(dict.fromkeys(one.part for one in findings))
    for part in parts:
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        of_it = [one for one in findings if one.part == part]
        for one in (one for one in of_it if one.state is not State.SKIPPED):
            said = Text(f"{one.fault}: {one.detail}" if one.fault else one.detail)
            if one.advice:
                said.append(f"\n→ {one.advice}", style="cyan")
            style = _COLOURS[one.state]
            table.add_row(Text(_MARKS[one.state], style=style), Text(one.name, style=style), said)
        skipped = [one for one in of_it if one.state is State.SKIPPED]
        for why in dict.fromkeys(one.detail for one in skipped):
            names = ", ".join(one.name for one in skipped if one.detail == why)
            style = _COLOURS[State.SKIPPED]
            table.add_row(
                Text(_MARKS[State.SKIPPED], style=style),
                Text("not checked", style=style),
                Text(f"{names}: {why}"),
            )
        if part:
            console.print(Text(f"{part}", style="bold"))
        console.print(table)
    console.print(Text(_sum(findings, seconds)))


def _sum(findings: Sequence[Finding], seconds: float) -> str:
    numbers = {state: sum(one.state is state for one in findings) for state in State}
    took = f" ({seconds:.0f} s)"
    skipped = f", {numbers[State.SKIPPED]} not checked" if numbers[State.SKIPPED] else ""
    warnings = f", {_count(numbers[State.WARNING], 'warning')}" if numbers[State.WARNING] else ""
    if numbers[State.FAILED]:
        return f"{_count(numbers[State.FAILED], 'fault')}{warnings}{skipped}{took}"
    return f"all is well{warnings}{skipped}{took}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
