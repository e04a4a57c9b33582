"""A server with the chat endpoint that knows nothing of us: says the words of the question one after the other.

    python other_server.py HOST PORT [page | silent | late | broken | torn]

`page` lists no models but shows a page, `silent` does not tell how much it wrote, `late` loads for a second first,
`broken` ends the connection within a chunk of the stream, `torn` the stream within a line.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "words"
LOADED = time.monotonic() + 1.0


async def models(_request: Request) -> Response:
    """All of them."""
    if "late" in sys.argv and time.monotonic() < LOADED:
        return Response("loading", 503)
    if "page" in sys.argv:
        return Response("<p>welcome</p>")
    return JSONResponse({"data": [{"id": MODEL, "object": "model"}]})


async def chat(request: Request) -> StreamingResponse:
    """As a stream."""
    asked = await request.json()
    if asked["model"] != MODEL:
        return StreamingResponse(iter(()), 404)
    words = asked["messages"][-1]["content"].split()
    sys.stdout.write(f"asked for {words}\n" * 5_000)

    async def pieces() -> AsyncIterator[str]:
        for word in words:
            yield _event({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]})
            if "broken" in sys.argv:
                os._exit(1)
            if "torn" in sys.argv:
                yield 'data: {"choi'
                return
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if "silent" not in sys.argv:
            yield _event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(words)}})
        yield "data: [DONE]\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


def _event(content: object) -> str:
    return f"data: {json.dumps(content)}\n\n"


if __name__ == "__main__":
    routes = [Route("/v1/models", models), Route("/v1/chat/completions", chat, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), host=sys.argv[1], port=int(sys.argv[2]))
