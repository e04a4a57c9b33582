"""``flexspec-cloud`` that also writes down what shared each forward: four bytes, then the forward runs.

    python -m lab.benchmarks.exact.worker TRACE …arguments of flexspec-cloud…

The bytes are sessions, those of them whose prefix was cut and goes on in a later forward, tokens that were drafted
(255 at most), and those of them that the worker drafted. They go to the kernel before the forward, so they survive
SIGKILL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cloud_worker.__main__ import main
from cloud_worker.engine import engine
from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.models.runner import ModelInput

_RECORD = 4


@dataclass(frozen=True, slots=True)
class Trace:
    """Work of workers.

    Attributes:
        forwards: run.
        shared: forwards with more than one session.
        sessions: sessions in all forwards together.
        most: sessions in one forward.
        cuts: prefixes that a forward read only in part.
        own: tokens that the workers drafted themselves.
    """

    forwards: int
    shared: int
    sessions: int
    most: int
    cuts: int
    own: int

    @classmethod
    def read(cls, files: Sequence[Path]) -> Trace:
        """Add up the files of several workers."""
        data = b"".join(file.read_bytes() for file in files if file.exists())
        sessions, cuts, own = data[0::_RECORD], data[1::_RECORD], data[3::_RECORD]
        shared = sum(n > 1 for n in sessions)
        return cls(len(sessions), shared, sum(sessions), max(sessions, default=0), sum(cuts), sum(own))


def trace_to(path: str) -> None:
    """Have every engine of this process write to `path`."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class TracedEngine(ModelEngine):
        def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
            cut = sum(not model_input.rows for model_input in inputs)
            drafted = sum(model_input.rows - 1 for model_input in inputs if model_input.rows)
            own = 0 if self.drafts is None else self.drafts.drafted
            os.write(out, bytes((len(inputs), cut, min(drafted, 255), min(own, 255))))
            return super().forward(inputs)

    vars(engine)["ModelEngine"] = TracedEngine


if __name__ == "__main__":
    trace_to(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
