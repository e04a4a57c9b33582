"""Few bits beside the weights of a GGUF file: how far the distributions of the next token are from its own.

The reference is the file as llama.cpp unpacks it, computed in float32. Beside it stand the target in 8-bit integers, in
bfloat16, and llama.cpp's own logits, at every position of the same texts: the mean of KL(reference, other) in nats, and
the share of positions at which both have the same most likely token. Texts are prose, code, questions and calls of
tools from this project, or those of ``--texts``.
"""

from __future__ import annotations

import gc
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from flexspec_mq.errors import UsageError
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.compact.tensors import EMBEDDING, HEAD, NORM, read_exact_layer
from flexspec_mq.models.gguf.convert import gguf_tensors
from flexspec_mq.models.invariance.product_probe import Products
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.load import LoadedText, find_model, load_text
from flexspec_mq.models.matrices import Plain
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.shape import Shape
from lab.benchmarks._common import finish, parser, program, say, table

_ROOT = Path(__file__).resolve().parents[2]
OWN = tuple(
    _ROOT / name
    for name in ("docs/protocol.md", "edge_node/node.py", "lab/bench/prompts.jsonl", "lab/bench/calls.jsonl")
)
_WINDOW = 250
"""Tokens that are read from nothing, with logits behind each."""

Read = Callable[[list[int]], torch.Tensor]
"""Logits of a text's tokens, float32 [tokens, vocabulary]."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--target", type=Path, required=True, metavar="FILE", help="a GGUF file")
    made.add_argument(
        "--texts", type=Path, nargs="+", default=OWN, metavar="FILE", help="a kind of text each"
    )
    made.add_argument("--tokens", type=int, default=1250, help="of each kind")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--llama", action="store_true", help="beside llama.cpp (extra `engines`)")
    return made


def reference(path: Path, text: LoadedText) -> Read:
    """The weights of a GGUF file in float32, as they are unpacked."""
    tensors, shape, like = gguf_tensors(path), Shape.from_config(text.config), torch.empty(0)
    embedding = tensors.read(EMBEDDING, (shape.vocab_size, shape.width)).float()
    last = embedding if shape.tied else tensors.read(HEAD, (shape.vocab_size, shape.width)).float()
    make = lambda weight, bias: Plain(weight.float(), None if bias is None else bias.float())  # noqa: E731
    layers = [read_exact_layer(tensors, index, shape, make, like) for index in range(shape.layers)]
    norm = tensors.read(NORM, (shape.width,)).float()
    embed = lambda ids: functional.embedding(torch.tensor(ids), embedding)  # noqa: E731
    shapes = Shapes(1, None, 1, 64, 64)  # bits are of no matter here
    return _reader(
        ExactModel(shape, layers, embed, norm, Plain(last), Products((), Plain), shapes, make, tensors.names)
    )


def _ours(path: Path, text: LoadedText, weights: str) -> Read:
    source = path if weights == "int8" else find_model(str(path), progress=say)
    assert isinstance(source, Path)
    return _reader(Checkpoint(source, text, torch.bfloat16, weights, say=say).load())


def _reader(model: ExactModel) -> Read:
    return lambda ids: model.forward([ModelInput(model.new_kv(), ids, len(ids))]).float()


def _llama(path: Path, threads: int) -> Read:
    from lab.benchmarks.peers.llama_engine import LlamaCpp

    engine = LlamaCpp(str(path), _WINDOW, threads)
    return lambda ids: torch.from_numpy(engine.logits(ids))


def windows(text: LoadedText, path: Path, tokens: int) -> Iterator[list[int]]:
    """Cut the beginning of a file into windows.

    Raises:
        UsageError: it has too few tokens.
    """
    ids = text.tokenizer.encode(path.read_text("utf-8"))[:tokens]
    if len(ids) < tokens:
        raise UsageError(f"{path} has {len(ids)} tokens", hint="name a longer one, or fewer --tokens")
    return (ids[begin : begin + _WINDOW] for begin in range(0, tokens, _WINDOW))


def compared(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, int]:
    """Sum of KL(reference, other) over positions, in nats, and number of equal first choices.

    Args:
        reference: logits, floating point [positions, vocabulary].
        other: likewise.
    """
    theirs = functional.log_softmax(other.double(), dim=1)
    wanted = functional.log_softmax(reference.double(), dim=1)
    lost = functional.kl_div(theirs, wanted, reduction="sum", log_target=True)
    return float(lost), int((reference.argmax(1) == other.argmax(1)).sum())


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    path = options.target.expanduser()
    if not path.is_file():
        raise UsageError(f"{path} is no file", hint="few bits are compared with the weights of a GGUF file")
    if options.quick:
        options.tokens = _WINDOW
    text = load_text(str(path), progress=say)
    kinds = {file.name: list(windows(text, file, options.tokens)) for file in options.texts}
    others: dict[str, Callable[[], Read]] = {
        "8-bit integers": lambda: _ours(path, text, "int8"),
        "bfloat16": lambda: _ours(path, text, "native"),
    }
    if options.llama:
        others["llama.cpp"] = lambda: _llama(path, options.threads)
    say("reading the texts with the reference")
    read = reference(path, text)
    wanted = {kind: [read(ids) for ids in parts] for kind, parts in kinds.items()}
    del read
    results: dict[str, dict[str, tuple[float, float]]] = {}
    for name, load in others.items():
        gc.collect()
        say(f"reading the texts with {name}")
        read = load()
        for kind, parts in kinds.items():
            found = [compared(mine, read(ids)) for mine, ids in zip(wanted[kind], parts, strict=True)]
            lost, equal = (sum(column) / options.tokens for column in zip(*found, strict=True))
            results.setdefault(name, {})[kind] = lost, equal
        del read
    print(f"{options.tokens} tokens of each kind; mean KL to {path.name} in float32 / equal first choices")
    rows = []
    for name, figures in results.items():
        means = [sum(column) / len(figures) for column in zip(*figures.values(), strict=True)]
        rows.append([name, *(f"{lost:.4f} / {equal:.3f}" for lost, equal in (*figures.values(), means))])
    print(table(["", *kinds, "all"], rows))
    finish("quality", {"target": path.name, "tokens": options.tokens, "kl": results}, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
