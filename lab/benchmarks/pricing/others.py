"""Other sessions that load the worker while an answer is measured: replayed edges with the measured one's plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from edge_node.cli.parser import build_parser
from edge_node.config import from_arguments
from edge_node.settings import PlanOptions
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.replay.orders import Order, Writer, Written, answer
from lab.testbed.site.process import Process
from lab.testbed.site.topology import NO_FILE

_ENDS_WITHIN = 120.0
"""Seconds for the sessions to end when the answer is there."""


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """What an edge node's flags say of its sessions.

    Attributes:
        version: that it asks for.
        plan: of its drafts.
    """

    version: str
    plan: PlanOptions


def plan_of(flags: Sequence[str]) -> EdgePlan:
    """What flags of ``flexspec-edge`` come to.

    Raises:
        UsageError: an impossible value.
    """
    config = from_arguments(build_parser().parse_args(["serve", *flags, *NO_FILE])).settings
    return EdgePlan(config.node.version, config.plan)


class Others:
    """So many sessions, each with one text after the other.

    Args:
        generator: their edges.
        count: how many.
        plans: by the name of the edge node that is measured.
        settle: seconds that they write before the answer is asked for.
        seed: of the order of their texts.
    """

    def __init__(
        self, generator: Process, count: int, plans: Mapping[str, EdgePlan], *, settle: float, seed: int
    ) -> None:
        self._generator = generator
        self._count = count
        self._plans = plans
        self._settle = settle
        self._seed = seed

    @asynccontextmanager
    async def beside(self, edge: str) -> AsyncIterator[None]:
        """They write inside the block, as this edge node does.

        Raises:
            FlexSpecError: one of their texts is not what the target alone writes; says why.
        """
        wanted = self._plans[edge]
        order = Order(
            version=wanted.version,
            writers=tuple(Writer(edge=number, plan=wanted.plan) for number in range(self._count)),
            seed=self._seed,
            each=None,
        )
        await self._generator.send(msgspec.json.encode(order))
        await asyncio.sleep(self._settle)
        try:
            yield
        finally:
            await self._generator.send(b"")
            found = await answer(self._generator, _ENDS_WITHIN)
        if not isinstance(found, Written):
            raise FlexSpecError(f"a generator answered {found}")
        problems = {run.problem for run in found.runs if run.problem}
        if problems:
            raise FlexSpecError(f"texts of others beside {edge}: {'; '.join(sorted(problems))}")
