"""Ollama's objects as the edge node's HTTP API reads and writes them.

As in `schemas.openai`, a field that is null counts as absent, and `unsupported` marks what the API cannot do.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.messages import MAX_TOKEN_ID, Penalty, RepetitionPenalty
from schemas.openai import (
    NO_LOGPROBS,
    Dimensions,
    FlexspecUsage,
    Neutral0,
    Neutral1,
    Offline,
    Provisional,
    Sampled,
    Stops,
    unsupported,
)
from schemas.served import MAX_INPUTS

_NO_EDITING = "targets only go on with a text"
_NO_CONTEXT = "send the conversation as messages to /api/chat"
_NO_TEMPLATE = "the target's own chat template is used; with raw the prompt is taken as it is"

Images = list[str]
"""Images in base64: PNG, JPEG, WebP or GIF, for a server of models that reads such."""
Format = str | dict[str, Any]
"""``json``, or a JSON schema; empty for none."""


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown fields of it are ignored, as Ollama does."""


class OllamaOptions(Sampled, _Request, frozen=True, kw_only=True):
    """How a text is to be written.

    Attributes:
        top_k: keep the k most likely tokens; 0 and less keep all.
        seed: the same seed gives the same text; less than 0 draws one.
        num_predict: tokens at most; 0 and less are what the context leaves.
        repeat_penalty: penalty of tokens of the whole of prompt and answer, whatever repeat_last_n says;
            presence_penalty and frequency_penalty are for the whole answer.
        num_ctx: accepted, without effect, as are all fields without bounds: they say how Ollama loads a model, or
            belong to Mirostat, which is off.
    """

    top_k: Annotated[int, Meta(le=MAX_TOKEN_ID)] | None = None
    num_predict: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    stop: Stops | None = None
    typical_p: Neutral1 = None
    tfs_z: Neutral1 = None
    repeat_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Neutral0 = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    repeat_last_n: Any = None
    penalize_newline: Any = None
    num_ctx: Any = None
    num_keep: Any = None
    num_batch: Any = None
    num_gpu: Any = None
    num_thread: Any = None
    main_gpu: Any = None
    numa: Any = None
    low_vram: Any = None
    f16_kv: Any = None
    logits_all: Any = None
    vocab_only: Any = None
    use_mmap: Any = None
    use_mlock: Any = None
    embedding_only: Any = None


class OllamaFunctionCall(_Request, frozen=True, kw_only=True):
    """A function that is called, with arguments as an object.

    Attributes:
        index: number of the call in its message.
    """

    name: str
    arguments: dict[str, Any] = {}
    index: int = 0


class OllamaToolCall(_Request, frozen=True, kw_only=True, omit_defaults=True):
    """A call of a tool.

    Attributes:
        id: name of the call, by which its result may refer to it.
        type: accepted, without effect; so is index.
    """

    function: OllamaFunctionCall
    id: str = ""
    type: Any = None
    index: Any = None


class OllamaMessage(_Request, frozen=True, kw_only=True):
    """A turn of a conversation.

    Attributes:
        thinking: accepted, without effect.
        tool_calls: calls that an assistant's turn makes.
        tool_name: name of the tool whose result a turn of the role tool is.
        tool_call_id: the call that it answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: Any = None
    images: Images = []
    tool_calls: list[OllamaToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class OllamaFunction(_Request, frozen=True, kw_only=True):
    """A function that may be called.

    Attributes:
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class OllamaTool(_Request, frozen=True, kw_only=True):
    """A tool that may be called."""

    type: Literal["function"] = "function"
    function: OllamaFunction


class _TextRequest(_Request, frozen=True, kw_only=True):
    """Fields that requests for a text share.

    Attributes:
        model: a target version, with or without ``:latest``; on a node that follows a family see
            ``/v1/chat/completions``.
        format: ``json`` for any object, or a JSON schema.
        think: true is refused, since targets do not think aloud apart from their answer.
        offline: not Ollama's; as of ``/v1/chat/completions``.
        keep_alive: accepted, without effect: workers keep their targets.
        truncate: leave out the oldest turns of a conversation that is too long for the context, but for those of the
            system; false refuses it.
        shift: accepted, without effect: a text ends with the context.
    """

    model: Annotated[str, Meta(min_length=1)]
    stream: bool = True
    format: Format | None = None
    options: OllamaOptions | None = None
    think: bool | str = False
    offline: Offline | None = None
    keep_alive: Any = None
    truncate: bool = True
    shift: Any = None
    metadata: Any = None
    logprobs: Annotated[Any, unsupported(False, why=NO_LOGPROBS)] = None
    top_logprobs: Annotated[Any, unsupported(0, why=NO_LOGPROBS)] = None


class OllamaChatRequest(_TextRequest, frozen=True, kw_only=True):
    """The body of ``POST /api/chat``.

    Attributes:
        messages: none asks whether the model is there, as Ollama loads it then.
    """

    messages: Annotated[list[OllamaMessage], Meta(max_length=4096)] = []
    tools: Annotated[list[OllamaTool], Meta(max_length=1024)] = []
    template: Annotated[Any, unsupported("", why=_NO_TEMPLATE)] = None


