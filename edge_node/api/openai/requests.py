"""From a JSON body to an `OpenAIRequest`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from edge_node.api.conversation import Conversation, content_of, continued
from edge_node.api.errors import ApiError, bad
from edge_node.api.http.bodies import parse_object, read
from edge_node.api.openai.chat import OpenAIRequest
from edge_node.text.spec import Adjustments, Prompt, TextSpec
from flexspec_mq.errors import UsageError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import ReadCall, Tool, ToolUse
from flexspec_mq.models.text import Role, Turn
from schemas import openai
from schemas.messages import PartialSampling
from schemas.responses import ResponsesRequest, ResponseTool

COMPLETION_TOKENS = 16
"""Tokens of a completion that names no limit, as OpenAI's."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def chat_request(body: dict[str, Any], lenient: bool = False) -> OpenAIRequest:
    """Read the body of a chat completion.

    Args:
        body: JSON object of the request.
        lenient: ignore fields that are unknown or not supported.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(openai.ChatCompletionRequest, body, ignored=ignored)
    limit = limit_of({"max_tokens": asked.max_tokens, "max_completion_tokens": asked.max_completion_tokens})
    turns, tools, form = _turns(asked.messages), _tools(asked), _grammar(asked)
    goes_on, begins = asked.continue_final_message, asked.add_generation_prompt
    if goes_on is not False and not begins and tools is None and form[1] is None:
        turns = continued(turns)
    if (goes_on or begins is False) and not turns[-1].continued:
        field = "continue_final_message" if goes_on else "add_generation_prompt"
        message = f"{field}: only a last message of the assistant goes on, without calls, tools or a form of the answer"
        raise bad(field, message, hint="leave add_generation_prompt out, or false")
    return _request(asked, turns, limit, tools, form, ignored)


def completion_request(body: dict[str, Any], lenient: bool = False) -> OpenAIRequest:
    """Read the body of a completion; see `chat_request`.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(openai.CompletionRequest, body, ignored=ignored)
    limit = COMPLETION_TOKENS if asked.max_tokens is None else limit_of({"max_tokens": asked.max_tokens})
    if asked.best_of not in (None, asked.n):
        raise bad(
            "best_of", "best_of is not n: no answer is better than another", code="unsupported_parameter"
        )
    return _request(asked, _prompt(asked.prompt), limit, None, _grammar(asked), ignored)


def _request(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest,
    prompt: Prompt,
    limit: int | None,
    tools: ToolUse | None,
    form: tuple[str | None, Grammar | None],
    ignored: list[str] | None,
) -> OpenAIRequest:
    if asked.stream_options is not None and not asked.stream and ignored is None:
        raise bad("stream_options", "stream_options needs stream")
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    shown = asked.stream_options or openai.StreamOptions()
    shaped_by, grammar = form
    return OpenAIRequest(
        chat=isinstance(asked, openai.ChatCompletionRequest),
        choices=asked.n,
        spec=spec_of(
            asked,
            prompt=prompt,
            limit=limit,
            stops=tuple(stop for stop in stops if stop),
            prediction=None if asked.prediction is None else joined(asked.prediction.content),
            grammar=grammar,
            tools=tools,
        ),
        stream=asked.stream,
        include_usage=shown.include_usage,
        include_origin=shown.include_origin,
        shaped_by=shaped_by or ("tools" if tools is not None else None),
        ignored=tuple(ignored or ()),
    )


def spec_of(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest | ResponsesRequest, **more: Any
) -> TextSpec:
    """How a request says that its text is to be written, by fields that all requests have, and `more`.

    Raises:
        ApiError: 400.
    """
    if asked.seed is not None and not -(2**63) <= asked.seed < 2**64:
        raise bad("seed", "seed has more than 64 bits")
    if asked.ignore_eos and (more.get("grammar") is not None or more.get("tools") is not None):
        raise bad("ignore_eos", "an answer of a form, or with tools, ends by itself: leave ignore_eos out")
    try:
        return TextSpec(
            sampling=msgspec.convert(asked, PartialSampling, from_attributes=True),
            adjustments=_adjustments(asked),
            seed=None if asked.seed is None else asked.seed % 2**64,
            ignore_eos=asked.ignore_eos,
            wait=asked.wait,
            offline=asked.offline,
            version=asked.model,
            user=_name(asked.safety_identifier, asked.user),
            conversation=_name(asked.prompt_cache_key, asked.safety_identifier, asked.user),
            **more,
        )
    except UsageError as error:
        raise bad(None, error.message) from error


