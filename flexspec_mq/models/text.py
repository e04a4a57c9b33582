"""Text to token ids and back: prompts through the chat template, and a detokenizer for streams."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from flexspec_mq.errors import UsageError
from flexspec_mq.grammar.tools import ReadCall, ToolFormat, ToolUse, tool_format
from flexspec_mq.models.byte_text.ids import ByteDecoder
from flexspec_mq.models.byte_text.parser import CHANNELS
from flexspec_mq.models.byte_text.tokenizer import ByteTokenizer
from flexspec_mq.models.fingerprint import left_out_ids
from flexspec_mq.models.tokenizer import PlainTokenizer, Tokenizer

Role = Literal["system", "user", "assistant", "tool"]

PROMPTS = (
    "Why is the sky blue?",
    "Summarize in one sentence: The tide rises and falls twice a day because the moon pulls the sea towards it.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate into German: The train to the airport leaves at nine from platform four.",
    "A shop sells pens at 3 for 2 dollars. What do 12 pens cost? Think step by step.",
    "Give me a list of five things to do on a rainy Sunday.",
    "Write a polite e-mail that asks a landlord to repair the heating.",
    "Explain to a child how a plane stays in the air.",
    "Which of these is not a fruit: apple, pear, carrot, plum? Say why.",
    'Make JSON with the keys name, born and country of: "Marie Curie was born in Poland in 1867."',
    "Tell a short story about a lighthouse keeper and a lost dog.",
    "What are the advantages and disadvantages of electric cars?",
)
"""Questions of many kinds, for those who measure a model and have none of their own."""

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands behind a content that is continued until the template has been applied; transformers has the same."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_UNFINISHED_BYTES = 3  # UTF-8 has four in a character at most
# Enough that the decoders' rules for the start of a text (a stripped blank) touch nothing new.
_CONTEXT_TOKENS = 4


class Image(NamedTuple):
    """An image within a turn.

    Attributes:
        at: characters of the content before it.
        url: bytes of the image, as a ``data:`` URL.
    """

    at: int
    url: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Turn of a conversation.

    Attributes:
        images: images in it, which servers of models may read.
        calls: calls of tools that the assistant made behind its content.
        tool: name of the tool whose result a turn of a tool is.
        answers: id of the call whose result it is.
        continued: the text goes on with this turn, which is the last.
    """

    role: Role
    content: str
    calls: tuple[ReadCall, ...] = ()
    tool: str = ""
    answers: str = ""
    continued: bool = False
    images: tuple[Image, ...] = ()


