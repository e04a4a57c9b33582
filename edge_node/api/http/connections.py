"""HTTP connections: bounded in number, for each client too, and in how long they may take to ask for something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_node.api.errors import bad
from edge_node.api.http.auth import HEADER, NOSNIFF, new_id


@dataclass(slots=True)
class ApiConnections:
    """The connections of one server.

    Args:
        most: when there are more, the one that has waited longest for a request goes, or else the new one.
        most_of_one: the same for those of one address; None is no bound.
        head_timeout: seconds for a request's head to arrive, after the connection began or its last request ended.
        on_cut: told of each one that was cut: its client's address, why for programs, and for people.

    Attributes:
        waiting: on which no request is being answered, in the order in which they began to wait.
    """

    most: int
    most_of_one: int | None
    head_timeout: float
    on_cut: Callable[[str, str, str], None]
    waiting: dict[ApiConnection, None] = field(default_factory=dict)

    def make_room(self, connections: set[Any], new: ApiConnection) -> bool:
        """Cut those that wait, the oldest first, until there are no more than allowed; whether that was enough."""
        if self.most_of_one is not None:
            of_its_client = sum(other.address == new.address for other in connections)
            for other in [other for other in self.waiting if other.address == new.address]:
                if of_its_client > self.most_of_one:
                    other.cut()
                    of_its_client -= 1
            if of_its_client > self.most_of_one:
                return False
        while len(connections) > self.most and self.waiting:
            next(iter(self.waiting)).cut()
        if len(connections) > self.most:
            for other in [other for other in connections if other.transport.is_closing()]:
                other.cut()  # its client does not take the rest of an answer
        return len(connections) <= self.most


class ApiConnection(H11Protocol):
    """A connection. uvicorn's own has no bound for a head, and counts those that ask for nothing as load.

    Args:
        connections: all connections of the server.
        more: as uvicorn makes its own.
    """

    def __init__(self, connections: ApiConnections, **more: Any) -> None:
        super().__init__(**more)
        self._all = connections
        self._timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """The client's address."""
        return "unknown" if self.client is None else self.client[0]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if self._all.make_room(self.connections, self):
            self._wait()
        else:
            why = "all connections that there may be, or that its address may have, are in use"
            self._all.on_cut(self.address, "too_many_connections", why)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The client has sent something. It does not prolong the time for a head."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """A request was answered."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the shape of all errors."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # in the middle of another answer
            self.transport.close()
            return
        body = msgspec.json.encode(bad(None, msg, code="invalid_http").body())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (HEADER, new_id().encode()),
            NOSNIFF,
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def cut(self) -> None:
        """End the connection now."""
        if self._timer is not None and self.conn.trailing_data[0]:
            why = f"a request's head did not arrive within {self._all.head_timeout:g} s, or others wanted its place"
            self._all.on_cut(self.address, "head_timeout", why)
        self._stop_waiting()
        self.connections.discard(self)
        self.transport.abort()

    def _look(self) -> None:
        """Begin or end to wait, as it is now."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._all.waiting[self] = None
        self._timer = self.loop.call_later(self._all.head_timeout, self.cut)

    def _stop_waiting(self) -> None:
        self._all.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
