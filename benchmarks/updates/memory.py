"""What a worker takes with the base alone, and with versions beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from benchmarks.serve.client import ask, unbounded
from benchmarks.serve.daemons import settled
from benchmarks.serve.texts import Asked
from benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, place
from flexspec_mq.errors import FlexSpecError


async def memory(asked: Sequence[Asked], say: Callable[[str], None]) -> dict[str, int]:
    """Resident bytes of a worker that has written all of `asked` at once with each of its versions.

    The five versions are the base, which is one, and the four heads that ship; they are then loaded.

    Raises:
        FlexSpecError: a text failed.
    """
    async with place() as here, unbounded() as http:
        worker, edge = await asyncio.gather(here.worker("w1"), here.edge("e1"))

        async def write(names: Sequence[str]) -> int:
            bodies = [{**one.body(), "model": f"{FAMILY}:{name}"} for name in names for one in asked]
            for start in range(0, len(bodies), 16):
                answers = await asyncio.gather(
                    *(ask(http, edge.url, body) for body in bodies[start : start + 16])
                )
                if errors := [one.error for one in answers if one.error]:
                    raise FlexSpecError(f"{len(errors)} texts failed", hint=errors[0])
            return (await settled(worker)).memory

        say("the base alone writes")
        found = {"base": await write(["v0"]), "base, the same texts again": await write(["v0"] * 4)}
        names = ["v0"]
        for number, head in enumerate(HEADS, 1):
            names.append(f"v{number}")
            await here.operator.publish(names[-1], EXAMPLES / head, "--share", "1")
            await here.holds(["w1"], names[-1])
        say(f"{len(names)} versions write")
        found[f"{len(names)} versions"] = await write(names)
    heads = sum(file.stat().st_size for head in HEADS for file in (EXAMPLES / head).glob("*.safetensors"))
    return found | {"files of the heads": heads}