def _adjustments(asked: msgspec.Struct) -> Adjustments:
    """Penalties and bias of a request, as far as it has such fields."""
    bias = {int(token): value for token, value in (getattr(asked, "logit_bias", None) or {}).items()}
    given = {name: getattr(asked, name, None) for name in Adjustments.__struct_fields__}
    stated = {name: value for name, value in given.items() if value is not None}
    return Adjustments(**{**stated, "logit_bias": tuple(sorted(bias.items()))})


def _turns(messages: Sequence[openai.Message]) -> tuple[Turn, ...]:
    """Turns of a conversation."""
    made = Conversation()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        content, images = content_of(message.content or "", f"{where}.content", message.role)
        if message.content is None and not message.tool_calls:
            raise bad(f"{where}.content", f"{where}.content is missing")
        if message.role != "tool":
            made.add(Turn(_ROLES[message.role], content, tuple(_made(message, where)), images=images))
        elif not made.result(message.tool_call_id or "", content):
            raise bad(
                f"{where}.tool_call_id",
                f"{where} is no result of a call before it: the id {message.tool_call_id!r:.60} has none",
            )
    return tuple(made.turns)


def _made(message: openai.Message, where: str) -> list[ReadCall]:
    """The calls of an assistant's message."""
    if message.tool_calls and message.role != "assistant":
        raise bad(f"{where}.tool_calls", f"{where}.tool_calls: only an assistant calls tools")
    calls = []
    for at, call in enumerate(message.tool_calls or ()):
        name = f"{where}.tool_calls[{at}].function.arguments"
        calls.append(made_call(call.function.name, call.function.arguments or "{}", call.id, name))
    return calls


def made_call(name: str, arguments: str, call_id: str, where: str) -> ReadCall:
    """A call of an earlier turn; where that was cut, as it is: a client that sends it back has no other.

    Raises:
        ApiError: 400; its arguments are JSON, but no object, or hold what no prompt can hold.
    """
    call = ReadCall(name, arguments, call_id)
    if call.value is not arguments:
        object_text(arguments, where)
    return call


def object_text(text: str, name: str) -> str:
    """The text of a JSON object, after a look at it.

    Raises:
        ApiError: 400; it is none, or holds what no prompt can hold.
    """
    try:
        parse_object(text.encode())
    except ApiError as error:
        raise bad(name, f"{name} is no JSON object: {error.message}") from error
    return text


def _tools(asked: openai.ChatCompletionRequest) -> ToolUse | None:
    """Tools that an answer may call; None for none."""
    choice = asked.tool_choice
    if not asked.tools:
        if choice not in ("none", "auto"):
            raise bad("tool_choice", "tool_choice needs tools")
        return None
    if choice == "none":
        return None
    only, required, parallel = None, choice == "required", asked.parallel_tool_calls
    if isinstance(choice, openai.ToolChoice):
        if choice.type == "function" and choice.function is not None:
            only, required, parallel = {choice.function.name}, True, False
        elif choice.type == "allowed_tools" and choice.allowed_tools is not None:
            allowed = choice.allowed_tools
            only, required = {tool.function.name for tool in allowed.tools}, allowed.mode == "required"
        else:
            raise bad(f"tool_choice.{choice.type}", f"tool_choice.{choice.type} is missing")
    return tool_use([tool.function for tool in asked.tools], only, required=required, parallel=parallel)


