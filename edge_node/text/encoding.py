"""From a request to token ids of a target, and to what its grammar allows there. On a thread, as it takes a while."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from edge_node.text.spec import WHOLE_CONTEXT, Adjustments, Prompt, TextSpec
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import GrammarError, UsageError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.place import place_of
from flexspec_mq.grammar.reader import engine_name, in_lark
from flexspec_mq.grammar.tools import ToolFormat, ToolUse
from flexspec_mq.models.byte_text.ids import AROUND, BYTE_CONTEXT, BYTES_PER_TOKEN
from flexspec_mq.models.byte_text.packed import PackedRequest, packed
from flexspec_mq.models.byte_text.parser import CHANNELS
from flexspec_mq.models.byte_text.vectors import bytes_of
from flexspec_mq.models.text import Turn, encode_turns, format_of, render_turns
from schemas.messages import MAX_POSITION
from schemas.served import (
    MAX_IMAGES,
    ImageUrl,
    ServedCall,
    ServedEmbed,
    ServedFunction,
    ServedMessage,
    ServedPart,
    ServedRequest,
    image_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flexspec_mq.grammar.matcher import CompiledGrammar
    from flexspec_mq.models.load import LoadedText

_TEXTS = 8
"""Tokenizers of targets that are kept ready for grammars, 34 MB each."""
_CHARACTERS = 8
"""Characters of a prediction's token at most, on average; a part of more is not read."""
_FIRST = 16
"""Characters of a prompt for each position of the context that are tokenised first: few texts have longer tokens."""
_INLINE = BYTE_CONTEXT // 2
"""Bytes of a request for a server that travel in its open; of a longer one that only names a blob."""
_UNSETTLED = 256
"""Tokens at the end of a part that what follows may change."""


class PromptError(UsageError):
    """The prompt cannot be taken."""


class NoEmbeddings(UsageError):
    """Vectors are asked for of a target that makes none."""

    def __init__(self) -> None:
        super().__init__(
            "embeddings are not made here: the target of this version writes texts",
            hint="name a version whose worker stands beside a server of models, or another server for them",
        )


class ToolError(GrammarError):
    """The parameters of a tool are a schema that cannot be followed."""


class PromptTooLong(PromptError):
    """The prompt leaves no room in the context."""


def encode(
    model: LoadedText, prompt: Prompt, tools: ToolUse | None = None, room: int | None = None
) -> tuple[int, ...]:
    """The token ids of a prompt, at least one, with room for one more in the context. May take a while.

    Args:
        model: whose tokenizer to use.
        prompt: beginning of the text.
        tools: tools that the prompt of a conversation describes.
        room: positions for the answer where the prompt is too long without its oldest turns; None leaves out none.

    Raises:
        PromptError: it is empty, too long, names what is no token, or the chat template refuses it.
    """
    if isinstance(prompt, str):
        _check_length(model, prompt)
        ids = tuple(model.tokenizer.encode(prompt))
    elif prompt and isinstance(prompt[0], int):
        ids = tuple(token for token in prompt if isinstance(token, int))
        if max(ids) >= model.vocab_size:
            raise PromptError(
                f"token id {max(ids)} is not below {model.vocab_size}, the size of the vocabulary"
            )
    else:
        turns = [turn for turn in prompt if isinstance(turn, Turn)]
        if any(turn.images for turn in turns):
            raise PromptError(
                f"{model.name} reads text and no images",
                hint="ask for a version whose worker stands beside a server that reads them (docs/servers.md)",
            )
        ids = _turns(model, turns, tools) if room is None else _newest(model, turns, tools, room)
    if not ids:
        raise PromptError("the prompt is empty")
    if len(ids) >= model.max_context:
        raise _too_long(model, f"{len(ids)}")
    return ids


def encode_prediction(model: LoadedText, prediction: str, most: int) -> tuple[int, ...]:
    """The token ids of the first part of a predicted text. May take a while.

    Args:
        model: whose tokenizer to use.
        prediction: text of any length.
        most: tokens that are of use.
    """
    text = prediction[: most * _CHARACTERS]
    return tuple(model.tokenizer.encode(text, add_special_tokens=False)[:most])


def _check_length(model: LoadedText, text: str) -> None:
    """Refuse a text whose first part alone does not fit: to tokenise megabytes takes seconds."""
    first = text[: _FIRST * model.max_context]
    if len(first) < len(text):
        least = len(model.tokenizer.encode(first)) - _UNSETTLED
        if least >= model.max_context:
            raise _too_long(model, f"at least {least}")


