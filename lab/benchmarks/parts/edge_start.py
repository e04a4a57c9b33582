"""What an edge node with its draft takes until it is ready, and after a text, beside a broker and a worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flexspec_mq.errors import FlexSpecError
from lab.bench.testbed.client import ask, unbounded
from lab.benchmarks.parts.loading import sizes
from lab.testbed.site.topology import Site

QUESTION = "Explain how a bicycle stays upright, and why it falls when it stands still."


async def edge_start(here: Site, engine: str, folder: Path, target: str, tokens: int) -> dict[str, Any]:
    """Start an edge node, ask it for a text, end it.

    Args:
        here: with a broker and a worker.
        engine: of the draft.
        folder: of the draft.
        target: that the worker serves, as the API calls it.
        tokens: of the text.

    Returns:
        Seconds of the clock and of the processor until it was ready, MB resident and at the peak then and after the
        text, and what became of its drafts.

    Raises:
        FlexSpecError: no text came.
    """
    began = time.perf_counter()
    edge = await here.edge(f"edge-{engine}", "--draft", str(folder), "--draft-engine", engine)
    took = time.perf_counter() - began
    cpu = (await edge.figures())["process_cpu_seconds_total"]
    ready = sizes(edge.process.pid)
    body = {
        "model": target,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": tokens,
    }
    async with unbounded() as http:
        answer = await ask(http, edge.url, body)
    if answer.error:
        raise FlexSpecError(f"the edge node wrote no text: {answer.error}")
    after = sizes(edge.process.pid)
    await edge.process.end()
    return {
        "ready_s": took, "ready_cpu_s": cpu, "ready_mb": ready, "after_mb": after, "usage": answer.usage,
        "seconds": answer.seconds,
    }  # fmt: skip
