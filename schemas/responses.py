"""OpenAI's objects of ``/v1/responses``, as far as the edge node reads and writes them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.openai import (
    NO_AUDIO,
    ONLY_TEXT,
    Empty,
    FlexspecPart,
    FlexspecUsage,
    Limit,
    Off,
    Offline,
    Sampled,
    unsupported,
)

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ResponseInputText(_Request, frozen=True, kw_only=True):
    """A part of a message or of a tool's output; only text can be read.

    Attributes:
        annotations: accepted, without effect, as in answers that come back; so is logprobs.
    """

    type: Annotated[Literal["input_text", "output_text", "text"], ONLY_TEXT]
    text: str
    annotations: Any = None
    logprobs: Any = None


class ResponseInputPart(_Request, frozen=True, kw_only=True):
    """A part of a message: text, or in a user's message an image for a server of models that reads such.

    Attributes:
        text: text of a part of text.
        image_url: bytes of an image as a ``data:`` URL in base64, PNG, JPEG, WebP or GIF.
        detail: accepted, without effect.
        annotations: accepted, without effect, as in answers that come back; so is logprobs.
    """

    type: Annotated[Literal["input_text", "output_text", "text", "input_image"], NO_AUDIO]
    text: str | None = None
    image_url: str | None = None
    detail: Any = None
    annotations: Any = None
    logprobs: Any = None


class ResponseInputMessage(_Request, frozen=True, kw_only=True):
    """A turn of a conversation.

    Attributes:
        role: developer is the same as system.
        id: accepted, without effect; so are status and phase.
    """

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ResponseInputPart]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class ResponseInputCall(_Request, frozen=True, kw_only=True):
    """A call that the model made.

    Attributes:
        id: accepted, without effect; so is status.
    """

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: Empty = None
    caller: Annotated[Any, unsupported({"type": "direct"})] = None


class ResponseCallOutput(_Request, frozen=True, kw_only=True):
    """Result of a call.

    Attributes:
        id: accepted, without effect; so are status and name.
    """

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[ResponseInputText]
    id: str | None = None
    status: str | None = None
    name: str | None = None
    namespace: Empty = None
    caller: Annotated[Any, unsupported({"type": "direct"})] = None


class ResponseItemReference(_Request, frozen=True, kw_only=True):
    """An item of an answer that the node still keeps."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class ResponseTool(_Request, frozen=True, kw_only=True):
    """A function that the model may call.

    Attributes:
        parameters: JSON schema of its arguments, which any call fits; without it they are an object of any kind.
        strict: accepted, without effect: the schema always holds.
        output_schema: accepted, without effect; so are defer_loading and allowed_callers.
    """

    type: Literal["function"] = "function"
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: Any = None
    defer_loading: Off = None
    allowed_callers: Annotated[Any, unsupported(["direct"])] = None


