"""Seconds an answer over emulated links: an edge node as it comes, beside all that one would use instead of it.

    sudo .venv/bin/python -m lab.benchmarks.answers --links wifi 4g satellite --questions 20 --delays-ms 0 60

This is `flexspec bench` (lab/README.md) with a choice of strategies: the default policy, streaming, streaming with a
draft in the cloud, traditional speculation with whole distributions and with ids, and llama.cpp's server where
``llama-server`` is installed, which answers on channels without a delay. Every other flag of `flexspec bench` is taken,
and wins. The folder of the run is a temporary one unless ``--out`` names it.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import util
from pathlib import Path

from edge_node.settings import PlanOptions
from lab.bench import main as bench
from lab.bench.options import build_parser
from lab.bench.strategies import COLOCATED, STREAMING
from lab.benchmarks._common import program

STRATEGIES = ("traditional", "traditional-ids", STREAMING, COLOCATED, PlanOptions().policy)
LLAMA = "llama-server"
_LLAMA_FLAGS = "--jinja -t 1 -tb 1 --host {host} --port {port}"


@program(extras="models,serve")
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = build_parser()
    parser.prog, parser.description = "python -m lab.benchmarks.answers", (__doc__ or "").partition("\n")[0]
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="flexspec-answers-") as scratch:
        preset = ["--strategies", *STRATEGIES] if options.strategies is None else []
        if options.strategies is None and not options.server:
            command = llama_server(options.target, Path(scratch))
            preset += ["--server", command] if command else []
        return bench.run(["--out", str(Path(scratch) / "run"), *preset, *argv])


def llama_server(target: str, scratch: Path, texts: int = 1) -> str:
    """The command of llama.cpp's server with the target as it is; empty where that is not installed.

    Args:
        target: checkpoint, or 'default'.
        scratch: folder for its weights.
        texts: texts that it may write at a time.
    """
    if shutil.which(LLAMA) is None or util.find_spec("gguf") is None:
        return ""
    return f"{LLAMA} -m {_gguf(target, scratch)} -np {texts} -c {4096 * texts} {_LLAMA_FLAGS}"


def _gguf(target: str, scratch: Path) -> Path:
    """The target as a file for llama.cpp."""
    from flexspec_mq.models.load import find_model
    from lab.benchmarks.peers.gguf_file import write_gguf

    if Path(target).is_file():
        return Path(target)
    file = scratch / "target.gguf"
    write_gguf(Path(find_model(target)), file, "BF16")
    return file


if __name__ == "__main__":
    sys.exit(main())
