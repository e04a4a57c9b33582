"""A client of the edge node's API that notes when each piece of a stream came; and the device's user, as a process.

    python -m lab.bench.client

asks edge nodes over HTTP from their side of a link, one question at a time. A JSON line with `url` and `body` on
standard input is a request; the answer is a JSON line on standard output. A line with only `url` waits until the edge
node there knows a worker; one with `url` and `models` waits until another server there lists its models, for so many
seconds.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2

from schemas.openai import Provisional, unconfirmed

PATIENCE = 600.0
"""Seconds for one answer; the API's own bound is 600."""
_READY_WITHIN = 120.0
"""Seconds for an edge node to hear of a worker."""
TOLD_WITHIN = PATIENCE + 60.0
"""Seconds within which a client tells what came of a question, be it that nothing did."""


@dataclass(slots=True)
class StreamedAnswer:
    """The answer to a request.

    Attributes:
        text: confirmed text.
        provisional: unverified text behind it.
        began, ended: on this process's clock.
        times: when each piece came.
        readable: number of characters of both, and from when on.
        reason: reason of its end, as the API told it.
        usage: figures, as the API told them.
        error: reason of a failure, empty if there was none.
    """

    text: str = ""
    provisional: str = ""
    began: float = 0.0
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    readable: list[tuple[float, int]] = field(default_factory=list)
    reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def seconds(self) -> float:
        """From request to end."""
        return self.ended - self.began

    @property
    def first(self) -> float:
        """Seconds to the first piece; infinite if none came."""
        return self.times[0] - self.began if self.times else float("inf")

    def take(self, piece: str) -> None:
        """Add a confirmed piece, which eats the beginning of the provisional text or, where it differs, all of it."""
        self.text += piece
        self.times.append(time.perf_counter())
        self.unverified(Provisional(0, unconfirmed(self.provisional, piece)))

    def unverified(self, change: Provisional) -> None:
        """Change the provisional text."""
        self.provisional = change.applied(self.provisional)
        self.readable.append((time.perf_counter(), len(self.text) + len(self.provisional)))


def greedy(question: str, tokens: int) -> dict[str, object]:
    """A request of the chat endpoint for so many of the likeliest tokens, whatever they are."""
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "temperature": 0, "max_tokens": tokens, "ignore_eos": True}


async def ask(
    http: httpx2.AsyncClient,
    url: str,
    body: Mapping[str, object],
    *,
    answer: StreamedAnswer | None = None,
    headers: Mapping[str, str] | None = None,
) -> StreamedAnswer:
    """Ask for a text as a stream and read it to its end; errors are noted in the answer.

    Args:
        http: a client without bounds on its connections.
        url: URL of the API, without ``/v1``.
        body: body of the request; with `messages` it goes to the chat endpoint.
        answer: filled as the pieces come, for somebody who watches.
        headers: headers of the request.
    """
    found = StreamedAnswer() if answer is None else answer
    path = "chat/completions" if "messages" in body else "completions"
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    found.began = time.perf_counter()
    try:
        async with (
            asyncio.timeout(PATIENCE),
            http.stream("POST", f"{url}/v1/{path}", json=asked, headers=headers) as response,
        ):
            if response.status_code != 200:
                found.error = f"{response.status_code}: {(await response.aread()).decode()[:300]}"
            else:
                await _read(response, found)
    except (httpx2.HTTPError, TimeoutError, ValueError) as error:  # a line that breaks off is no JSON
        found.error = repr(error)
    found.ended = time.perf_counter()
    return found


async def ask_all(
    http: httpx2.AsyncClient, urls: Sequence[str], bodies: Sequence[Mapping[str, object]]
) -> list[StreamedAnswer]:
    """Ask for all at once, at the APIs in turn."""
    return await asyncio.gather(
        *(ask(http, urls[number % len(urls)], body) for number, body in enumerate(bodies))
    )


def unbounded(kept: int = 64) -> httpx2.AsyncClient:
    """A client with as many connections as there are requests.

    Args:
        kept: connections to keep for later requests. A server ends those that were idle for some seconds, and a
            request that begins just then fails.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=kept)
    return httpx2.AsyncClient(timeout=httpx2.Timeout(PATIENCE, connect=30.0), limits=limits)


async def _read(response: httpx2.Response, found: StreamedAnswer) -> None:
    done = False
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            found.error = json.dumps(event["error"])
            return
        if event.get("usage"):
            found.usage = event["usage"]
        for choice in event["choices"]:
            if piece := _shown(choice):
                found.take(piece)
            found.reason = choice.get("finish_reason") or found.reason
        if (unverified := event.get("flexspec", {}).get("provisional")) is not None:
            found.unverified(Provisional(**unverified))
    if not done:
        found.error = "the stream ended without [DONE]"


def _shown(choice: dict[str, Any]) -> str:
    """Text of a piece; of a call of a tool its name and arguments."""
    delta = choice.get("delta", {"content": choice.get("text")})
    calls = (call["function"] for call in delta.get("tool_calls") or ())
    return (delta.get("content") or "") + "".join(
        (call.get("name") or "") + (call.get("arguments") or "") for call in calls
    )


async def carry_out(http: httpx2.AsyncClient, order: dict[str, Any]) -> dict[str, Any]:
    """Do what one line orders."""
    if "models" in order:
        return {"models": await _models(http, order["url"], order["models"])}
    if "body" not in order:
        return {"ready": await _ready(http, order["url"])}
    found = await ask(http, order["url"], order["body"])
    return {**asdict(found), "seconds": found.seconds, "first": found.first if found.times else None}


async def _ready(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        async with asyncio.timeout(_READY_WITHIN):
            while (await http.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110  another process knows
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def _names(page: httpx2.Response) -> list[str]:
    try:
        return [str(one["id"]) for one in page.json()["data"]]
    except (ValueError, LookupError, TypeError):
        return []  # whatever it is that answers here, it is no such list


async def _models(http: httpx2.AsyncClient, url: str, within: float) -> list[str]:
    """Names of what a server serves; none if it does not say so in time, or says something else."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    page = await http.get(f"{url}/v1/models")
                    if page.status_code == 200:
                        return _names(page)
                await asyncio.sleep(0.2)
    return []


async def main() -> None:
    """Answer lines until standard input ends."""
    loop = asyncio.get_running_loop()
    # Another edge node's answer may take as long as a server waits for a connection to be used again.
    async with unbounded(kept=0) as http:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            sys.stdout.write(json.dumps(await carry_out(http, json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