class ResponseToolChoice(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """A choice that names tools.

    Attributes:
        type: a ``function`` by its name, or those of ``allowed_tools``.
        mode: choice among ``allowed_tools``.
    """

    type: Literal["function", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class ResponseTextFormat(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """Texts that are allowed.

    Attributes:
        schema: JSON schema of the answer, for ``json_schema``.
        name: accepted, without effect; so are description and strict.
    """

    type: Literal["text", "json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseTextConfig(_Request, frozen=True, kw_only=True):
    """The answer's text.

    Attributes:
        verbosity: accepted, without effect.
    """

    format: ResponseTextFormat = ResponseTextFormat(type="text")
    verbosity: str | None = None


def _one_of(*kinds: type[msgspec.Struct]) -> Meta:
    """Marks an object whose type is known by its field ``type``."""
    refs = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in kinds]
    return Meta(extra_json_schema={"anyOf": refs})


class ResponseReasoning(msgspec.Struct, frozen=True, kw_only=True):
    """Reasoning of another model; it is passed over."""

    type: Literal["reasoning"]


Item = Annotated[
    dict[str, Any],
    _one_of(
        ResponseInputMessage, ResponseInputCall, ResponseCallOutput, ResponseItemReference, ResponseReasoning
    ),
]


class ResponsesRequest(Sampled, _Request, frozen=True, kw_only=True):
    """The body of ``POST /v1/responses``.

    Attributes:
        model: as in chats; so are temperature, top_p, user, safety_identifier and prompt_cache_key, and top_k,
            min_p, seed, ignore_eos, wait and offline, which are not OpenAI's.
        input: a question, or items; reasoning items are passed over.
        instructions: system message before all others; it is not kept for later responses.
        previous_response_id: response to go on from, one that the node still keeps.
        store: keep this one, as is done without it.
        max_output_tokens: tokens at most; without it as many as the node's ``api_max_tokens`` says.
        tools: functions; others are refused, as the node hosts none.
        include: accepted, without effect, except for log-probabilities.
    """

    model: str | None = None
    input: str | Annotated[list[Item], Meta(max_length=4096)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: Limit | None = None
    ignore_eos: bool = False
    wait: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    offline: Offline | None = None
    tools: list[Annotated[dict[str, Any], _one_of(ResponseTool)]] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: ResponseTextConfig = ResponseTextConfig()
    metadata: Metadata | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    user: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    reasoning: Any = None
    stream_options: Any = None
    service_tier: Annotated[Any, unsupported("auto", "default")] = None
    background: Off = None
    top_logprobs: Annotated[Any, unsupported(0, why="log-probabilities are not available")] = None
    conversation: Annotated[
        Any, unsupported(why="name the response to go on from in previous_response_id")
    ] = None
    prompt: Annotated[
        Any, unsupported(why="the node keeps no templates; send them as instructions and input")
    ] = None
    context_management: Empty = None
    moderation: Annotated[Any, unsupported()] = None


class ResponseOutputText(msgspec.Struct, frozen=True, kw_only=True):
    """Text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class ResponseOutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag="message", tag_field="type"):
    """An answer, or the beginning of one."""

    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[ResponseOutputText]


class ResponseFunctionCall(msgspec.Struct, frozen=True, kw_only=True, tag="function_call", tag_field="type"):
    """A call that the client shall make.

    Attributes:
        arguments: JSON that fits the tool's parameters, unless the status is ``incomplete``.
    """

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


ResponseItem = ResponseOutputMessage | ResponseFunctionCall


class ResponseInputDetails(msgspec.Struct, frozen=True):
    """Tokens of the prompt that OpenAI tells apart, and the node does not."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ResponseOutputDetails(msgspec.Struct, frozen=True):
    """Tokens of the answer that OpenAI tells apart; the node's targets do not reason apart from it."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a response."""

    input_tokens: int
    input_tokens_details: ResponseInputDetails = ResponseInputDetails()
    output_tokens: int
    output_tokens_details: ResponseOutputDetails = ResponseOutputDetails()
    total_tokens: int
    flexspec: FlexspecUsage


class ResponseError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response failed after its stream had begun.

    Attributes:
        code: OpenAI's word.
        type: the word that errors of other endpoints have as ``code``.
    """

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    type: str | None = None


class ResponseIncompleteDetails(msgspec.Struct, frozen=True):
    """Why a text is not complete: its limit, or nobody could be reached and its end is unverified."""

    reason: Literal["max_output_tokens", "provisional"] = "max_output_tokens"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response: its answer, and what the request said.

    Attributes:
        flexspec: provisional text of an answer that is incomplete by it; not OpenAI's.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: ResponseIncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: list[ResponseItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None = None
    reasoning: Any = None
    service_tier: str = "default"
    store: bool
    temperature: float | None = None
    text: ResponseTextConfig
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice
    tools: list[ResponseTool]
    top_p: float | None = None
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: Metadata | None = None
    flexspec: FlexspecPart | UnsetType = UNSET


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a streamed response.

    Attributes:
        type: ``response.created``, ``response.output_text.delta`` and so on, also the name of the event.
        sequence_number: from zero, without gaps.
        response: the response, in events that begin and end it.
        item: item of the output that begins or ends; output_index counts them from zero.
        part: text of a message that begins or ends.
        delta: more text, or more of a call's arguments.
        text: all of it; so are arguments.
        flexspec: change of the provisional text, or whom the text waits for, in the event ``response.flexspec``.
    """

    type: str
    sequence_number: int
    response: Response | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    item: ResponseItem | UnsetType = UNSET
    part: ResponseOutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: list[Any] | UnsetType = UNSET
    flexspec: FlexspecPart | UnsetType = UNSET


class ResponseDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``DELETE /v1/responses/{id}``."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
