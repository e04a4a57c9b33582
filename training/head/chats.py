"""Chats that a head is trained on: JSON lines in, token ids of prompts and answers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from flexspec_mq.errors import UsageError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.text import Role, Turn, encode_turns, render_turns, text_from_bytes
from flexspec_mq.models.tokenizer import Tokenizer


class _Message(msgspec.Struct, frozen=True):
    role: Role
    content: str


class _Chat(msgspec.Struct, frozen=True):
    messages: Annotated[tuple[_Message, ...], msgspec.Meta(min_length=2)]


@dataclass(frozen=True, slots=True)
class ChatRow:
    """An answer and all that stands before it.

    Attributes:
        ids: prompt and answer; the answer ends with a token that ends a text, unless it was cut.
        prompt: how many of them are prompt.
    """

    ids: tuple[int, ...]
    prompt: int


def read_chats(path: Path) -> list[tuple[Turn, ...]]:
    """Read JSON lines such as ``{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", …}]}``.

    Raises:
        UsageError: names the line that is no chat, or has no answer; or the file is empty.
    """
    try:
        text = text_from_bytes(path.read_bytes(), source=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    chats = []
    # Not `splitlines`: a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            chat = msgspec.json.decode(line, type=_Chat)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UsageError(
                f"{path} line {number} is no chat: {error}",
                hint='for example {"messages": [{"role": "user", "content": "Hi"}, '
                '{"role": "assistant", "content": "Hello!"}]}',
            ) from error
        turns = tuple(Turn(message.role, message.content) for message in chat.messages)
        if all(turn.role != "assistant" for turn in turns[1:]) or turns[0].role == "assistant":
            raise UsageError(f"{path} line {number} has no answer, or begins with one")
        chats.append(turns)
    if not chats:
        raise UsageError(f"{path} has no chats")
    return chats


def rows_of(base: LoadedText, chats: Sequence[Sequence[Turn]], longest: int) -> list[ChatRow]:
    """Make a row for each answer; prompts are encoded as a running text's are.

    Args:
        base: whose template and end of text are used.
        chats: as `read_chats` gives them.
        longest: tokens of a row; what is longer is cut, and left out if nothing of the answer stays.

    Raises:
        UsageError: a prompt cannot be encoded, or no row is left.
    """
    rows = []
    for turns in chats:
        for place, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            prompt = encode_turns(base.tokenizer, turns[:place], max_context=base.max_context)
            ids = (*prompt, *_answer(base, turns[:place], turn))[: min(longest, base.max_context)]
            if len(ids) > len(prompt):
                rows.append(ChatRow(ids, len(prompt)))
    if not rows:
        raise UsageError(f"all chats have prompts of {longest} tokens or more", hint="raise --max-tokens")
    return rows


def _answer(base: LoadedText, before: Sequence[Turn], answer: Turn) -> list[int]:
    """Ids of an answer, as the template writes it behind its prompt, up to the end of the text."""
    tokenizer = base.tokenizer
    ids = tokenizer.encode(_written(tokenizer, before, answer), add_special_tokens=False)
    ends = [place for place, token in enumerate(ids) if token in base.eos]
    return ids[: ends[0] + 1] if ends else [*ids, *base.eos[:1]]


def _written(tokenizer: Tokenizer, before: Sequence[Turn], answer: Turn) -> str:
    if tokenizer.chat_template:
        prompt = render_turns(tokenizer, before)
        whole = render_turns(tokenizer, [*before, answer], answered=True)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
    return answer.content
