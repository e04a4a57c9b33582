"""Requests of the outbox as people and programs see them, read from the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.completion.completion import Answer
from schemas.node import OutboxText, OutboxView

if TYPE_CHECKING:
    from edge_node.outbox.entries import Entry
    from edge_node.outbox.journal import Journal

_FIRST = 80
"""Characters of a prompt that are shown."""


class _Counted(msgspec.Struct, frozen=True):
    """The tokens of an answer."""

    tokens: int


class _Figures(msgspec.Struct, frozen=True):
    """The part of an answer that a list shows."""

    figures: _Counted | None


def listed(journal: Journal) -> list[OutboxView]:
    """All requests, the newest last."""
    found = []
    for entry in journal.entries():
        tokens = entry.tokens
        if entry.state == "done":
            figures = msgspec.json.decode(journal.answer(entry.id), type=_Figures).figures
            tokens = 0 if figures is None else figures.tokens
        found.append(OutboxView(**_seen(entry, _read(entry.body)), tokens=tokens))
    return found


def shown(journal: Journal, name: str) -> OutboxText | None:
    """A request with its text, where it is over; None where there is none of this id."""
    entry = journal.entry(name)
    if entry is None:
        return None
    body = _read(entry.body)
    about = {**_seen(entry, body), "tokens": entry.tokens, "request": body}
    if entry.state != "done":
        return OutboxText(**about)
    answer = msgspec.json.decode(journal.answer(name), type=Answer)
    about["tokens"] = 0 if answer.figures is None else answer.figures.tokens
    return OutboxText(
        **about,
        text="".join(text for text, _ in answer.pieces),
        reason=answer.reason,
        figures=answer.figures,
    )


def _read(body: bytes) -> dict[str, Any]:
    """The body of a request; of what came by MQTT, its payload, which need be no JSON."""
    try:
        asked = json.loads(body)
    except ValueError:
        return {"prompt": body.decode("utf-8", "replace")}
    if isinstance(asked, dict):
        return _read(asked["payload"].encode()) if isinstance(asked.get("payload"), str) else asked
    return {"prompt": str(asked)}


def _seen(entry: Entry, body: dict[str, Any]) -> dict[str, Any]:
    names = "id", "path", "mode", "state", "accepted", "finished", "read", "error"
    return {name: getattr(entry, name) for name in names} | {"prompt": _first_words(body)}


def _first_words(body: dict[str, Any]) -> str:
    """The beginning of what a request asks, whichever API it came by."""
    turns = body.get("messages", body.get("input", body.get("prompt", "")))
    if isinstance(turns, list):
        asked = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
        turns = asked[-1].get("content", "") if asked else f"{len(turns)} tokens"
    return " ".join(" ".join(_texts(turns)).split())[:_FIRST].rstrip()


def _texts(content: Any) -> Iterator[str]:
    """A content's text, or those of its parts."""
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text[: 4 * _FIRST]
