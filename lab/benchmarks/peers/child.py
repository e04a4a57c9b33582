"""An engine in a process of its own, asked by JSON lines.

Its argument is a JSON object with `kind`, `form`, `folder` and `cache`. It says first what its weights take, then
answers every line; what libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.benchmarks.peers.engines import Engine, Ours, Transformers


def make(spec: dict[str, Any], longest: int = 512) -> Engine:
    """Load the engine, converting the checkpoint first where that was not done before."""
    kind, form, folder = spec["kind"], spec["form"], spec["folder"]
    if kind == "ours":
        return Ours(folder, form)
    if kind == "transformers":
        return Transformers(folder, form)
    if kind == "llama.cpp":
        from lab.benchmarks.peers.gguf_file import write_gguf
        from lab.benchmarks.peers.llama_engine import LlamaCpp

        path = Path(spec["cache"]) / f"{form}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_gguf(Path(folder), path, form)
        return LlamaCpp(str(path), longest)
    raise ValueError(f"there is no engine {kind}")


def main() -> None:
    """Load, then answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    engine = make(json.loads(sys.argv[1]))
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
