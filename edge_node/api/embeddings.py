"""Vectors of texts, as OpenAI's clients and Ollama's ask for them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge_node.api.errors import ApiError, bad
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.http.bodies import read
from edge_node.api.ollama import nanoseconds
from edge_node.api.openai.chat import event, usage
from edge_node.text.encoding import NoEmbeddings
from edge_node.text.machine import End, Text
from edge_node.text.spec import WHOLE_CONTEXT, TextSpec
from flexspec_mq.errors import FlexSpecError, RemoteProtocolError
from flexspec_mq.grammar.tools import CallEvent, Content
from flexspec_mq.models.byte_text.vectors import decode_vectors, numbers
from schemas import ollama, openai
from schemas.messages import PartialSampling

if TYPE_CHECKING:
    from edge_node.api.response_store import ResponseStore

_SAMPLING = PartialSampling(temperature=0.0)
"""Nothing is left to the target's makers."""


class EmbeddingRequest(ApiRequest, frozen=True, kw_only=True, omit_defaults=True, tag="embedding"):
    """A request for vectors.

    Attributes:
        field: field of the request that has the texts.
        api: whose answer it is; Ollama has had two.
        asked_model: model as the client names it.
        base64: write vectors in base64.
    """

    field: str = "input"
    api: Literal["openai", "ollama", "old"] = "openai"
    asked_model: str = ""
    base64: bool = False

    @property
    def instead(self) -> bytes | None:
        """The answer to whoever only asks whether a model is there."""
        return None if self.spec.inputs else self.encoded([])

    def form(self, texts: Sequence[Text], responses: ResponseStore) -> EmbeddingForm:  # noqa: ARG002
        """Objects of its API."""
        return EmbeddingForm(texts, self)

    def encoded(self, vectors: Sequence[bytes], **more: Any) -> bytes:
        """An answer of Ollama's."""
        told = [[*numbers(vector)] for vector in vectors]
        if self.api == "old":
            return msgspec.json.encode(ollama.OllamaEmbeddingsAnswer(embedding=told[0] if told else []))
        return msgspec.json.encode(ollama.OllamaEmbedAnswer(model=self.asked_model, embeddings=told, **more))


def openai_request(body: dict[str, Any], lenient: bool = False) -> EmbeddingRequest:
    """Read the body of ``POST /v1/embeddings``.

    Args:
        body: JSON object of the request.
        lenient: ignore fields that are unknown.

    Raises:
        ApiError: 400, naming the field.
    """
    ignored: list[str] | None = [] if lenient else None
    asked = read(openai.EmbeddingRequest, body, ignored=ignored)
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    inputs = tuple(each for each in given if isinstance(each, str))
    if len(inputs) < len(given):
        hint = "send the text itself; LangChain does with check_embedding_ctx_length=False"
        raise bad("input", "input has token ids, which are those of no server behind a worker", hint=hint)
    return EmbeddingRequest(
        spec=_spec(asked, inputs, asked.dimensions, asked.wait),
        base64=asked.encoding_format == "base64",
        ignored=tuple(ignored or ()),
    )


def embed_request(body: dict[str, Any], lenient: bool = False) -> EmbeddingRequest:
    """Read the body of ``POST /api/embed``; see `openai_request`.

    Raises:
        ApiError: 400, naming the field.
    """
    asked = read(ollama.OllamaEmbedRequest, body, ignored=[] if lenient else None)
    inputs = tuple(asked.input) if isinstance(asked.input, list) else (asked.input,) if asked.input else ()
    return EmbeddingRequest(
        spec=_spec(asked, inputs, asked.dimensions), api="ollama", asked_model=asked.model
    )


def old_request(body: dict[str, Any], lenient: bool = False) -> EmbeddingRequest:
    """Read the body of ``POST /api/embeddings``; see `openai_request`.

    Raises:
        ApiError: 400, naming the field.
    """
    asked = read(ollama.OllamaEmbeddingsRequest, body, ignored=[] if lenient else None)
    inputs = (asked.prompt,) if asked.prompt else ()
    return EmbeddingRequest(spec=_spec(asked, inputs), field="prompt", api="old", asked_model=asked.model)


def _spec(
    asked: openai.EmbeddingRequest | ollama.OllamaEmbedRequest | ollama.OllamaEmbeddingsRequest,
    inputs: tuple[str, ...],
    dimensions: int | None = None,
    wait: float | None = None,
) -> TextSpec:
    return TextSpec(
        prompt=inputs,
        dimensions=dimensions,
        sampling=_SAMPLING,
        seed=0,
        limit=WHOLE_CONTEXT,
        version=asked.model,
        wait=wait,
        offline=asked.offline,
    )


class EmbeddingForm(Form):
    """Vectors, all at once; where a stream of them is read from the outbox, in one event."""

    def __init__(self, texts: Sequence[Text], wanted: EmbeddingRequest) -> None:
        super().__init__(texts, wanted.field)
        self._text, self._wanted = texts[0], wanted
        self.name = "embd-" + texts[0].id

    def whole(self, ends: Sequence[End]) -> bytes:
        """A single object.

        Raises:
            RemoteProtocolError: the worker wrote no such vectors.
        """
        events = self._text.parser().push(self._text.whole)
        content = "".join(event.text for event in events if isinstance(event, Content))
        try:
            vectors = decode_vectors(content, len(self._wanted.spec.inputs))
        except ValueError as error:
            raise RemoteProtocolError(f"the worker wrote no vectors of these texts: {error}") from error
        if self._wanted.api == "openai":
            data = [
                openai.Embedding(index=at, embedding=self._told(vector)) for at, vector in enumerate(vectors)
            ]
            return msgspec.json.encode(
                openai.EmbeddingList(data=data, model=self._text.version, usage=usage(ends))
            )
        figures = ends[0].figures
        if figures is None:
            return self._wanted.encoded(vectors)
        return self._wanted.encoded(
            vectors,
            total_duration=nanoseconds(figures.seconds),
            prompt_eval_count=figures.prompt_tokens,
            flexspec=msgspec.convert(figures, openai.FlexspecUsage, from_attributes=True),
        )

    def _told(self, vector: bytes) -> list[float] | str:
        return b64encode(vector).decode() if self._wanted.base64 else [*numbers(vector)]

    def told(self, at: int, event: CallEvent) -> bytes:
        """Nothing before all is there."""
        del at, event
        return b""

    def over(self, at: int, end: End) -> bytes:
        """The event that has all."""
        del at
        return self.mark + b"data: " + self.whole([end]) + b"\n\n"

    def broken(self, error: ApiError) -> bytes:
        """An event in place of it."""
        return event(error.body())

    def failed(self, error: FlexSpecError) -> ApiError:
        """A text's error; a target without vectors is a path that is not there, which no client asks again."""
        if isinstance(error, NoEmbeddings):
            status = 404 if self._wanted.api == "openai" else 501
            return ApiError(status, error.message, code="not_implemented", hint=error.hint)
        return super().failed(error)
