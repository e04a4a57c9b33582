"""Runs the features of an example as the runner names them, a JSON line each, and says what became of each."""

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

URL, KEY, MODEL = os.environ["URL"], os.environ["KEY"], os.environ["MODEL"]
"""Root of the server, without ``/v1``; a key; a model."""
_told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # frameworks print


def run(**features: Callable[[], Any]) -> None:
    """Tell which features there are, and run those that are asked for until standard input ends."""
    print(json.dumps({"features": [*features]}), file=_told, flush=True)
    loop = asyncio.Runner()  # one for all: clients keep connections of theirs
    for line in sys.stdin:
        name = json.loads(line)["feature"]
        told: dict[str, str] = {"feature": name}
        try:
            answer = features[name]()
            told["answer"] = repr(loop.run(answer) if inspect.iscoroutine(answer) else answer)[:300]
        except Exception as error:  # noqa: BLE001  whatever a framework raises is the finding
            traceback.print_exc()
            told["error"] = f"{type(error).__name__}: {error}"[:600]
        print(json.dumps(told), file=_told, flush=True)