def text_from_bytes(data: bytes, *, source: str = "the prompt") -> str:
    """Decode UTF-8, as from a file or a pipe.

    Raises:
        UsageError: The bytes are no UTF-8; says where.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}",
            hint="convert it first, for example with: iconv -f latin1 -t utf-8",
        ) from error


def read_prompts(path: Path, *, may_be_blank: bool = False) -> list[tuple[str, str]]:
    """(name, prompt) pairs of a JSON-lines file with ``prompt``, or ``turns`` of which the first is used.

    A line is named by its ``question_id``, or else its number.

    Raises:
        UsageError: Names the file, and the line that cannot be used.
    """
    try:
        text = text_from_bytes(path.read_bytes(), source=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    prompts = []
    # Not `splitlines`: a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
            prompt = record["prompt"] if "prompt" in record else record["turns"][0]
            name = str(record.get("question_id", number))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} line {number} is no JSON object with `prompt` or `turns`",
                hint='for example {"prompt": "Why is the sky blue?"}',
            ) from error
        if not isinstance(prompt, str) or not (may_be_blank or prompt.strip()):
            raise UsageError(f"{path} line {number} has an empty prompt")
        prompts.append((name, prompt))
    if not prompts:
        raise UsageError(
            f"{path} holds no prompt", hint='a line is for example {"prompt": "Why is the sky blue?"}'
        )
    return prompts


def encode_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], tools: ToolUse | None = None, *, max_context: int
) -> tuple[int, ...]:
    """Turn a conversation into the token ids that the target continues.

    With a chat template the ids end where the assistant's next turn begins, or behind the content that is continued.
    A base model has no template: the turns' contents are joined by empty lines and encoded as they are.

    Args:
        tokenizer: The target's.
        turns: At least one; the last is usually the user's.
        tools: Tools that the prompt describes.
        max_context: Positions that the model has; one must be left for the first new token.

    Raises:
        UsageError: No turns, the last one is blank, a text is not UTF-8, the template refuses the order of
            the turns, or the prompt does not fit.
    """
    # A template writes the special tokens itself.
    ids = tokenizer.encode(
        render_turns(tokenizer, turns, tools), add_special_tokens=not tokenizer.chat_template
    )
    if not ids:
        raise UsageError("the prompt is empty", hint="write something to continue")
    if len(ids) >= max_context:
        raise UsageError(
            f"the prompt has {len(ids)} tokens and the model's context {max_context}, new tokens included",
            hint="shorten the prompt or drop the oldest turns",
        )
    return tuple(ids)


def format_of(tokenizer: Tokenizer) -> ToolFormat:
    """The form in which a target writes calls of tools."""
    if isinstance(tokenizer, ByteTokenizer):
        return CHANNELS
    from jinja2 import TemplateError

    from flexspec_mq.models.templates.template import chat_template

    template, takes = tokenizer.chat_template, False
    if isinstance(template, str):
        with suppress(TemplateError):
            takes = "tools" in chat_template(template).variables
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return tool_format(str(template) if takes else "", added)


def render_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], tools: ToolUse | None = None, *, answered: bool = False
) -> str:
    """The text of a conversation whose tokens `encode_turns` gives; where it is `answered`, no turn begins at its end.

    Raises:
        UsageError: No turns, the last one is blank, a text is not UTF-8, or the template refuses their order or takes
            too much.
    """
    _check(turns)
    continued = turns[-1].continued
    form = format_of(tokenizer)
    if not form.native:
        turns = _plain(turns, form, tools)
    if not tokenizer.chat_template:
        return "\n\n".join(turn.content for turn in turns)
    from jinja2 import TemplateError, TemplateRuntimeError

    from flexspec_mq.models.templates.template import chat_template

    told: Any = [tool.as_told() for tool in tools.tools] if tools is not None and form.native else None
    template = tokenizer.chat_template
    if not isinstance(tokenizer, PlainTokenizer):  # transformers' may have several
        template = tokenizer.get_chat_template(tools=told)
    messages = [_message(turn) for turn in turns]
    if continued:
        messages[-1]["content"] += _TAG
    try:
        text = chat_template(template).render(
            messages=messages,
            tools=told,
            documents=None,
            add_generation_prompt=not (answered or continued),
            **tokenizer.special_tokens_map,
        )
    except TemplateError as error:
        hint = "most templates want user and assistant in turn, with the user's turn last"
        if isinstance(error, TemplateRuntimeError):
            hint = "the error is the template's: have whoever gives the model mend it"
        raise UsageError(
            f"the model's chat template refuses these turns: {error!s:.300}", hint=hint
        ) from error
    return _open_ended(text, turns[-1].content) if continued else text


def _open_ended(text: str, content: str) -> str:
    """A text up to the end of its last content; a template that trims contents has taken the tag's blank as well."""
    end = text.rfind(_TAG.rstrip())
    if end < 0 or content.strip() not in text[:end]:
        raise UsageError(
            "the model's chat template leaves out what is to be continued", hint="send it as the user's words"
        )
    return text[:end] if text.startswith(_TAG, end) else text[:end].rstrip()


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as chat templates take it."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.value}}
            for call in turn.calls
        ]
    return message | ({"name": turn.tool} if turn.tool else {})


