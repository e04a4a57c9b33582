"""What cannot be measured apart: how much slower daemons compute than a loop alone, and what a request takes an edge.

Both are fitted to the medians of one side over loopback, streaming, which drafts nothing and has no link. All else
that is simulated follows from what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from lab.benchmarks.simulated.side import answers_of
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording

_TURNS = 4
"""Of fitting: a request's time is seen only with the reading of a prompt."""


def fitted(times: Measured, recording: Recording, run: Mapping[str, Any], side: str, link: str) -> Measured:
    """The times with which a side's medians are those of a run.

    Args:
        times: measured.
        recording: of the questions of the run.
        run: results of `lab.benchmarks.answers`.
        side: that is simulated.
        link: a case of the run without a link.
    """
    case = next(one for one in run["cases"] if one["link"] == link and not one["delay_ms"])
    wanted = case["categories"]["all"][side]
    after = wanted["median_s"] - wanted["median_first_s"]
    for _ in range(_TURNS):
        found = answers_of(case, run["edges"][side], None, recording, times)
        first = float(np.median([one.first for one in found]))
        rest = float(np.median([one.seconds for one in found])) - first
        times = times.slower(after / rest)
        request = times.request + 1000 * (wanted["median_first_s"] - first)
        times = msgspec.structs.replace(times, request=max(0.0, request))
    return times
