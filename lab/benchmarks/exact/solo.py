"""The worker's own forward, one session, one token at a time, in a process of its own.

The second-best reference, for contexts above 1,024 positions, where transformers' ``eager`` attention changes its
sums with the length. A program like `reference`, with the same lines in and out::

    python -m lab.benchmarks.exact.solo FOLDER DTYPE
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput, to_numpy
from lab.benchmarks.exact.dice import choose
from lab.benchmarks.exact.reference import ReferenceText, Text


def write(model: PackedModel, text: Text) -> ReferenceText:
    """Write a text: the prompt in one forward, then token by token, nothing else in any of them."""
    kv = model.new_kv()
    written = ReferenceText(text.number, [], "")
    model_input = ModelInput(kv, text.prompt)
    while not written.reason:
        logits = to_numpy(model.forward([model_input]))[0]
        written.tokens.append(choose(logits, text.dice, len(text.prompt) + len(written.tokens)))
        written.reason = text.finish(written.tokens) or ""
        model_input = ModelInput(kv, written.tokens[-1:])
    return written


def main() -> None:
    """Answer texts, one JSON line each, until standard input ends."""
    folder, dtype = sys.argv[1:]
    torch.set_num_threads(1)
    model = PackedModel(load_target(folder, dtype=dtype, attn_implementation=register()).model)
    for line in sys.stdin:
        written = write(model, Text.from_object(json.loads(line)))
        sys.stdout.write(json.dumps(asdict(written)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
