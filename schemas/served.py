"""Requests to a server of models that tells no token ids, and its figures, as they travel within byte texts.

The prompt of such a text is a `ServedRequest` as JSON, made by the device. The worker reads it as what a stranger sent,
and asks its server for nothing that is not in it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.blobs import BlobName

MAX_INPUTS = 2048
"""Texts of a request for vectors, as OpenAI's."""
MAX_IMAGES = 16
"""Images of a request at most."""
MAX_REQUEST = 8 * 2**20
"""Bytes of a request at most, as JSON with its images."""
MAX_IMAGE_BYTES = 6_000_000
"""Bytes of a request's images together at most, as files: in base64 they take a third more."""
DATA_URL = r"^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$(?!\n)"


def image_size(url: str) -> int:
    """Bytes of the image in a ``data:`` URL."""
    return (len(url.rstrip("=")) - url.find(",") - 1) * 3 // 4


Finite = Annotated[float, Meta(ge=-1e6, le=1e6)]


class ServedUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of a text by a server.

    Attributes:
        prompt_tokens: tokens of the prompt, by the server's count.
        completion_tokens: tokens that it wrote.
        resumed: how the text went on after its server or worker had died in the middle: ``continued`` from what was
            there, or ``rewritten`` from its beginning with the same seed and found alike.
    """

    prompt_tokens: Annotated[int, Meta(ge=0, le=2**31)] = 0
    completion_tokens: Annotated[int, Meta(ge=0, le=2**31)] = 0
    resumed: Literal["", "continued", "rewritten"] = ""


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image that travels with the request; no other address is taken, as the server would fetch it."""

    url: Annotated[str, Meta(pattern=DATA_URL)]


class ServedPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a message: text, or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class ServedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that an answer called."""

    name: str
    arguments: str


class ServedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of an earlier answer."""

    id: str
    function: ServedFunction
    type: Literal["function"] = "function"


class ServedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[ServedPart, ...] = ""
    tool_calls: tuple[ServedCall, ...] = ()
    tool_call_id: str | None = None


class ServedEmbed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Texts whose vectors are asked for.

    Attributes:
        input: texts.
        dimensions: numbers of a vector; None leaves them to the server.
    """

    input: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_INPUTS)]
    dimensions: Annotated[int, Meta(ge=1, le=2**20)] | None = None


class ServedBlob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request that is too long for a message, as a blob that its device holds until its text is over.

    Attributes:
        name: name of the blob, whose bytes are one frame of zstd, sealed where there is a key.
        size: bytes of the blob.
        length: bytes of the request.
        key: key of the seal (ChaCha20-Poly1305), for this blob alone; empty where the device has no keys.
    """

    name: BlobName
    size: Annotated[int, Meta(ge=1, le=MAX_REQUEST)]
    length: Annotated[int, Meta(ge=1, le=MAX_REQUEST)]
    key: Annotated[bytes, Meta(max_length=32)] = b""


class ServedRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A request as the client sent it, in OpenAI's words; None and nothing leave a value to the server.

    The seed is that of the text's identity, so that two tries ask for the same.

    Attributes:
        messages: the conversation.
        prompt: beginning of a text that is no conversation, in place of messages.
        embed: texts whose vectors are asked for, in place of both.
        blob: blob that holds the request, in place of all of these.
    """

    messages: tuple[ServedMessage, ...] = ()
    prompt: str | None = None
    embed: ServedEmbed | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    stop: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    temperature: Finite | None = None
    top_p: Finite | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    min_p: Finite | None = None
    repetition_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    presence_penalty: Finite | None = None
    logit_bias: dict[str, Finite] = {}
    ignore_eos: bool = False
    reasoning_effort: Annotated[str, Meta(max_length=32)] | None = None
    blob: ServedBlob | None = None