def tool_use(
    told: Sequence[openai.Function | ResponseTool],
    only: Iterable[str] | None,
    *,
    required: bool,
    parallel: bool | None,
) -> ToolUse:
    """Tools that an answer may call; see `ToolUse`.

    Args:
        told: the tools.
        only: names of those that may be called; None is all.
        required: whether one must be.
        parallel: whether several may be; None is a single one where one is required, as small models repeat it else.

    Raises:
        ApiError: 400, naming the field.
    """
    tools = []
    for at, tool in enumerate(told):
        try:
            tools.append(Tool(tool.name, tool.description or "", tool.parameters))
        except UsageError as error:
            raise bad(f"tools[{at}]", error.message, hint=error.hint) from error
    try:
        return ToolUse(
            tools=tuple(tools),
            only=None if only is None else frozenset(only),
            required=required,
            parallel=not required if parallel is None else parallel,
        )
    except UsageError as error:
        raise bad("tools" if only is None else "tool_choice", error.message, hint=error.hint) from error


def _grammar(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest,
) -> tuple[str | None, Grammar | None]:
    """The field that says which form an answer must have, and that; None for any."""
    found = {
        field: form_of(kind, value, field)
        for field, kind, value in _forms(asked)
        if value not in (None, False)
    }
    if len(found) > 1:
        raise bad([*found][-1], f"{' and '.join(found)} both say the form of the answer")
    return next(iter(found.items()), (None, None))


def _forms(
    asked: openai.ChatCompletionRequest | openai.CompletionRequest,
) -> Iterator[tuple[str, str, Any]]:
    """Field, kind of form and value of all that may say the form of an answer."""
    said = asked.structured_outputs or openai.StructuredOutputs()
    for kind in ("json", "regex", "choice", "grammar", "json_object"):
        yield f"structured_outputs.{kind}", kind, getattr(said, kind)
        yield f"guided_{kind}", kind, getattr(asked, f"guided_{kind}")
    yield "json_schema", "json", asked.json_schema
    yield "grammar", "grammar", asked.grammar
    answer = asked.response_format
    if answer is None:
        return
    if answer.type == "json_object":
        yield "response_format", "json", answer.schema or {"type": "object"}
    elif answer.type == "json_schema":
        if answer.json_schema is None:
            raise bad("response_format.json_schema", "response_format.json_schema is missing")
        yield "response_format", "json", answer.json_schema.schema


def form_of(kind: str, value: Any, field: str) -> Grammar:
    """The texts of a form.

    Args:
        kind: ``json``, ``regex``, ``choice``, ``grammar`` or ``json_object``.
        value: the form, as its field has it.
        field: name of it.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        if kind == "json":
            return Grammar.from_json_schema(
                json.loads(object_text(value, field)) if isinstance(value, str) else value
            )
        if kind == "regex":
            return Grammar.from_regex(value)
        if kind == "choice":
            return Grammar.from_choice(value)
        if kind == "grammar":
            return Grammar.from_text(value)
        return Grammar.from_json_schema({"type": "object"})
    except UsageError as error:
        raise bad(field, f"{field}: {error.message}", hint=error.hint) from error


def _name(*fields: Any) -> bytes:
    """The name in the first of these fields that has one; empty if none has."""
    name = next((name for name in fields if isinstance(name, str) and name), "")
    return name.encode("utf-8", "surrogatepass")


def joined(content: str | list[Any]) -> str:
    """The text of a message: a string, or parts."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def limit_of(stated: dict[str, int | None]) -> int | None:
    """Tokens at most, from fields of which each may say it; None if none does."""
    given = {name: value for name, value in stated.items() if value is not None}
    for name, value in given.items():
        if value == 0:
            raise bad(name, f"{name} is 0, which leaves nothing to write")
    if len(set(given.values())) > 1:
        raise bad([*given][-1], f"{' and '.join(given)} differ")
    return next(iter(given.values()), None)


def _prompt(value: str | Sequence[int | str | list[int]]) -> Prompt:
    """A string, token ids, or an array of one of them."""
    if not isinstance(value, str) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return value
    ids = tuple(token for token in value if isinstance(token, int))
    if len(ids) < len(value):
        raise bad("prompt", "prompt holds several prompts; send one request for each")
    if not ids:
        raise bad("prompt", "prompt is neither a string nor an array of token ids")
    return ids
