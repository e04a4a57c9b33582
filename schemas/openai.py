"""OpenAI's objects as the edge node's HTTP API reads and writes them, for the server and its clients alike.

In a request a field that is null counts as absent. A field of something that the API cannot do allows
only values which ask for nothing; `unsupported` says so to validation and, as an ``enum``, to the OpenAPI document.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.messages import Bias, PartialSampling, Penalty, RepetitionPenalty
from schemas.plan import LimitReport, PlanStatus
from schemas.served import MAX_INPUTS
from schemas.status import ConnectionStatus

NEUTRAL, WHY = "neutral", "why"
"""Keys of `Meta.extra`: values that ask for nothing, each as JSON, and why others are refused."""

NO_LOGPROBS = "log-probabilities are not available"
_WHOLE_TEXT = "use repetition_penalty, which is for the whole of prompt and text"
_OLD = "use tools, which replaced it"
_EMPTY: tuple[object, ...] = (False, 0, "", [], {})


def unsupported(*neutral: object, why: str = "it would change the answer") -> Meta:
    """Marks a field whose only values are null and those that ask for nothing."""
    # As JSON: in Python 0 and False are equal, and typing takes types that are equal for one.
    values = tuple(msgspec.json.encode(value) for value in neutral)
    return Meta(extra_json_schema={"enum": [None, *neutral]}, extra={NEUTRAL: values, WHY: why})


NO_AUDIO = Meta(description="audio and files are not read here: send what they say as text")
ONLY_TEXT = Meta(description="images, audio and files are not read here: send what they say as text")
Empty = Annotated[Any, unsupported(*_EMPTY)]
Neutral0 = Annotated[Any, unsupported(0, False)]
Neutral1 = Annotated[Any, unsupported(1)]
Off = Annotated[Any, unsupported(False)]
On = Annotated[Any, unsupported(True)]
TokenId = Annotated[int, Meta(ge=0)]
Limit = Annotated[
    int, Meta(ge=-1, le=2**31 - 1, description="At least 1, or -1 for what the context leaves.")
]
Dimensions = Annotated[int, Meta(ge=1, le=2**20)]
StopString = Annotated[str, Meta(max_length=1024)]
Stops = StopString | Annotated[list[StopString], Meta(max_length=1024)]
# msgspec's own bounds end at 63 bits.
Seed = Annotated[int, Meta(extra_json_schema={"minimum": -(2**63), "maximum": 2**64 - 1})]


LogitBiases = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[0-9]{1,8}$(?!\n)")], Bias], Meta(max_length=1024)
]
"""From token ids to what is added to their logits."""

Offline = Literal["hold", "provisional", "deliver", "local_only"]
"""Offline mode: without anybody, a text waits, is written on here, or goes whole to a worker; or it never leaves."""
StoppedAlone = Literal["", "unsure", "repeats", "limit", "end"]
"""Why provisional text grows no more: as of `FlexspecUsage.provisional_stopped`."""
LOCAL_ONLY: Literal["local_only"] = "local_only"
"""Offline mode, and model, of requests that must not leave the device."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class TextPart(_Request, frozen=True, kw_only=True):
    """A part of a message; only text can be read."""

    type: Annotated[Literal["text"], ONLY_TEXT]
    text: str


class ImageUrl(_Request, frozen=True, kw_only=True):
    """An image.

    Attributes:
        url: bytes of the image as a ``data:`` URL in base64: PNG, JPEG, WebP or GIF.
        detail: accepted, without effect.
    """

    url: str
    detail: Any = None


class MessagePart(_Request, frozen=True, kw_only=True):
    """A part of a message: text, or in a user's message an image for a server of models that reads such.

    Attributes:
        text: text of a part of the type text.
        image_url: image of one of the type image_url.
    """

    type: Annotated[Literal["text", "image_url"], NO_AUDIO]
    text: str | None = None
    image_url: ImageUrl | None = None


class CalledFunction(_Request, frozen=True, kw_only=True):
    """A tool that was called.

    Attributes:
        arguments: a JSON object; empty is one without fields.
        parsed_arguments: accepted, without effect; OpenAI's client has it in what its ``parse`` answers.
    """

    name: str
    arguments: str = ""
    parsed_arguments: Any = None


