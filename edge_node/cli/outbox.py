"""``flexspec-edge outbox``: requests that wait, and answers that nobody has read yet.

A node that serves is asked by its API. Where none runs, its file is read: texts that are sent again there go out when
it starts.
"""

from __future__ import annotations

import http.client
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from edge_node.api.client import ask, find_node, reached_at
from edge_node.outbox.journal import Journal
from edge_node.text.outbox_views import listed, shown
from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.words import duration
from flexspec_mq.errors import FlexSpecError, UsageError
from schemas.node import OutboxList, OutboxText, OutboxView
from schemas.openai import ErrorBody

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from edge_node.api.settings import ApiSettings

_COLUMNS = "{:24}  {:>11}  {:11}  {:8}  {:>6}  {}\n"


def run_outbox(args: argparse.Namespace, settings: ApiSettings, file: Path | None) -> None:
    """Do what the flags say, and show the outcome.

    Args:
        args: parsed flags: action, id, and whether to print JSON.
        settings: place and key of the API of the node that may run.
        file: file of the outbox; None where there is no place for one.

    Raises:
        UsageError: there is no such request, or no outbox.
        FlexSpecError: the outbox cannot be read, or the node refuses.
    """
    host = reached_at(settings.api_host)
    runs = find_node(host, settings.api_port) is not None
    outbox = _Running(host, settings.api_port, settings.key()) if runs else _File(file)
    views = outbox.views()
    if args.action == "list":
        _print(OutboxList(data=views)) if args.json else _print_list(views)
        return
    view = outbox.do(args.action, _named(views, args.id))
    if args.json:
        _print(view)
    elif args.action == "show" and isinstance(view, OutboxText):
        _print_text(view)
    else:
        sys.stdout.write(f"{view.id}: {'dropped' if args.action == 'drop' else view.state}\n")


class _Running:
    """The outbox of a node that runs."""

    def __init__(self, host: str, port: int, key: str | None) -> None:
        self._at = host, port
        self._key = key

    def views(self) -> list[OutboxView]:
        return msgspec.convert(self._ask("GET", ""), OutboxList).data

    def do(self, action: str, view: OutboxView) -> OutboxView:
        method = {"show": "GET", "send": "POST", "drop": "DELETE"}[action]
        answer = self._ask(method, f"/{view.id}")
        return view if action == "drop" else msgspec.convert(answer, OutboxText)

    def _ask(self, method: str, name: str) -> dict[str, object]:
        try:
            status, answer = ask(*self._at, f"/v1/outbox{name}", method=method, key=self._key)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FlexSpecError(f"the edge node does not answer: {error}", hint="ask again") from error
        if status != 200:
            refusal = msgspec.convert(answer, ErrorBody).error
            raise FlexSpecError(refusal.message, hint="--api-key-file names its key" if status == 401 else "")
        return answer


class _File:
    """The outbox of a node that does not run."""

    def __init__(self, path: Path | None) -> None:
        if path is None or not path.exists():
            raise UsageError(
                f"no edge node runs, and there is no outbox in {path or 'a home of this user'}",
                hint="--edge and --state-dir say which one, --api-port where its node serves",
            )
        self._path = path

    def views(self) -> list[OutboxView]:
        with closing(Journal(self._path)) as journal:
            return listed(journal)

    def do(self, action: str, view: OutboxView) -> OutboxView:
        with closing(Journal(self._path)) as journal:
            if action == "drop":
                journal.forget(view.id)
                return view
            if action == "send" and view.state in ("queued", "stale"):  # when the node starts it may be old
                journal.unpark(view.id)
            text = shown(journal, view.id)
        assert text is not None  # noqa: S101  nobody else has the file
        return text


def _named(views: list[OutboxView], name: str | None) -> OutboxView:
    """The request whose id begins so."""
    if not name:
        raise UsageError("no request is named", hint="`flexspec-edge outbox` lists their ids")
    found = [view for view in views if view.id.startswith(name)]
    if len(found) != 1:
        many = "several requests whose ids begin" if found else "no request whose id begins"
        raise UsageError(f"there is {many} with {name!r}", hint="`flexspec-edge outbox` lists them")
    return found[0]


def _print(body: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(body).decode() + "\n")


def _print_list(views: list[OutboxView]) -> None:
    if not views:
        sys.stdout.write("the outbox is empty\n")
        return
    sys.stdout.write(_COLUMNS.format("ID", "AGE", "MODE", "STATE", "TOKENS", "PROMPT"))
    for view in views:
        state = "unread" if view.state == "done" and not view.read else view.state
        row = view.id, _age(view), view.mode, state, view.tokens, printable(view.prompt)
        sys.stdout.write(_COLUMNS.format(*row))


def _print_text(view: OutboxText) -> None:
    why = f", {view.error}" if view.error else ""
    sys.stdout.write(f"{view.state}{why}, {_age(view)} old, {view.mode}, {view.tokens} tokens\n")
    sys.stdout.write(f"\n> {printable(view.prompt)}\n")
    if view.text:
        sys.stdout.write(f"\n{printable(view.text)}\n")
    if view.provisional:
        sys.stdout.write(f"\nunverified: {printable(view.provisional)}\n")


def _age(view: OutboxView) -> str:
    return duration(max(0.0, time.time() - view.accepted))
