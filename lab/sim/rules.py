"""Rules that hold at the end of each history, without faults any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flexspec_mq import entropy, waiting

if TYPE_CHECKING:
    from lab.sim.users import User
    from lab.sim.world import World

PROGRESS = 300.0
"""Seconds without a fault within which every request is answered: opens are spaced out, and workers may be full."""


async def settled(world: World, users: list[User]) -> None:
    """Wait until all users have what they asked for, and all nodes have given back what they held."""
    history = world.history
    for user in users:
        user.hurry = True
    if users:
        _, late = await asyncio.wait([user.task for user in users], timeout=PROGRESS)
        for user in users:
            if user.task in late:
                failures = [why for _, why in user.promise.failures[-1:]]
                history.broken(
                    f"text {user.ask.number} is not answered within {PROGRESS:.0f} s of a healthy system {failures}"
                )
                user.task.cancel()
    await _given_back(world)


async def _given_back(world: World) -> None:
    ends = entropy.now() + 2 * waiting.LEASE + 60.0
    while (held := _held(world)) and entropy.now() < ends:  # noqa: ASYNC110  many things end it
        await asyncio.sleep(5.0)
    for what in held:
        world.history.broken(f"never given back: {what}")


def _held(world: World) -> list[str]:
    held = [f"{node.sessions} sessions at {name}" for name, node in world.workers.items() if node.sessions]
    for name, worker in world.workers.items():
        if worker.engine.held and worker.up.is_set():
            held.append(f"{len(worker.engine.held)} sessions of the engine of {name}")
    for name, device in world.devices.items():
        if device.sessions:
            held.append(f"{device.sessions} sessions at {name}")
        if device.drafter.held:
            held.append(f"{len(device.drafter.held)} sessions of the drafter of {name}")
        if device.texts is not None and len(device.texts):
            held.append(f"{len(device.texts)} texts at {name}")
    return held
