"""llama.cpp's own server with a slot for each session, asked over HTTP by as many clients at once."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flexspec_mq.errors import FlexSpecError
from lab.testbed.site.process import Process, pinned, running
from lab.testbed.site.topology import free_port

_STARTS_WITHIN = 60.0
_ANSWERS_WITHIN = 300.0


class LlamaServer:
    """One that runs; `serving` starts it."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, list[list[int]]]:
        """Write a text of so many tokens to each prompt, greedily, all at once: seconds, texts.

        Every slot reads its prompt before, so that only writing counts.
        """
        await self._all(prompts, 1)
        began = time.perf_counter()
        texts = await self._all(prompts, tokens)
        return time.perf_counter() - began, texts

    async def _all(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(prompts)) as clients:
            asked = [
                loop.run_in_executor(clients, self._ask, slot, prompt, tokens)
                for slot, prompt in enumerate(prompts)
            ]
            return list(await asyncio.gather(*asked))

    def _ask(self, slot: int, prompt: Sequence[int], tokens: int) -> list[int]:
        body = {
            "prompt": list(prompt),
            "n_predict": tokens,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "ignore_eos": True,
            "cache_prompt": True,
            "id_slot": slot,
            "return_tokens": True,
        }
        answer = _post(f"{self._address}/completion", body)
        found: list[int] = answer["tokens"]
        if len(found) != tokens:
            raise FlexSpecError(f"llama-server wrote {len(found)} tokens, not {tokens}")
        return found


@asynccontextmanager
async def serving(
    binary: str, model: Path, *, slots: int, room: int, core: int
) -> AsyncIterator[LlamaServer]:
    """A server on one core, with one thread, for as long as the block lasts.

    Args:
        binary: the program.
        model: a GGUF file.
        slots: sessions at once.
        room: tokens of each, prompt included.
        core: which.
    """
    port = free_port()
    command = [binary, "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", "1", "-tb", "1", "-np", str(slots), "-c", str(slots * room), "-ngl", "0"]
    async with running("llama-server", pinned(core, command)) as process:
        address = f"http://127.0.0.1:{port}"
        await _healthy(process, address)
        yield LlamaServer(address)


async def _healthy(process: Process, address: str) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            await asyncio.to_thread(_get, f"{address}/health")
        except OSError:
            if not process.runs or time.monotonic() > until:
                raise FlexSpecError("llama-server does not start", hint=process.said[-2000:]) from None
            await asyncio.sleep(0.2)
        else:
            return


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own address
        return bytes(answer.read())


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  our own address
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN) as answer:  # noqa: S310
        found: dict[str, Any] = json.loads(answer.read())
    return found
