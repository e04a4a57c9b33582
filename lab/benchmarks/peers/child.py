"""One engine in a process of its own, asked by JSON lines.

Its argument is a JSON object with `name`, `kind`, `form`, `folder`, `cache` and `draft`. It
says first what its weights take, then answers every line; what libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.benchmarks.peers.figures import PREFILL
from lab.benchmarks.peers.interface import CannotDoError, Engine


def make(spec: dict[str, Any]) -> Engine:
    """Load the engine, converting the checkpoint first where that was not done before."""
    kind, form, folder = spec["kind"], spec["form"], spec["folder"]
    if kind == "ours":
        from lab.benchmarks.peers.torch_engines import Ours

        return Ours(folder, form)
    if kind == "transformers":
        from lab.benchmarks.peers.torch_engines import Transformers

        return Transformers(folder, form)
    if kind == "openvino":
        from lab.benchmarks.peers.openvino_engine import OpenVino

        return OpenVino(folder, form)
    if kind == "llama.cpp":
        from lab.benchmarks.peers.llama_engine import LlamaCpp

        return LlamaCpp(str(gguf(Path(folder), Path(spec["cache"]), form)), PREFILL)
    if kind == "onnxruntime-genai":
        from lab.benchmarks.peers.genai_engine import GenAi, build

        path = converted(Path(spec["cache"]) / f"genai-{form}", lambda path: build(Path(folder), path))
        return GenAi(str(path), folder, PREFILL)
    raise ValueError(f"there is no engine {kind}")


def gguf(folder: Path, cache: Path, form: str) -> Path:
    """The checkpoint as a GGUF file."""

    def write(path: Path) -> None:
        from lab.benchmarks.peers.gguf_file import write_gguf

        write_gguf(folder, path, form)

    return converted(cache / f"{form}.gguf", write)


def converted(path: Path, write: Callable[[Path], None]) -> Path:
    """What `write` makes, made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return path


def answers(spec: dict[str, Any]) -> tuple[int, Callable[[str, dict[str, Any]], Any]]:
    """Load what a specification names: bytes of its weights, and what does as a line asks."""
    if spec["kind"] == "memory":
        from lab.benchmarks.peers.memory import Memory

        memory = Memory()
        return 0, lambda _what, _given: memory.speed()
    if spec["kind"] == "rounds":
        from lab.benchmarks.peers.our_rounds import OurRounds

        rounds = OurRounds(spec["folder"], spec["form"], spec["draft"])
        return 0, lambda _what, given: asdict(rounds.run(**given))
    engine = make(spec)

    def do(what: str, given: dict[str, Any]) -> Any:
        if what == "hold":
            return engine.hold(**given)
        return asdict(engine.forward(**given) if what == "forward" else engine.read(**given))

    return engine.weight_bytes, do


def main() -> None:
    """Load, then answer until standard input ends."""
    spec = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    weight_bytes, do = answers(spec)
    say({"weight_bytes": weight_bytes})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say({"is": do(asked["do"], asked["with"])})
        except CannotDoError as error:
            say({"cannot": str(error)})


if __name__ == "__main__":
    main()
