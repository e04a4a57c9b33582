"""An engine in a process of its own, asked by JSON lines.

Its arguments are kind, number format, and folder or file. It answers every line; what libraries print goes to standard
error.
"""

import json
import os
import sys

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

    kind, form, path = sys.argv[1:]
    engine = load_engine(kind, form, path)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(engine, asked["do"])(**asked["with"])
        out.write(json.dumps({"ms": None if answer is None else answer.ms}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
