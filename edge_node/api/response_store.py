"""Responses that the node keeps, for later ones that go on from them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from edge_node.api.errors import ApiError, bad
from edge_node.api.settings import ApiSettings
from flexspec_mq import entropy
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.models.text import Turn
from schemas.openai import LOCAL_ONLY
from schemas.responses import Response, ResponseItem

if TYPE_CHECKING:
    from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that later ones may go on from.

    Attributes:
        turns: turns of the conversation, answer included, instructions left out.
    """

    turns: tuple[Turn, ...]
    response: Response

    @property
    def size(self) -> int:
        """Bytes, about; what responses of one conversation share is counted for each."""
        return len(msgspec.json.encode([self.response, self.turns]))


class ResponseStore:
    """Responses in memory: a client finds its own by their ids, until they are too old or too many.

    Args:
        settings: bounds.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._stored = ExpiringMap[tuple[bytes, str], StoredResponse](
            most=settings.keep_responses,
            ttl=settings.keep_responses_for,
            most_weight=settings.keep_response_bytes,
            weigh=lambda stored: stored.size,
        )

    def put(self, client: bytes, stored: StoredResponse) -> None:
        """Keep a response."""
        self._stored.put((client, stored.response.id), stored, entropy.now())

    def get(
        self, client: bytes, name: str, param: str | None = None, *, local: bool = True
    ) -> StoredResponse:
        """A response by its id.

        Args:
            client: who asks.
            name: id of a response.
            param: field of the request that has the id; None if its path has.
            local: whether it stays on this device.

        Raises:
            ApiError: there is none, it is another client's, or it must not leave the device.
        """
        stored = self._stored.get((client, name), entropy.now())
        if stored is None:
            raise ApiError(
                404 if param is None else 400,
                f"response {name[:80]!r} is not here",
                param=param,
                code="not_found" if param is None else "previous_response_not_found",
                hint="the node forgets old ones, those of `store` false and, when it starts anew, all",
            )
        if stored.response.model == LOCAL_ONLY and not local:
            raise bad(
                param,
                f"response {name[:80]!r} must not leave the device",
                hint=f"go on by {LOCAL_ONLY} as well",
            )
        return stored

    def delete(self, client: bytes, name: str) -> None:
        """Forget a response.

        Raises:
            ApiError: 404.
        """
        self.get(client, name)
        self._stored.pop((client, name))

    def item(self, client: bytes, name: str, param: str, *, local: bool = True) -> ResponseItem:
        """An item of a response's output by its own id; see `get`.

        Raises:
            ApiError: there is none.
        """
        _, _, rest = name.partition("_")
        response = self.get(client, f"resp_{rest.partition('_')[0]}", param, local=local).response
        for item in response.output:
            if item.id == name:
                return item
        raise bad(param, f"{param} names no item of response {response.id}")


def client_of(request: Request) -> bytes:
    """Who asks, as far as can be told: by the bearer token."""
    return blake2b(request.headers.get("authorization", "").encode(), digest_size=16).digest()
