"""``flexspec-cloud`` whose forwards take longer: a bigger or busier target, as its users would meet it.

    python -m lab.slowed MS …arguments of flexspec-cloud…

Every forward takes MS milliseconds more, whatever shares it, as the weights of a bigger model are
read once for all rows of a forward. Its decisions are the same.
"""

import sys
import time
from collections.abc import Sequence

import torch

from cloud_worker.__main__ import main
from cloud_worker.engine import engine
from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.models.runner import ModelInput


def slow_down(seconds: float) -> None:
    """Have every engine of this process take so much longer for a forward."""

    class SlowEngine(ModelEngine):
        def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
            logits = super().forward(inputs)
            time.sleep(seconds)
            return logits

    vars(engine)["ModelEngine"] = SlowEngine


if __name__ == "__main__":
    if float(sys.argv[1]) > 0.0:
        slow_down(float(sys.argv[1]) / 1000.0)
    sys.exit(main(sys.argv[2:]))
