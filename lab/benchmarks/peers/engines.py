"""Engines that are compared, each in its own process: what all of them do, ours, and transformers."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from cloud_worker.engine import target as cloud_target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.models.load import load_target
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks._common import say


@dataclass(frozen=True, slots=True)
class TimedForward:
    """Time and result of a forward.

    Attributes:
        ms: time until the logits are at hand.
        best: the most likely id of every row that was asked for.
    """

    ms: float
    best: list[int]


class Stopwatch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> float:
        """Milliseconds since."""
        return 1e3 * (time.perf_counter() - self._began)


class Engine(Protocol):
    """A model that runs on one thread."""

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """Give each text a session that holds its first `length` tokens. All texts are equally long."""
        ...

    def forward(self, sessions: int, rows: int) -> TimedForward:
        """Read the next `rows` tokens of the first sessions in one forward, logits for all, and forget them again."""
        ...

    def read(self, ids: Sequence[int], rows: int) -> TimedForward:
        """Read a text from nothing, logits for its last `rows` tokens."""
        ...


class Ours:
    """Our worker's runner."""

    def __init__(self, folder: str, dtype: str) -> None:
        weights = "int8" if dtype == "int8" else "native"
        settings = WorkerSettings(
            target=folder, worker="bench", version="bench", threads=1, weights=weights,
            dtype="bfloat16" if dtype == "int8" else dtype,
        )  # fmt: skip
        self._runner = cloud_target.load(settings, say).model
        self._held: list[tuple[Any, Sequence[int]]] = []

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        for text in texts:
            kv = self._runner.new_kv()
            self._runner.forward([ModelInput(kv, text[:length], 0)])
            self._held.append((kv, text[length:]))

    def forward(self, sessions: int, rows: int) -> TimedForward:
        """See `Engine`."""
        held = self._held[:sessions]
        answer = self._timed([ModelInput(kv, list(later[:rows]), rows) for kv, later in held])
        for kv, _ in held:
            kv.roll_back(kv.length - rows)
        return answer

    def read(self, ids: Sequence[int], rows: int) -> TimedForward:
        """See `Engine`."""
        return self._timed([ModelInput(self._runner.new_kv(), list(ids), rows)])

    def _timed(self, inputs: list[ModelInput]) -> TimedForward:
        watch = Stopwatch()
        logits = self._runner.forward(inputs)
        return TimedForward(watch.stop(), logits.argmax(-1).tolist())


class Transformers:
    """transformers' own forward with its cache; sessions are the rows of a batch."""

    def __init__(self, folder: str, dtype: str) -> None:
        torch.set_num_threads(1)
        self._model: Any = load_target(folder, dtype=dtype).model
        self._held: dict[int, Any] = {}
        self._texts = torch.empty(0, 0, dtype=torch.int64)
        self._length = 0

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        self._texts, self._length = torch.tensor(texts), length

    def forward(self, sessions: int, rows: int) -> TimedForward:
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
        return TimedForward(spent, logits.argmax(-1).flatten().tolist())

    def read(self, ids: Sequence[int], rows: int) -> TimedForward:
        """See `Engine`."""
        with torch.inference_mode():
            watch = Stopwatch()
            logits = self._model(torch.tensor([list(ids)]), use_cache=True, logits_to_keep=rows).logits
            return TimedForward(watch.stop(), logits[0].argmax(-1).tolist())


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
