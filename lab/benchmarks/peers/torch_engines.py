"""Our worker's target, as its daemon loads it, and transformers with its own attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from cloud_worker.engine import target as cloud_target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.models.load import load_target
from flexspec_mq.models.runner import ModelInput, ModelRunner
from lab.benchmarks.peers.interface import Answer, Stopwatch, weights


def our_runner(folder: str, dtype: str) -> ModelRunner:
    """What a worker runs its target with; of it only `forward` and `new_kv` are used here."""
    settings = WorkerSettings(target=folder, worker="bench", dtype=dtype, threads=1)
    return cloud_target.load(settings, _say).model


class Ours:
    """Our worker's runner."""

    def __init__(self, folder: str, dtype: str) -> None:
        self._runner = our_runner(folder, dtype)
        self._held: list[tuple[Any, Sequence[int]]] = []
        self.weight_bytes = weights(Path(folder)) * getattr(torch, dtype).itemsize

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        for text in texts:
            kv = self._runner.new_kv()
            self._runner.forward([ModelInput(kv, text[:length], 0)])
            self._held.append((kv, text[length:]))

    def forward(self, sessions: int, rows: int) -> Answer:
        """See `Engine`."""
        held = self._held[:sessions]
        answer = self._timed([ModelInput(kv, list(later[:rows]), rows) for kv, later in held])
        for kv, _ in held:
            kv.roll_back(kv.length - rows)
        return answer

    def read(self, ids: Sequence[int], rows: int) -> Answer:
        """See `Engine`."""
        return self._timed([ModelInput(self._runner.new_kv(), list(ids), rows)])

    def _timed(self, inputs: list[ModelInput]) -> Answer:
        watch = Stopwatch()
        logits = self._runner.forward(inputs)
        return Answer(*watch.stop(), logits.argmax(-1).tolist())


class Transformers:
    """transformers' own forward with its cache; sessions are the rows of a batch."""

    def __init__(self, folder: str, dtype: str) -> None:
        torch.set_num_threads(1)
        self._model: Any = load_target(folder, dtype=dtype).model
        self._held: dict[int, Any] = {}
        self._texts = torch.empty(0, 0, dtype=torch.int64)
        self._length = 0
        self.weight_bytes = weights(Path(folder)) * getattr(torch, dtype).itemsize

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        self._texts, self._length = torch.tensor(texts), length

    def forward(self, sessions: int, rows: int) -> Answer:
        """See `Engine`."""
        texts, length = self._texts[:sessions], self._length
        with torch.inference_mode():
            if sessions not in self._held:
                self._held[sessions] = DynamicCache(config=self._model.config)
                self._model(texts[:, :length], cache=self._held[sessions], use_cache=True, logits_to_keep=1)
            cache = self._held[sessions]
            watch = Stopwatch()
            logits = self._model(texts[:, length : length + rows], cache=cache, use_cache=True).logits
            spent = watch.stop()
            cache.crop(-rows)
        return Answer(*spent, logits.argmax(-1).flatten().tolist())

    def read(self, ids: Sequence[int], rows: int) -> Answer:
        """See `Engine`."""
        with torch.inference_mode():
            watch = Stopwatch()
            logits = self._model(torch.tensor([list(ids)]), use_cache=True, logits_to_keep=rows).logits
            return Answer(*watch.stop(), logits[0].argmax(-1).tolist())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
