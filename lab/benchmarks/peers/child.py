"""An engine in a process of its own, asked by JSON lines.

Its arguments are kind, number format, and folder or file. It says first what its weights take, then answers every
line; what libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from lab.benchmarks.peers.engines import Engine, Ours, Transformers


def load_engine(kind: str, form: str, path: str, longest: int = 512) -> Engine:
    """Load an engine of a kind."""
    if kind == "ours":
        return Ours(path, form)
    if kind == "transformers":
        return Transformers(path, form)
    if kind == "llama.cpp":
        from lab.benchmarks.peers.llama_engine import LlamaCpp

        return LlamaCpp(path, longest)
    raise ValueError(f"there is no engine {kind}")


def main() -> None:
    """Load, then answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    kind, form, path = sys.argv[1:]
    engine = load_engine(kind, form, path)
    tell({"weight_bytes": engine.weight_bytes})
    for line in sys.stdin:
        asked = json.loads(line)
        what, given = asked["do"], asked["with"]
        if what == "hold":
            engine.hold(**given)
            tell({"is": None})
        else:
            tell({"is": asdict(engine.forward(**given) if what == "forward" else engine.read(**given))})


if __name__ == "__main__":
    main()
