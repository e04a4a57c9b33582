"""Load on a real worker: the generator's process beside it, as its parent sees it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.replay.orders import LONGEST_ANSWER, Devices, Ready, answer
from lab.testbed.site.process import READY_WITHIN, Process, pinned, python
from lab.testbed.site.topology import Site


async def generator(
    here: Site, recording: Path, *, count: int, token_ms: float, hasty: int = 0, prefix: str = "d"
) -> Process:
    """Start edge nodes that replay drafts and wait until all are connected.

    They compute on the devices' core. A link is not theirs: other devices have links of their own.

    Args:
        here: with a broker.
        recording: file.
        count: edge nodes.
        token_ms: that a drafted token takes each.
        hasty: more edge nodes, whose drafts take no time.
        prefix: of their names.

    Raises:
        FlexSpecError: it did not start; says why.
    """
    devices = Devices(
        host=here.host,
        port=here.port,
        recording=str(recording),
        count=count,
        token_ms=token_ms,
        hasty=hasty,
        prefix=prefix,
    )
    command = python("lab.benchmarks.replay.generator", msgspec.json.encode(devices).decode())
    if here.link is not None:
        command = [*here.link.inside("b", command)]
    made = await here.processes.start(
        f"generator {prefix}",
        command if here.cores is None else pinned(here.cores.device, command),
        with_us=here.with_us,
        longest_line=LONGEST_ANSWER,
    )
    found = await answer(made, READY_WITHIN)
    if not isinstance(found, Ready):
        raise FlexSpecError(f"a generator answered {found}")
    return made
