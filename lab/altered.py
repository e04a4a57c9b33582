"""``flexspec-cloud`` with another target or engine than its users have, whose texts are the same.

    python -m lab.altered MS …arguments of flexspec-cloud…
    python -m lab.altered unforced …arguments of flexspec-cloud…

Every forward takes MS milliseconds more, whatever shares it, as the weights of a bigger or busier model are read once
for all rows of a forward. Or each token is decided by a forward, where a grammar leaves no choice as well, which tells
what runs without forwards are worth.
"""

import sys
import time
from collections.abc import Sequence

import torch

from cloud_worker.__main__ import main
from cloud_worker.engine import engine
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.grammars import TextGrammars
from flexspec_mq.models.runner import ModelInput


def slow_down(seconds: float) -> None:
    """Have every engine of this process take so much longer for a forward."""

    class SlowEngine(ModelEngine):
        def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
            logits = super().forward(inputs)
            time.sleep(seconds)
            return logits

    vars(engine)["ModelEngine"] = SlowEngine


def decide_all() -> None:
    """Have the engines of this process take nothing as forced."""
    vars(TextGrammars)["forced"]  # it must be there
    setattr(TextGrammars, "forced", lambda *_args: ())  # noqa: B010  mypy would compare their types


if __name__ == "__main__":
    if sys.argv[1] == "unforced":
        decide_all()
    elif float(sys.argv[1]) > 0.0:
        slow_down(float(sys.argv[1]) / 1000.0)
    sys.exit(main(sys.argv[2:]))
