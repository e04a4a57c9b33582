"""``flexspec-edge plan``: what the edge node that runs on this machine plans, and why."""

from __future__ import annotations

import http.client
import json
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.api.client import get, reached_at
from flexspec_mq.errors import FlexSpecError, LinkError, LinkRefused, RemoteProtocolError, UsageError
from flexspec_mq.terminal.printable import printable
from schemas.openai import ErrorBody
from schemas.plan import PlanList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_node.api.settings import ApiSettings
    from schemas.plan import LimitReport, PlanAlternative, PlanEstimate, VersionPlan

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
    said = _ask(api)
    try:
        found = msgspec.convert(said, PlanList)
    except msgspec.ValidationError as error:
        raise _stranger(api) from error
    if not found.data:
        raise FlexSpecError(
            "the edge node has planned nothing yet", hint="have it write a text first: flexspec chat"
        )
    sys.stdout.write(
        json.dumps(said) + "\n" if as_json else printable("\n\n".join(map(_table, found.data))) + "\n"
    )


def _ask(api: ApiSettings) -> dict[str, Any]:
    host, port = reached_at(api.api_host), api.api_port
    if not port:
        raise UsageError("--api-port 0 is any free port", hint="name the one that the edge node has taken")
    try:
        status, said = get(host, port, PATH, api.key())
    except OSError as error:
        raise LinkError(
            f"no edge node serves its API on {host} port {port}: {error.strerror or error}",
            hint="start one with: flexspec-edge serve; or say where it is with --api-host and --api-port",
        ) from error
    except (http.client.HTTPException, ValueError) as error:
        raise _stranger(api) from error
    if status == 200:
        return said
    try:
        why = msgspec.convert(said, ErrorBody).error
    except msgspec.ValidationError as error:
        raise _stranger(api) from error
    if status == 401:
        raise LinkRefused("the edge node asks for its API key", hint="name its file with --api-key-file")
    if status == 404:
        raise _stranger(api)
    raise LinkRefused(f"the edge node refused: {why.message}")


def _stranger(api: ApiSettings) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"what answers on {api.api_host} port {api.api_port} is no edge node that tells its plans",
        hint="say where it is with --api-host and --api-port; an older one has to be updated",
    )


def _table(found: VersionPlan) -> str:
    """All that is told of one version, for people."""
    plan = found.plan
    state = "a text is under way" if found.under_way else "the last text"
    age = "no tokens yet" if found.age_s is None else f"newest tokens {found.age_s:.1f} s ago"
    sizes = f"run-ahead {plan.ahead}, worker's drafts {plan.worker_draft}, QoS {plan.qos}"
    lines = [
        f"{found.version}: {plan.does}",
        f"  policy {plan.policy}; {sizes}, threshold {plan.confidence_threshold:g}; {state}, {age}",
        *(f"  {_limit(one)}" for one in found.limits),
        "",
    ]
    if found.alternatives:
        lines += [*_alternatives(found.alternatives), ""]
    lines += _columns(
        ("value", "±", "unit", "estimate"),
        [
            (_number(one.value), _number(one.error), _unit(one), name)
            for name, one in found.estimates.items()
            if one.value is not None
        ],
    )
    unseen = [name for name, one in found.estimates.items() if one.value is None]
    if unseen:
        lines += ["", f"  not seen yet: {', '.join(unseen)}"]
    return "\n".join(lines)


def _limit(one: LimitReport) -> str:
    has = "" if one.value is None else f", {_number(one.value)} so far"
    reach = "" if one.reach is None else f", {_number(one.reach)} expected at least"
    return f"{one.name} {one.limit:g} {one.unit}: {one.state.replace('_', ' ')}{has}{reach}"


def _alternatives(found: Sequence[PlanAlternative]) -> list[str]:
    """With joules where these are known."""
    known = any(one.j_per_token is not None for one in found)
    rows = [
        (
            _number(one.ms_per_token),
            *((_number(one.j_per_token),) if known else ()),
            "*" if one.chosen else "",
            one.name if one.allowed else f"{one.name} (beyond a limit)",
        )
        for one in found
    ]
    return _columns(("ms/token", *(("J/token",) if known else ()), "", "chosen among"), rows)


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows under their heads; numbers, which come before words, stand to the right."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  "
        + "  ".join(
            f"{cell:>{width}}"
            if head[column] in {"ms/token", "J/token", "value", "±"}
            else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _unit(one: PlanEstimate) -> str:
    return one.unit if one.tries is None else f"{one.unit} of {one.tries:.0f}"


def _number(value: float | None) -> str:
    """To three digits, without powers of ten."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
