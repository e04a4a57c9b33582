"""What a worker takes with the base alone, and with versions beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flexspec_mq.errors import FlexSpecError
from lab.bench.testbed.client import ask, unbounded
from lab.benchmarks.serve.daemons import settled
from lab.benchmarks.serve.texts import Asked
from lab.benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, place


async def memory(asked: Sequence[Asked], say: Callable[[str], None]) -> dict[str, int]:
    """Resident bytes of a worker with the base alone and of one with five versions, before and after texts.

    Both write all of `asked`, which are different texts: the worker keeps what it has computed of each. The five
    versions, which are the base and the four heads that ship, write a fifth of them each.

    Raises:
        FlexSpecError: a text failed.
    """
    found: dict[str, int] = {}
    async with place() as here, unbounded() as http:
        names = ["v0"]
        for name in ("base", "5 versions"):
            if name != "base":
                for number, head in enumerate(HEADS, 1):
                    names.append(f"v{number}")
                    await here.operator.publish(names[-1], EXAMPLES / head, "--share", "1")
            worker, edge = await asyncio.gather(here.worker(f"w{len(names)}"), here.edge(f"e{len(names)}"))
            for version in names:
                await here.holds([worker.name], version)
            found[name] = (await settled(worker)).memory
            say(f"{name}: {len(asked)} texts")
            bodies = [
                {**one.body(), "model": f"{FAMILY}:{names[number % len(names)]}"}
                for number, one in enumerate(asked)
            ]
            for start in range(0, len(bodies), 16):
                part = bodies[start : start + 16]
                answers = await asyncio.gather(*(ask(http, edge.url, body) for body in part))
                if errors := [one.error for one in answers if one.error]:
                    raise FlexSpecError(f"{len(errors)} texts failed", hint=errors[0])
            found[f"{name}, after texts"] = (await settled(worker)).memory
            await worker.process.end()
    heads = sum(file.stat().st_size for head in HEADS for file in (EXAMPLES / head).glob("*.safetensors"))
    return found | {"files of the heads": heads}
