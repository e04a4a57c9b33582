"""Payloads of texts that are asked for by MQTT: the ask, its answer in one or in pieces, and the node's figures."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.openai import FinishReason, Provisional, ToolCall
from schemas.status import ConnectionStatus

AskId = Annotated[str, Meta(min_length=1, max_length=128)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """An ask; instead of it a payload may be the text of a prompt alone.

    All fields of the body of ``POST /v1/chat/completions`` may stand beside these, ``messages`` in place of the prompt.

    Attributes:
        id: name by which the answer says whose it is, and by which a repeated ask gets the same text. Without it the
            Correlation Data of MQTT 5 are.
        prompt: turn of the user.
        schema: JSON schema that the text keeps; short for ``response_format``.
        response_topic: where to answer, for those who cannot say it by MQTT 5: below f1/answer/USER/EDGE.
        keep: seconds for which the broker keeps the answer for a client that is away, as a retained message.
        clear: ask for nothing, and have the broker forget the answer that it keeps for this id.
    """

    id: AskId | None = None
    prompt: str | None = None
    schema: dict[str, Any] | None = None
    response_topic: str | None = None
    keep: Annotated[float, Meta(ge=0, le=604_800)] | None = None
    clear: bool = False


class AskUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a text, few enough for clients with little memory.

    Attributes:
        version: target version that wrote it.
        seed: number with which the same text comes again.
        resumed: how a server's text went on that broke off: ``continued`` or ``rewritten``; left out if none did.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    version: str
    seed: int | None
    resumed: str | UnsetType = UNSET


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole text, which also ends one that was sent in pieces.

    Attributes:
        id: as it was asked.
        text: the whole text; left out where it was sent in pieces, unless it is kept.
        finish_reason: as that of ``/v1/chat/completions``.
        tool_calls: as those of ``/v1/chat/completions``.
        provisional: provisional text behind it, where ``finish_reason`` is ``provisional``.
        ignored: fields of the ask that were ignored, as the node is lenient.
    """

    id: AskId | UnsetType = UNSET
    text: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    provisional: Provisional | UnsetType = UNSET
    done: Literal[True] = True
    finish_reason: FinishReason | None
    ignored: list[str] | UnsetType = UNSET
    usage: AskUsage | UnsetType = UNSET


class AnswerPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a text that is being written.

    Attributes:
        id: as it was asked.
        at: characters of the text before it; a piece that was received twice, or again after the node was started
            anew, takes the place of what is there.
        delta: the next characters.
        provisional: change of the provisional text behind them, as of ``/v1/chat/completions``; there is none behind a
            piece at 0 that does not say it.
        waiting: whom the text waits for, if it does.
    """

    id: AskId | UnsetType = UNSET
    at: int
    delta: str
    provisional: Provisional | UnsetType = UNSET
    waiting: str | UnsetType = UNSET
    done: Literal[False] = False


class AskErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why there is no text; codes are those of the HTTP API.

    Attributes:
        hint: advice.
        param: field of the ask that is to blame.
        retry_after: seconds after which to ask again.
    """

    code: str
    message: str
    hint: str = ""
    param: str | None = None
    retry_after: int | None = None


class AskError(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an ask that failed."""

    id: AskId | UnsetType = UNSET
    error: AskErrorBody
    done: Literal[True] = True


class AskedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of an edge node for those who may ask it. Its will says gone.

    Attributes:
        model: default of asks.
        ready: whether a text could be written now.
        reason: why not.
        connection: whether it is online, degraded or offline, and since when.
    """

    state: Literal["online", "gone"]
    edge: str = ""
    model: str = ""
    ready: bool = False
    reason: str = ""
    connection: ConnectionStatus | None = None