class MadeCall(_Request, frozen=True, kw_only=True):
    """A call that an earlier answer made.

    Attributes:
        index: accepted, without effect.
    """

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(_Request, frozen=True, kw_only=True):
    """A turn of a conversation.

    Attributes:
        role: developer is the same as system; tool is the result of a call.
        content: may only be absent beside tool_calls.
        tool_calls: calls that the assistant made.
        tool_call_id: id of the call whose result this is.
        name: accepted, without effect; so are type, and parsed, which OpenAI's client has beside content.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[MessagePart] | None = None
    name: str | None = None
    type: str | None = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = None
    function_call: Annotated[Any, unsupported(*_EMPTY, why=_OLD)] = None
    parsed: Any = None
    refusal: Empty = None
    audio: Empty = None
    annotations: Empty = None


class Function(_Request, frozen=True, kw_only=True):
    """A function that an answer may call.

    Attributes:
        parameters: JSON schema of the arguments, an object; without it there are none.
        strict: accepted, without effect: arguments always follow the schema.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Request, frozen=True, kw_only=True):
    """A tool."""

    type: Literal["function"]
    function: Function


class FunctionName(_Request, frozen=True, kw_only=True):
    """Name of a function."""

    name: str


class NamedTool(_Request, frozen=True, kw_only=True):
    """A tool, by its name."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(_Request, frozen=True, kw_only=True):
    """Tools that may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class ToolChoice(_Request, frozen=True, kw_only=True):
    """The one tool that must be called, or those that may be."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class NamedSchema(_Request, frozen=True, kw_only=True):
    """JSON schema of an answer.

    Attributes:
        name: accepted, without effect; so are description and strict: the answer always follows the schema.
    """

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] = {}
    strict: bool | None = None


class ResponseFormat(_Request, frozen=True, kw_only=True):
    """Form of an answer.

    Attributes:
        json_schema: schema, for the type of this name.
        schema: not OpenAI's but llama.cpp's: the schema of a json_object.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(_Request, frozen=True, kw_only=True):
    """Form of an answer as vLLM says it; exactly one field of these.

    Attributes:
        json: JSON schema, or the text of one.
        regex: regular expression, in Rust's syntax, of the whole answer.
        choice: the answer is one of these.
        grammar: grammar in Lark or GBNF.
        json_object: any JSON object.
        disable_any_whitespace: accepted, without effect: JSON is always on one line.
        disable_additional_properties: accepted, without effect: what a schema does not name is never written, unless it
            says additionalProperties.
    """

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(min_length=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    disable_fallback: bool | None = None
    whitespace_pattern: Empty = None
    structural_tag: Empty = None


class StreamOptions(_Request, frozen=True, kw_only=True):
    """Parts of a stream beside the text.

    Attributes:
        include_usage: end with a chunk of figures.
        include_origin: say in each chunk which parts of it were drafted on the device; not OpenAI's.
        include_obfuscation: accepted, without effect.
        continuous_usage_stats: accepted, without effect; figures come at the end.
    """

    include_usage: bool = False
    include_origin: bool = False
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class Prediction(_Request, frozen=True, kw_only=True):
    """Text that much of the answer will probably be; it speeds the answer up and never changes it."""

    type: Literal["content"]
    content: str | list[TextPart]


class Sampled(PartialSampling, frozen=True, kw_only=True):
    """Fields by which requests of all APIs say how tokens are chosen; None is as the target's makers recommend.

    Attributes:
        temperature: 0 takes the most likely token.
        seed: the same seed gives the same text; without it one is drawn.
    """

    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    seed: Seed | None = None


class _TextRequest(Sampled, _Request, frozen=True, kw_only=True):
    """Fields that requests for a text share.

    Attributes:
        model: a target version; without it the node's own. On a node that follows a family also the family, which
            is its current version, or FAMILY:stable, FAMILY:canary and FAMILY:VERSION.
        max_tokens: tokens at most; without it a chat may have as many as the node's ``api_max_tokens`` says.
        top_k: not OpenAI's, like min_p and repetition_penalty.
        frequency_penalty: taken off a token's logit for each time that the answer has it already.
        presence_penalty: taken off the logits of tokens that the answer has already.
        repetition_penalty: vLLM's: divides positive logits of tokens of prompt and answer, multiplies negative ones.
        logit_bias: added to the logits of token ids of the target.
        stop: strings that end the text and are not shown.
        n: number of answers; their seeds are seed, seed + 1 and so on.
        response_format: form of the answer, where it is no call.
        structured_outputs: not OpenAI's but vLLM's: the same.
        guided_json: vLLM's older name of its field json; so are the other guided fields.
        grammar: llama.cpp's name of the field grammar of structured_outputs; so json_schema of json.
        ignore_eos: not OpenAI's; go on to the limit.
        wait: not OpenAI's; the request's patience: seconds without a token after which it fails while the broker is
            away, no worker serves the model or all have too much to do. 0, or without it, as the node's ``wait`` says.
        offline: not OpenAI's; the offline mode. ``hold`` waits while nobody can be reached; ``provisional`` has the
            draft write on alone, marked as unverified; ``deliver`` sends the whole request with the open, so that the
            device may go away; ``local_only`` has the device's own model write it, and nothing of it leave the device.
            Without it as the node's ``offline`` says.
        user: whose remembered answers are drafted from, unless safety_identifier says it. In a family it decides
            whether a canary answers, unless prompt_cache_key or safety_identifier does. The other fields without
            bounds are accepted without effect.
        safety_identifier: the same, before user.
        prompt_cache_key: the same, before safety_identifier: all of a conversation should have one.
    """

    model: str | None = None
    max_tokens: Limit | None = None
    stop: Stops | None = None
    ignore_eos: bool = False
    wait: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    offline: Offline | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    prediction: Prediction | None = None
    user: Any = None
    metadata: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    store: Any = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Meta(min_length=1)] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_decoding_backend: Any = None
    guided_whitespace_pattern: Empty = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    length_penalty: Neutral1 = None
    min_tokens: Neutral0 = None
    min_keep: Neutral0 = None
    repeat_penalty: Annotated[Any, unsupported(1, why=_WHOLE_TEXT)] = None
    repeat_last_n: Any = None
    typical_p: Neutral1 = None
    top_n_sigma: Annotated[Any, unsupported(0, -1)] = None
    xtc_probability: Neutral0 = None
    dry_multiplier: Neutral0 = None
    mirostat: Neutral0 = None
    dynatemp_range: Neutral0 = None
    n_probs: Annotated[Any, unsupported(0, why=NO_LOGPROBS)] = None
    prompt_logprobs: Annotated[Any, unsupported(why=NO_LOGPROBS)] = None
    bad_words: Empty = None
    stop_token_ids: Empty = None
    allowed_token_ids: Empty = None
    truncate_prompt_tokens: Empty = None
    return_token_ids: Off = None
    cache_prompt: Any = None
    cache_salt: Any = None
    id_slot: Any = None
    keep_alive: Any = None
    priority: Any = None
    request_id: Any = None
    timings_per_token: Any = None
    return_progress: Any = None
    logit_bias: LogitBiases | None = None
    use_beam_search: Off = None
    early_stopping: Off = None
    include_stop_str_in_output: Off = None
    skip_special_tokens: On = None
    spaces_between_special_tokens: Annotated[Any, unsupported(True, False)] = None
    service_tier: Annotated[Any, unsupported("auto", "default")] = None


