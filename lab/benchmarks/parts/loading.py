"""Load a draft as an edge node does, draft a little, in a process that imports nothing else, and say what that took.

``python -m lab.benchmarks.parts.loading FOLDER ENGINE`` prints one JSON object. The engine ``none`` loads only
what texts need.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.drafting.model_drafter import ModelDrafter

_SIZES = ("VmHWM", "VmRSS", "RssAnon")


def sizes(process: int | str = "self") -> dict[str, float]:
    """MB of a process: the most that was resident, what is now, and of that what is no file's. Linux only."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    found = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) / 1024 for name, _, rest in found if name in _SIZES}


def _draft(drafter: ModelDrafter) -> None:
    """A text of 100 tokens, and 20 more."""
    from flexspec_mq.drafting.interface import DraftRequest
    from schemas.messages import Identity

    greedy = Identity(1, bytes(16), 0.0, 0, 1.0, 0, (), False, 20)
    context = list(range(100, 200))
    while len(context) < 120:
        drafted = drafter.draft([DraftRequest(1, context, greedy, len(context))])[0]
        context += [one.token for one in drafted or ()]


def main(folder: str, engine: str) -> None:
    """Load and print."""
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting import load as draft_model

    if engine == "none":
        settings = EdgeSettings(edge="bench", draft="none", tokenizer=folder)
    else:
        settings = EdgeSettings(edge="bench", draft=folder, draft_engine=engine)
    imported = time.process_time()
    loaded = draft_model.load(settings, lambda _text: None)
    took = time.process_time() - imported
    if loaded.model is not None:  # weights that are mapped take room only when they are read
        _draft(loaded.model)
    print(json.dumps({"engine": loaded.engine, "cpu_s": imported + took, "load_cpu_s": took, "mb": sizes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
