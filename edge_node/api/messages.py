"""The messages of a conversation, as OpenAI writes them, to turns."""

from __future__ import annotations

from typing import Any

from edge_node.api.errors import bad
from edge_node.api.validation import Fields, Neutral, is_neutral
from flexspec_mq.models.text import Role, Turn

MAX_MESSAGES = 4096

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_UNSUPPORTED: dict[str, Neutral] = dict.fromkeys(
    ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "annotations"), is_neutral
)


def turns_from(messages: Any) -> tuple[Turn, ...]:
    """Read `messages`.

    Raises:
        ApiError: 400, naming the message and its field.
    """
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "messages is no array with at least one message")
    if len(messages) > MAX_MESSAGES:
        raise bad("messages", f"messages has more than {MAX_MESSAGES} messages")
    return tuple(_turn(message, f"messages[{number}]") for number, message in enumerate(messages))


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise bad(where, f"{where} is no object")
    fields = Fields(message, f"{where}.")
    said = fields.text("role")
    role = _ROLES.get(said or "")
    if role is None:
        raise bad(f"{where}.role", f"{where}.role is {said!r}, not one of {', '.join(_ROLES)}")
    content = _content(fields.take("content"), f"{where}.content")
    fields.refuse_others(_UNSUPPORTED)
    return Turn(role, content)


def _content(content: Any, where: str) -> str:
    """A string, or parts of type text, which are joined as they are."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad(where, f"{where} is neither a string nor an array of parts")
    return "".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise bad(where, f"{where} is no object")
    fields = Fields(part, f"{where}.")
    kind = fields.text("type")
    if kind != "text":
        raise bad(f"{where}.type", f"{where} is of type {kind!r}; only text can be read")
    text = fields.text("text")
    if text is None:
        raise bad(f"{where}.text", f"{where}.text is missing")
    fields.refuse_others({})
    return text