class ChatCompletionRequest(_TextRequest, frozen=True, kw_only=True):
    """The body of ``POST /v1/chat/completions``.

    Attributes:
        max_completion_tokens: the same as max_tokens.
        tools: functions that the answer may call.
        tool_choice: none leaves them out of the prompt; required, or a name, has the answer be a call.
        parallel_tool_calls: whether an answer may make several calls; without it, if none is required.
        reasoning_effort: accepted, without effect; so is verbosity.
        continue_final_message: not OpenAI's; whether the answer goes on with a last message of the assistant, and has
            only what is new. Without it, it does, unless there are tools or a form; false begins a new answer.
        add_generation_prompt: vLLM's; true begins a new answer, too.
    """

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Limit | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=1024)] = []
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    functions: Annotated[Any, unsupported(*_EMPTY, why=_OLD)] = None
    function_call: Annotated[Any, unsupported("none", "auto", why=_OLD)] = None
    chat_template: Empty = None
    chat_template_kwargs: Empty = None
    documents: Empty = None
    mm_processor_kwargs: Empty = None
    include_reasoning: Any = None
    reasoning_format: Any = None
    parse_tool_calls: On = None
    logprobs: Annotated[Any, unsupported(False, why=NO_LOGPROBS)] = None
    top_logprobs: Annotated[Any, unsupported(0, why=NO_LOGPROBS)] = None
    modalities: Annotated[Any, unsupported(["text"], [], why="answers are text only")] = None
    audio: Empty = None
    web_search_options: Annotated[Any, unsupported()] = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: Off = None
    add_special_tokens: Off = None


class CompletionRequest(_TextRequest, frozen=True, kw_only=True):
    """The body of ``POST /v1/completions``.

    Attributes:
        prompt: a text, token ids, or an array of one of them.
        best_of: the same as n, if at all.
    """

    prompt: str | Annotated[list[TokenId | str | list[TokenId]], Meta(min_length=1)]
    best_of: int | None = None
    echo: Empty = None
    suffix: Empty = None
    logprobs: Annotated[Any, unsupported(False, why=NO_LOGPROBS)] = None  # 0 asks for that of each token
    add_special_tokens: On = None


