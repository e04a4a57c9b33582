"""The run's own texts and drafts, and what forwards take here: recorded once, before anything is measured."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import FlexSpecError
from lab.bench.hindsight.order import Order
from lab.simulator.cost import Measured, read_times
from lab.simulator.recording import Recording, read_recording
from lab.testbed.site.process import pinned, python
from lab.testbed.site.topology import NO_FILE, Cores

RECORDING, TIMES, _ORDER = "recording.json", "times.json", "order.json"
"""In the folder of a run."""


def recorded(folder: Path, order: Order, flags: Sequence[str]) -> tuple[Recording, Measured]:
    """From the run's folder, or made there.

    Args:
        folder: of the run.
        order: what is recorded.
        flags: of the run's workers.

    Raises:
        FlexSpecError: models cannot be loaded or do not go together, or a file is damaged.
    """
    texts, times = folder / RECORDING, folder / TIMES
    if not (texts.exists() and times.exists()):
        with whole(folder / _ORDER) as part:
            part.write_bytes(msgspec.json.encode(order))
        files = map(str, (folder / _ORDER, texts, times))
        command = python("lab.recording", *files, "--worker", "recorded", *flags, *NO_FILE)
        done = subprocess.run(pinned(Cores.of_this_process().cloud, command), check=False)
        if done.returncode:
            raise FlexSpecError(
                "the run's texts could not be recorded", hint="what was said before tells why"
            )
    return read_recording(texts, order.about), read_times(times)