class OllamaGenerateRequest(_TextRequest, frozen=True, kw_only=True):
    """The body of ``POST /api/generate``.

    Attributes:
        prompt: a user's turn; none asks whether the model is there.
        system: turn of the system before it.
        raw: go on with the prompt as it is, without a chat template.
    """

    prompt: str = ""
    system: str = ""
    raw: bool = False
    suffix: Annotated[Any, unsupported("", why=_NO_EDITING)] = None
    context: Annotated[Any, unsupported([], why=_NO_CONTEXT)] = None
    template: Annotated[Any, unsupported("", why=_NO_TEMPLATE)] = None
    images: Images = []


class _EmbedRequest(_Request, frozen=True, kw_only=True):
    """Fields that requests for vectors share; see ``/v1/embeddings``.

    Attributes:
        options: accepted, without effect, as are keep_alive and truncate: the server decides what is too long.
    """

    model: Annotated[str, Meta(min_length=1)]
    offline: Offline | None = None
    options: Any = None
    keep_alive: Any = None
    truncate: Any = None


class OllamaEmbedRequest(_EmbedRequest, frozen=True, kw_only=True):
    """The body of ``POST /api/embed``.

    Attributes:
        input: a text, or several; none asks whether the model is there.
    """

    input: str | Annotated[list[str], Meta(max_length=MAX_INPUTS)] = ""
    dimensions: Dimensions | None = None


class OllamaEmbeddingsRequest(_EmbedRequest, frozen=True, kw_only=True):
    """The body of ``POST /api/embeddings``, the older one.

    Attributes:
        prompt: a text; none asks whether the model is there.
    """

    prompt: str = ""


class OllamaModelRequest(_Request, frozen=True, kw_only=True):
    """The body of ``POST /api/show`` and ``POST /api/pull``.

    Attributes:
        name: the same as model, as older clients say.
        verbose: accepted, without effect; so is all else.
    """

    model: str = ""
    name: str = ""
    stream: bool = True
    verbose: Any = None
    insecure: Any = None
    system: Any = None
    template: Any = None
    options: Any = None


DoneReason = Literal["stop", "length", "provisional", "load", "unload"]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of an answer, and of a line of a streamed one.

    Attributes:
        created_at: RFC 3339, UTC.
        total_duration: nanoseconds since the request, as are all durations.
        load_duration: 0, as workers hold their targets loaded.
        prompt_eval_duration: until the first commit: the way to the worker and back, and reading the prompt.
        flexspec: the same as in ``usage.flexspec`` of OpenAI's API.
        provisional: change of the provisional text, where the request's offline mode is ``provisional``.
    """

    model: str
    created_at: str
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    flexspec: FlexspecUsage | UnsetType = UNSET
    provisional: Provisional | UnsetType = UNSET


class OllamaAssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An assistant's turn, or a part of it."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaToolCall] | UnsetType = UNSET


class OllamaChatAnswer(_Answer, frozen=True, kw_only=True):
    """The answer to a chat, or a line of it."""

    message: OllamaAssistantMessage = OllamaAssistantMessage()


class OllamaGenerateAnswer(_Answer, frozen=True, kw_only=True):
    """The answer to ``POST /api/generate``, or a line of it."""

    response: str = ""


class OllamaEmbedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of their texts; see `OllamaChatAnswer`."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    flexspec: FlexspecUsage | UnsetType = UNSET


class OllamaEmbeddingsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A vector."""

    embedding: list[float]


class OllamaDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Details of a model, as far as the node knows.

    Attributes:
        quantization_level: the target's weights as its workers say: ``native``, or how many bits they have.
    """

    parent_model: str = ""
    format: str = ""
    family: str = "flexspec"
    families: tuple[str, ...] = ("flexspec",)
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    """A target version that can be asked for.

    Attributes:
        model: the same as name.
        modified_at: since when a worker serves it.
        size: 0, as the node does not know; so is size_vram.
        digest: digest of its head's manifest, in hex; where the node follows no family, of what its worker says of it.
        expires_at: far away, as workers keep their targets; only of ``/api/ps``, as are the following.
        context_length: positions, prompt and new tokens together.
    """

    name: str
    model: str
    modified_at: str
    size: int = 0
    digest: str = ""
    details: OllamaDetails
    expires_at: str | UnsetType = UNSET
    size_vram: int | UnsetType = UNSET
    context_length: int | UnsetType = UNSET


class OllamaModels(msgspec.Struct, frozen=True, kw_only=True):
    """Target versions that can be asked for."""

    models: list[OllamaModel]


class OllamaShown(msgspec.Struct, frozen=True, kw_only=True):
    """A model as far as it is known.

    Attributes:
        template: the target's chat template, in Jinja.
        parameters: sampling that the target's makers recommend.
        model_info: architecture and context, by the names of GGUF.
    """

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: str


class OllamaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a pull went."""

    status: str


class OllamaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The version of Ollama whose API this is."""

    version: str


class OllamaError(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    error: str
