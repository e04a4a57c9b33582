"""Requests of the outbox as people and programs see them, read from the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.text.machine import FinishedText
from edge_node.text.spec import FORMAT, TextRequest, UnknownRequest, unpack
from flexspec_mq.models.text import Turn
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
        found.append(OutboxView(**_seen(entry), tokens=tokens))
    return found


def shown(journal: Journal, name: str) -> OutboxText | None:
    """A request with its text, where it is over; None where there is none of this id."""
    entry = journal.entry(name)
    if entry is None:
        return None
    known = entry.body[:1] == bytes([FORMAT])
    request = msgspec.to_builtins(msgspec.msgpack.decode(entry.body[1:]), str_keys=True) if known else {}
    about = {**_seen(entry), "tokens": entry.tokens, "request": request}
    if entry.state != "done":
        return OutboxText(**about)
    answer = msgspec.json.decode(journal.answer(name), type=FinishedText)
    about["tokens"] = 0 if answer.figures is None else answer.figures.tokens
    return OutboxText(
        **about,
        text="".join(text for text, _ in answer.pieces),
        reason=answer.reason,
        figures=answer.figures,
    )


def _seen(entry: Entry) -> dict[str, Any]:
    names = "id", "path", "mode", "state", "accepted", "finished", "read", "error"
    return {name: getattr(entry, name) for name in names} | {"prompt": _first_words(entry)}


def _first_words(entry: Entry) -> str:
    """The beginning of what a request asks, whichever API it came by."""
    try:
        prompt = unpack(entry.body, TextRequest).spec.prompt
    except UnknownRequest as error:
        return f"({error.message})"
    if not isinstance(prompt, str):
        asked = [turn.content for turn in prompt if isinstance(turn, Turn) and turn.role == "user"]
        texts = [text for text in prompt if isinstance(text, str)]
        prompt = asked[-1] if asked else " ".join(texts) or f"{len(prompt)} tokens"
    return " ".join(prompt[: 4 * _FIRST].split())[:_FIRST].rstrip()