def _plain(turns: Sequence[Turn], form: ToolFormat, tools: ToolUse | None) -> list[Turn]:
    """A conversation with tools for a template that knows none: all of them in the contents of other turns."""
    plain: list[Turn] = []
    results: list[str] = []
    for turn in turns:
        if turn.role == "tool":
            if results:
                plain.pop()
            results.append(f"<tool_response>\n{turn.content}\n</tool_response>")
            plain.append(Turn("user", "\n".join(results)))
            continue
        results = []
        calls = [form.call(call) for call in turn.calls]
        plain.append(
            Turn(turn.role, "\n".join([*([turn.content] if turn.content or not calls else []), *calls]))
        )
    if tools is not None:
        own = [plain.pop(0).content] if plain[0].role == "system" else []
        plain.insert(0, Turn("system", "\n\n".join([*own, tools.prompt()])))
    return plain


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids, special tokens left out and nothing tidied up."""
    return cast(
        "str", tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def stream_decoder(tokenizer: Tokenizer, before: Sequence[int] = ()) -> "StreamDecoder | ByteDecoder":
    """Decoder of a stream of generated ids; see `StreamDecoder`."""
    return ByteDecoder() if isinstance(tokenizer, ByteTokenizer) else StreamDecoder(tokenizer, before)


class StreamDecoder:
    """Turns generated ids into text piece by piece.

    The pieces joined are `decode` of all ids, whatever the ids are, without what is no character at its end. A
    piece never ends inside a character: bytes of an unfinished one are held back until it is whole, and left out
    if the stream ends before. With tokenizers that spell rare characters in byte tokens (``<0xE2>``) a whole run
    of these is held back, because one bad byte in it changes how all of it decodes.

    Each call decodes the held-back ids and a few before them, never the whole text.

    Args:
        tokenizer: The target's.
        before: Ids that the text goes on from: its first blank is not that of a beginning, which decoders strip.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._skipped = left_out_ids(tokenizer)
        kept = (token for token in reversed(before) if token not in self._skipped)
        self._window = [token for token in islice(kept, 1) if _REPLACEMENT not in decode(tokenizer, [token])]
        self._given = len(
            decode(tokenizer, self._window)
        )  # characters of the window's text that were handed out

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; returns the text that has become certain, maybe none."""
        self._window += [token for token in ids if token not in self._skipped]
        if not self._window or self._ends_in_byte_token():
            return ""
        text = decode(self._tokenizer, self._window)
        piece = text[self._given : len(text.rstrip(_REPLACEMENT))]
        self._given += len(piece)
        if self._given >= len(text):
            self._window = self._window[-_CONTEXT_TOKENS:]
            self._given = len(decode(self._tokenizer, self._window))
        return piece

    def finish(self) -> str:
        """End the stream; returns what was held back, without the bytes of an unfinished character at its end."""
        text = decode(self._tokenizer, self._window)
        for _ in range(_UNFINISHED_BYTES):  # without them, the other bytes of a run may be characters
            if not text.endswith(_REPLACEMENT) or not self._ends_in_byte_token():
                break
            self._window.pop()
            text = decode(self._tokenizer, self._window)
        piece = text.rstrip(_REPLACEMENT)[self._given :]
        self._window, self._given = [], 0
        return piece

    def _ends_in_byte_token(self) -> bool:
        if not self._window:
            return False
        token = self._tokenizer.convert_ids_to_tokens(self._window[-1])
        return token is not None and _BYTE_TOKEN.fullmatch(cast("str", token)) is not None


def _check(turns: Sequence[Turn]) -> None:
    if not turns or not (turns[-1].content.strip() or turns[-1].calls or turns[-1].role == "tool"):
        raise UsageError("the prompt is empty", hint="write something to continue")
    for turn in turns:
        try:
            turn.content.encode("utf-8")
        except UnicodeEncodeError as error:
            # Python hands bytes of the command line that are no UTF-8 to us as lone surrogates.
            raise UsageError(
                f"the prompt is not UTF-8: character {error.start} is no character",
                hint="check the encoding of the terminal or file it comes from",
            ) from error
