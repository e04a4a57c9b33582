"""``flexspec-edge plan``: what the edge node that runs on this machine plans, and why."""

from __future__ import annotations

import http.client
import json
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.api.client import ask, reached_at
from flexspec_mq.errors import FlexSpecError, LinkError, LinkRefused, RemoteProtocolError, UsageError
from flexspec_mq.terminal.printable import printable
from schemas.openai import ErrorBody
from schemas.plan import PlanList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_node.api.settings import ApiSettings
    from schemas.plan import LimitReport, VersionPlan

PATH = "/v1/plan"


def show_plans(api: ApiSettings, *, as_json: bool) -> None:
    """Ask the node, and print what it says.

    Args:
        api: where it serves.
        as_json: print its answer, as one line, instead of tables.

    Raises:
        UsageError: the settings do not say where to ask.
        LinkError: nobody answers there, or refuses.
        RemoteProtocolError: what answers is no edge node of ours.
        FlexSpecError: no text was begun yet.
    """
    answer, plans = _ask(api)
    if not plans:
        raise FlexSpecError(
            "the edge node has planned nothing yet", hint="have it write a text first: flexspec chat"
        )
    sys.stdout.write(json.dumps(answer) if as_json else printable("\n\n".join(map(_table, plans))))
    sys.stdout.write("\n")


def _ask(api: ApiSettings) -> tuple[dict[str, Any], list[VersionPlan]]:
    host, port = reached_at(api.api_host), api.api_port
    if not port:
        raise UsageError("--api-port 0 is any free port", hint="name the one that the edge node has taken")
    stranger = RemoteProtocolError(
        f"what answers on {api.api_host} port {port} is no edge node that tells its plans",
        hint="say where it is with --api-host and --api-port; an older one has to be updated",
    )
    try:
        status, answer = ask(host, port, PATH, key=api.key())
        if status == 200:
            return answer, msgspec.convert(answer, PlanList).data
        why = msgspec.convert(answer, ErrorBody).error
    except OSError as error:
        raise LinkError(
            f"no edge node serves its API on {host} port {port}: {error.strerror or error}",
            hint="start one with: flexspec-edge serve; or say where it is with --api-host and --api-port",
        ) from error
    except (http.client.HTTPException, ValueError, msgspec.ValidationError) as error:
        raise stranger from error
    if status == 401:
        raise LinkRefused("the edge node asks for its API key", hint="name its file with --api-key-file")
    raise stranger if status == 404 else LinkRefused(f"the edge node refused: {why.message}")


def _table(version: VersionPlan) -> str:
    plan = version.plan
    state = "a text is under way" if version.under_way else "the last text"
    age = "no tokens yet" if version.age_s is None else f"newest tokens {version.age_s:.1f} s ago"
    sizes = f"run-ahead {plan.ahead}, worker's drafts {plan.worker_draft}, QoS {plan.qos}"
    lines = [
        f"{version.version}: {plan.does}",
        f"  policy {plan.policy}; {sizes}, threshold {plan.confidence_threshold:g}; {state}, {age}",
        *(f"  {_limit(limit)}" for limit in version.limits),
        "",
    ]
    if version.alternatives:
        rows = [("ms/token", "J/token", "", "chosen among")]
        for other in version.alternatives:
            name = other.name if other.allowed else f"{other.name} (beyond a limit)"
            mark = "*" if other.chosen else ""
            rows.append((_number(other.ms_per_token), _number(other.j_per_token), mark, name))
        lines += [*_columns(rows), ""]
    rows = [("value", "±", "unit", "estimate")]
    unseen = []
    for name, estimate in version.estimates.items():
        if estimate.value is None:
            unseen.append(name)
            continue
        unit = estimate.unit if estimate.tries is None else f"{estimate.unit} of {estimate.tries:.0f}"
        rows.append((_number(estimate.value), _number(estimate.error), unit, name))
    lines += _columns(rows)
    if unseen:
        lines += ["", f"  not seen yet: {', '.join(unseen)}"]
    return "\n".join(lines)


def _limit(limit: LimitReport) -> str:
    has = "" if limit.value is None else f", {_number(limit.value)} so far"
    reach = "" if limit.reach is None else f", {_number(limit.reach)} expected at least"
    return f"{limit.name} {limit.limit:g} {limit.unit}: {limit.state.replace('_', ' ')}{has}{reach}"


def _columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    """A head and rows: two columns of numbers, which stand to the right and go where they are empty, then words."""
    padded = []
    for at, column in enumerate(zip(*table, strict=True)):
        if at > 1 or any(column[1:]):
            width = max(map(len, column))
            padded.append([f"{cell:<{width}}" if at > 1 else f"{cell:>{width}}" for cell in column])
    return ["  " + "  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def _number(value: float | None) -> str:
    """To three digits, without powers of ten."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
