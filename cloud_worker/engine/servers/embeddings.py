"""Vectors of texts by a server of OpenAI's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from flexspec_mq.errors import ServerRefused
from flexspec_mq.models.byte_text.vectors import encode_vectors

if TYPE_CHECKING:
    from cloud_worker.engine.servers.client import ServerClient
    from schemas.served import ServedEmbed


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: Annotated[int, Meta(ge=0, le=2**31)] = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage = _Usage()


async def embedded(server: ServerClient, asked: ServedEmbed, model: str) -> tuple[bytes, int]:
    """The line of the vectors of texts, in their order, and how many tokens the server read; 0 where it does not tell.

    Raises:
        ServerGone: the server cannot be reached, or failed.
        ServerRefused: it makes none, or others than asked for.
    """
    body: dict[str, Any] = {"model": model, "input": asked.input, "encoding_format": "float"}
    if asked.dimensions is not None:
        body["dimensions"] = asked.dimensions
    answer = await server.ask("/v1/embeddings", _Vectors, body)
    told = sorted(answer.data, key=lambda vector: vector.index)
    if [vector.index for vector in told] != [*range(len(asked.input))]:
        raise ServerRefused(f"{server.url} tells {len(told)} vectors of {len(asked.input)} texts")
    made = len(told[0].embedding)
    if asked.dimensions not in (None, made):
        raise ServerRefused(f"{server.url} makes vectors of {made} numbers, whatever `dimensions` says")
    try:
        return encode_vectors([vector.embedding for vector in told]), answer.usage.prompt_tokens
    except ValueError as error:
        raise ServerRefused(f"{server.url} tells {error}") from error