def _too_long(model: LoadedText, count: str) -> PromptTooLong:
    return PromptTooLong(
        f"the prompt has {count} tokens and the model's context {model.max_context}, new tokens included",
        hint="shorten the prompt or drop the oldest turns",
    )


def _turns(model: LoadedText, turns: list[Turn], tools: ToolUse | None) -> tuple[int, ...]:
    try:
        _check_length(model, render_turns(model.tokenizer, turns, tools))
        # The length in tokens is checked by the caller, for all kinds of prompts.
        return encode_turns(model.tokenizer, turns, tools, max_context=2**62)
    except PromptTooLong:
        raise
    except UsageError as error:
        raise PromptError(error.message, hint=error.hint) from error


def _newest(model: LoadedText, turns: list[Turn], tools: ToolUse | None, room: int) -> tuple[int, ...]:
    """The token ids of a conversation, without its oldest turns if it is too long.

    The rest begins with a question, and with all that the system said before, and leaves room for an answer.
    """
    most, left, starts = _FIRST * model.max_context, 0, list[int]()
    for at in reversed(range(len(turns))):  # to render megabytes again and again takes seconds, too
        left += len(turns[at].content)
        if turns[at].role == "user" and (left <= most or not starts):
            starts.insert(0, at)

    def since(start: int) -> tuple[int, ...]:
        return _turns(model, [turn for turn in turns[:start] if turn.role == "system"] + turns[start:], tools)

    def fits(start: int, room: int = room) -> bool:
        try:
            return len(since(start)) < model.max_context - room
        except PromptTooLong:
            return False

    if not starts or (left <= most and fits(0, 0)):
        return since(0)
    return since(starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)])


class ServerTakes(NamedTuple):
    """Bounds of the requests that workers of a version take for their server of models.

    Attributes:
        request_bytes: bytes of a request that they fetch as a blob.
        image_bytes: bytes of its images.
        secret: secret by which such a blob is sealed; empty without keys.
    """

    request_bytes: int = 0
    image_bytes: int = 0
    secret: bytes = b""


_NOTHING = ServerTakes()


class Encoded(NamedTuple):
    """A request in the terms of a target.

    Attributes:
        text: the target's.
        by_default: whether the limit is the node's.
        form: how calls of tools are written.
        grammar: texts that are allowed, those with calls among them.
        compiled: the same, where this device can read it.
        before: prompt, where the text goes on within a text and not in a turn of its own.
        packed: request as a blob, where it is too long for a message; the prompt then only names it.
    """

    text: LoadedText
    prompt: tuple[int, ...]
    limit: int
    prediction: tuple[int, ...]
    by_default: bool
    form: ToolFormat
    grammar: Grammar | None
    compiled: CompiledGrammar | None
    before: tuple[int, ...]
    packed: PackedRequest | None = None