class EmbeddingRequest(_Request, frozen=True, kw_only=True):
    """The body of ``POST /v1/embeddings``, for versions whose worker stands beside a server of models.

    Attributes:
        model: as of ``/v1/chat/completions``; so are wait and offline.
        input: a text, or several; token ids are refused.
        encoding_format: ``base64`` is of floats of 32 bits, little-endian.
        dimensions: numbers of a vector; without it as many as the server makes.
        user: accepted, without effect.
    """

    input: str | Annotated[list[TokenId | str | list[TokenId]], Meta(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Dimensions | None = None
    user: Any = None
    wait: Annotated[float, Meta(ge=0)] | None = None
    offline: Offline | None = None


class FlexspecUsage(PartialSampling, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Figures of a text: tokens, bytes, joules.

    Attributes:
        proposed: tokens that were drafted on the device, of use or not.
        drafted: proposed tokens that the target judged.
        accepted: drafted tokens that were right.
        looked_up: accepted tokens that a lookup in the text itself or in remembered answers had drafted.
        worker_accepted: tokens that the worker had drafted itself, and that were right.
        forced: tokens that the text's grammar left no choice about.
        provisional: tokens that the draft wrote alone while nobody answered.
        provisional_confirmed: provisional tokens that the target wrote as well.
        provisional_stopped: why it wrote no more: ``unsure`` of itself, it ``repeats`` itself, the ``limit`` of tokens,
            or the ``end`` of what it has to say; empty for none of these.
        local: the device's own model, where that wrote what is provisional, or all that must not leave the device.
        delivers: seconds for which its worker leaves the answer at the broker, should the device be away when it is
            complete; 0 where nobody asked for that, or no worker has a place for it.
        rounds: verdicts that committed something.
        bytes_up: MQTT payload to the worker.
        bytes_down: MQTT payload from the worker.
        plan: the last one; null before any.
        energy_j: joules that it took out of the device; null where the node does not tell.
        energy_j_per_100: the same for each 100 tokens.
        energy_source: how that is known: ``modelled: PRESET by RADIO``, ``measured: METER`` or ``none``.
        limits: how those of the node's settings were kept, as of the last plan.
        version: target version that wrote it.
        digest: digest of its head's manifest, in hex; empty where the node follows no family.
        seed: number with which the same text comes again.
        exactness: as the statuses of the version's workers say.
        weights: the target's weights, as they say: ``native``, or how many bits they have.
        temperature: value that was used; so top_k, top_p and min_p.
        default_limit: tokens that the node allowed, as the request named no limit; null where it named one, or where
            the context left fewer.
        resumed: how a text of a server went on that had died in the middle: ``continued`` from what was there, or
            ``rewritten`` with the same seed and found alike; empty where none did.
    """

    proposed: int = 0
    drafted: int = 0
    accepted: int = 0
    looked_up: int = 0
    worker_accepted: int = 0
    forced: int = 0
    provisional: int = 0
    provisional_confirmed: int = 0
    provisional_stopped: StoppedAlone = ""
    local: str = ""
    delivers: int = 0
    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    plan: PlanStatus | None = None
    energy_j: float | None = None
    energy_j_per_100: float | None = None
    energy_source: str = "none"
    limits: list[LimitReport] = []
    version: str = ""
    digest: str = ""
    seed: int | None = None
    exactness: str = ""
    weights: str = ""
    default_limit: int | None = None
    resumed: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a text."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    flexspec: FlexspecUsage = FlexspecUsage()


Writer = Literal["device", "lookup", "worker", "target", "cloud", "grammar"]
"""Who wrote a part of a text: the device's draft or the worker's, which the target accepted, or the target itself.

``lookup`` is a draft of the device that was found in the text itself or in an earlier answer.
``cloud`` is the worker's draft or the target: after a loss what is sent again does not tell them apart. ``grammar`` is
nobody: no other token was allowed."""


class Provisional(msgspec.Struct, frozen=True):
    """A change of provisional text: what the device's draft wrote alone behind the confirmed text.

    Attributes:
        at: characters of the provisional text that stay; those behind them go.
        text: characters that follow them.
    """

    at: int
    text: str

    def applied(self, before: str) -> str:
        """The provisional text after the change."""
        return before[: self.at] + self.text


def unconfirmed(provisional: str, confirmed: str) -> str:
    """The rest of a provisional text when confirmed text comes: without what is confirmed, or none if it differs."""
    return provisional[len(confirmed) :] if provisional.startswith(confirmed) else ""


class FlexspecPart(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a part of an answer that OpenAI's objects have no field for.

    Attributes:
        pieces: parts of a chunk's text, in order, and who wrote each: a draft or a lookup on the device, the worker's
            draft, or the target itself; ``cloud`` is one of the last two, in what was sent again after a loss.
        provisional: change of the provisional text, where the request's offline mode is ``provisional``. Confirmed text
            eats the beginning of the provisional text, or all of it where the two differ.
        waiting: whom the text waits for.
    """

    pieces: list[tuple[str, Writer]] | UnsetType = UNSET
    provisional: Provisional | UnsetType = UNSET
    waiting: str | UnsetType = UNSET


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "provisional"]


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that is called, and with what.

    Attributes:
        arguments: a JSON object; cut where the finish reason is ``length``.
    """

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An answer.

    Attributes:
        refusal: refusal by a server that tells it apart from the content.
        reasoning_content: reasoning that precedes the content, likewise.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a chat.

    Attributes:
        finish_reason: ``provisional`` where nobody could be reached until the end of the request's patience, and its
            offline mode allows that.
        flexspec: provisional text of such an answer, behind its confirmed content.
    """

    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason | None
    flexspec: FlexspecPart | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """How a call goes on: its name first, then its arguments."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """How one of an answer's calls goes on."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer goes on."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer to a chat."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or in a stream a part of it.

    Attributes:
        flexspec: provisional text of a whole answer; see `ChatChoice`.
    """

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None
    flexspec: FlexspecPart | UnsetType = UNSET


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str
    created: int
    model: str


class ChatCompletion(_Answer, frozen=True, kw_only=True):
    """The answer to a chat."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage | UnsetType = UNSET


class ChatCompletionChunk(_Answer, frozen=True, kw_only=True):
    """An event of a streamed answer to a chat.

    Attributes:
        choices: a single one; none in the chunk of figures.
        flexspec: writers of the text, where ``stream_options.include_origin`` asks for them; changes of the provisional
            text; whom the text waits for, where either is asked for.
        usage: figures, where ``stream_options.include_usage`` asks for them; null in all chunks but the one of figures.
    """

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    flexspec: FlexspecPart | UnsetType = UNSET
    usage: Usage | UnsetType | None = UNSET


class TextCompletion(_Answer, frozen=True, kw_only=True):
    """The answer to a completion, or an event of it; see `ChatCompletionChunk`."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    flexspec: FlexspecPart | UnsetType = UNSET
    usage: Usage | UnsetType | None = UNSET


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of a text: numbers, or base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of their texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage | UnsetType = UNSET


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Meaning of a name in the family's catalogue; for the family's own name, where no canary takes the request.

    Attributes:
        state: ``canary``, ``stable`` or ``draining``.
        digest: digest of its head's manifest, in hex.
        share: percent of new texts that a canary takes.
        draft: relation of devices' drafts to it: ``shared`` are the lower layers of its base; ``independent`` are small
            models of their own, as the version has another base than the family.
    """

    version: str
    state: str
    digest: str
    share: int = 0
    draft: Literal["shared", "independent"] = "shared"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A target version, or with a family what stands for one.

    Attributes:
        created: seconds since the Unix epoch; since when a worker serves it.
        max_model_len: positions, prompt and new tokens together, by vLLM's name; absent until a worker has told.
        flexspec: meaning of the name; only where the node follows a family.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "flexspec"
    max_model_len: int | UnsetType = UNSET
    flexspec: ModelVersion | UnsetType = UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Target versions that can be asked for."""

    object: Literal["list"] = "list"
    data: list[Model]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer.

    Attributes:
        message: text for people.
        type: OpenAI's kind of error.
        param: field of the request that is to blame.
        code: name for programs.
    """

    message: str = ""
    type: str = ""
    param: str | None = None
    code: str | int | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error, and the event that ends a stream which failed."""

    error: Failure


class Health(msgspec.Struct, frozen=True):
    """Answer to a probe.

    Attributes:
        status: ok, ready or not ready.
        reason: why it is not ready; of one that is, how its draft's tokenizer differs from the target's, if it does.
        connection: whether it is online, degraded or offline, and since when; of ``/readyz``.
    """

    status: str
    reason: str | UnsetType = UNSET
    connection: ConnectionStatus | UnsetType = UNSET
