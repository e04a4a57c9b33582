"""A target in 8-bit integers on its own: a prompt, then one new row in each forward, no other text beside it.

No other program has these numbers, so the forward is that of the worker's engine; how tokens are chosen is written a
second time, as for `reference`, whose program this stands in for::

    python -m lab.benchmarks.exact.one_row FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.load import load_text
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks.exact.reference import GrammarMask, ReferenceText, Text, answer
from lab.benchmarks.exact.sampling import choose, penalized


class OneRow:
    """The target on its own.

    Args:
        path: GGUF file, which workers run in 8-bit integers.
    """

    def __init__(self, path: str) -> None:
        text = load_text(path)
        source: Any = text.source
        self._tokenizer_json = (source / "tokenizer.json").read_text("utf-8")
        self._model = Checkpoint(Path(path), text, torch.bfloat16, "int8").load()

    def write(self, text: Text) -> ReferenceText:
        """Write a text."""
        written = ReferenceText(text.number, [], "")
        mask = GrammarMask(self._tokenizer_json, text) if text.grammar else None
        kv = self._model.new_kv()
        *before, newest = text.prompt
        if before:
            self._model.forward([ModelInput(kv, before, 0)])
        while not written.reason:
            row = self._model.forward([ModelInput(kv, [newest], 1)])[0].float().numpy()
            if mask is not None:
                row = mask.apply(row, written.tokens[-1:])
            row = penalized(row, text.sampling, text.prompt, written.tokens)
            newest = choose(row, text.sampling, len(text.prompt) + len(written.tokens))
            written.tokens.append(newest)
            written.reason = text.finish(written.tokens) or ""
        return written


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(OneRow(sys.argv[1]).write)