class Encoder:
    """Encodes requests on a thread of its own, as a long prompt must not hold up the event loop.

    Args:
        default_limit: tokens of a text whose request names no limit.
    """

    def __init__(self, default_limit: int) -> None:
        self._default_limit = default_limit
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._grammars: ExpiringMap[object, CompiledGrammars | None] = ExpiringMap(most=_TEXTS)

    def close(self) -> None:
        """Take no more prompts."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for _, grammars in tuple(self._grammars.items()):
            if grammars is not None:
                grammars.close()

    async def encoded(
        self, text: LoadedText, spec: TextSpec, engine: str, takes: ServerTakes = _NOTHING
    ) -> Encoded:
        """A request in the tokens of a target, whose workers read grammars by `engine`.

        Raises:
            PromptError: the prompt cannot be taken.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encoded, text, spec, engine, takes)

    def _encoded(self, text: LoadedText, spec: TextSpec, engine: str, takes: ServerTakes) -> Encoded:
        if text.served:
            return _served(text, spec, self._default_limit if spec.limit is None else spec.limit, takes)
        if spec.inputs:
            raise NoEmbeddings
        tools, grammar, form = spec.tools, spec.grammar, format_of(text.tokenizer)
        asked = self._default_limit if spec.limit is None else spec.limit
        longest = text.max_context // 2
        answer = longest if asked == WHOLE_CONTEXT else min(asked, longest)
        if grammar is not None:
            grammar = in_lark(grammar)
        if tools is not None:  # before the prompt that describes them: a grammar has a bound of its own
            grammar = tools.grammar(form, grammar)
        ids = encode(text, spec.prompt, tools, answer if spec.truncate else None)
        biased = max((token for token, _ in spec.adjustments.logit_bias), default=0)
        if biased >= text.vocab_size:
            raise UsageError(f"logit_bias has token {biased}, which is not below {text.vocab_size}")
        room = min(text.max_context - len(ids), MAX_POSITION)
        limit = room if asked == WHOLE_CONTEXT else min(asked, room)
        by_default = spec.limit is None and limit == self._default_limit
        prediction = encode_prediction(text, spec.prediction, limit) if spec.prediction else ()
        compiled = None
        if grammar is not None and engine == engine_name():  # another version may read it otherwise
            compiled = self._compiled(text, grammar, tools)
        turns = any(isinstance(last, Turn) and not last.continued for last in spec.prompt[-1:])
        before = () if turns else ids
        return Encoded(text, ids, limit, prediction, by_default, form, grammar, compiled, before)

    def _compiled(self, text: LoadedText, grammar: Grammar, tools: ToolUse | None) -> CompiledGrammar | None:
        """Compile a grammar where this device can; without it, its drafts only are worse.

        Raises:
            GrammarError: it has an error, or is too large.
            ToolError: so have the parameters of a tool.
        """
        kind = text.fingerprint, text.vocab_size, text.eos
        grammars = self._grammars.get(kind, 0.0)
        if grammars is None and (grammars := text.grammars()) is not None:
            self._grammars.put(kind, grammars, 0.0)
        if grammars is None:
            return None
        try:
            return grammars.compile(grammar)
        except GrammarError as error:
            raise _placed(error, grammar, tools, grammars.error_of) from error


def _served(text: LoadedText, spec: TextSpec, most: int, takes: ServerTakes) -> Encoded:
    """A request for a server that tells no token ids: its prompt is the request itself, or names a blob of it.

    Raises:
        PromptError: the server cannot be asked for it.
    """
    _check_images(spec, takes.image_bytes)
    request = msgspec.json.encode(served_request(spec, None if most == WHOLE_CONTEXT else most))
    blob = None
    if len(request) > _INLINE and takes.request_bytes:
        if len(request) > takes.request_bytes:
            raise PromptTooLong(
                f"the request has {len(request)} bytes, and its worker takes {takes.request_bytes}",
                hint="shorten the prompt, send smaller images or drop the oldest turns",
            )
        blob = packed(request, takes.secret)
    ids = tuple(request if blob is None else blob.prompt)
    room, least = text.max_context - len(ids), AROUND
    if spec.inputs:
        least = bytes_of(len(spec.inputs), spec.dimensions or 1)
    if room < least:
        raise PromptTooLong(
            f"the request has {len(ids)} bytes, its answer at least {least}, and {text.max_context} hold both",
            hint="ask for fewer texts at once"
            if spec.inputs
            else "shorten the prompt or drop the oldest turns",
        )
    limit = room if most == WHOLE_CONTEXT else min(room, BYTES_PER_TOKEN * most + AROUND)
    return Encoded(text, ids, limit, (), spec.limit is None, CHANNELS, None, None, (), blob)


def _check_images(spec: TextSpec, most: int) -> None:
    """Refuse images that no worker of the version takes.

    Args:
        spec: the text.
        most: bytes of images that they take.

    Raises:
        PromptError: says which, and what to do.
    """
    turns = [] if isinstance(spec.prompt, str) else [each for each in spec.prompt if isinstance(each, Turn)]
    images = [(at, image) for at, turn in enumerate(turns) for image in turn.images]
    size = sum(image_size(image.url) for _, image in images)
    if images and not most:
        raise PromptError(
            f"turn {images[0][0] + 1} has an image, and the server behind this version reads none",
            hint="ask for a version that reads images, or send what it says as text",
        )
    if size > most or len(images) > MAX_IMAGES:
        raise PromptError(
            f"the conversation has {len(images)} images of {size} bytes, the last in turn {images[-1][0] + 1}, and "
            f"its worker takes {MAX_IMAGES} of {most} bytes together",
            hint="send smaller images, or drop the oldest turns",
        )


def served_request(spec: TextSpec, most: int | None) -> ServedRequest:
    """A request in OpenAI's words, as its client sent it.

    Args:
        spec: the text.
        most: tokens of the answer at most; None leaves that to the server.

    Raises:
        PromptError: the server cannot be asked for it.
    """
    prompt, tools, changes = spec.prompt, spec.tools, spec.adjustments
    if spec.inputs:
        return ServedRequest(embed=ServedEmbed(input=spec.inputs, dimensions=spec.dimensions))
    if not isinstance(prompt, str) and any(isinstance(each, int) for each in prompt):
        raise PromptError("the server behind this version takes no token ids", hint="send the text itself")
    turns = () if isinstance(prompt, str) else [turn for turn in prompt if isinstance(turn, Turn)]
    if isinstance(prompt, str) and (not prompt or tools is not None):
        raise PromptError("the prompt is empty")
    choice: str | dict[str, Any] | None = None
    if tools is not None and tools.required:
        names = [tool.name for tool in tools.callable]
        choice = "required"
        if len(names) == 1:
            choice = {"type": "function", "function": {"name": names[0]}}
    given = msgspec.structs.asdict(changes)
    stated = {name: given[name] for name in given if given[name] != getattr(Adjustments(), name)}
    stated["logit_bias"] = {str(token): value for token, value in changes.logit_bias}
    return ServedRequest(
        messages=tuple(_messages(turns)),
        prompt=prompt if isinstance(prompt, str) else None,
        tools=() if tools is None else tuple(tool.as_told() for tool in tools.callable),
        tool_choice=choice,
        parallel_tool_calls=None if tools is None or tools.parallel else False,
        response_format=None if spec.grammar is None else _response_format(spec.grammar),
        max_tokens=most,
        stop=spec.stops,
        ignore_eos=spec.ignore_eos,
        **msgspec.structs.asdict(spec.sampling),
        **stated,
    )


def _messages(turns: Sequence[Turn]) -> Iterator[ServedMessage]:
    """Turns as messages; a result has the id of its call, and a call without one is named by its place."""
    open_calls: list[str] = []
    number = 0
    for turn in turns:
        calls = []
        for call in turn.calls:
            number += 1
            name = call.id or f"call_{number}"
            open_calls.append(name)
            calls.append(ServedCall(name, ServedFunction(call.name, call.arguments)))
        answers = None
        if turn.role == "tool":
            answers = turn.answers or (open_calls[0] if open_calls else f"call_{number}")
            open_calls = [name for name in open_calls if name != answers]
        yield ServedMessage(turn.role, _content(turn), tuple(calls), answers)


def _content(turn: Turn) -> str | tuple[ServedPart, ...]:
    """The content of a turn; in parts, in their order, where images are among it."""
    if not turn.images:
        return turn.content
    parts, begin = list[ServedPart](), 0
    for image in (*turn.images, None):
        end = len(turn.content) if image is None else image.at
        parts += [ServedPart("text", turn.content[begin:end])] if end > begin else []
        parts += [] if image is None else [ServedPart("image_url", image_url=ImageUrl(image.url))]
        begin = end
    return tuple(parts)


def _response_format(grammar: Grammar) -> dict[str, Any]:
    """The form of an answer as OpenAI's API has it, which knows JSON schemas and nothing else.

    Raises:
        PromptError: it is another one.
    """
    parts = grammar.parts("")
    schema = parts[0].get("json_schema") if len(parts) == 1 else None
    if not isinstance(schema, dict):
        raise PromptError(
            "the server behind this version takes JSON schemas as the form of an answer, and no other grammar",
            hint="use response_format with a JSON schema",
        )
    schema = {name: value for name, value in schema.items() if name != "x-guidance"}  # llguidance's alone
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _placed(
    error: GrammarError, grammar: Grammar, tools: ToolUse | None, error_of: Callable[[Grammar], str]
) -> GrammarError:
    """An error of a grammar with its place: the tool, and the part of the schema that is to blame."""
    for tool in () if tools is None else tools.callable:
        if why := error_of(Grammar.from_json_schema(tool.schema)):
            return ToolError(
                f"the parameters of the tool {tool.name}{place_of(tool.schema, why, error_of)}: {why}"
            )
    for part in grammar.parts(""):
        schema = part.get("json_schema")
        if schema and (why := error_of(Grammar.from_json_schema(schema))):
            return GrammarError(f"the schema{place_of(schema, why, error_of)}: {why}")
    return error
