"""onnxruntime-genai on the files that its own model builder makes for processors: weights in 4 bits, blocks of 32."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.benchmarks.peers.interface import Answer, CannotConvertError, CannotDoError, Stopwatch, weights

_BYTES_PER_WEIGHT = 0.5 + 4 / 32
"""Four bits, and a float32 scale for each block."""


def build(folder: Path, path: Path) -> None:
    """Have the model builder convert a checkpoint; the folder appears whole or not at all.

    Raises:
        CannotConvertError: it cannot; says its last line.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-m", folder.name, "-i", str(folder), "-o", str(part), "-p", "int4", "-e", "cpu"]
    command += ["-c", str(part / "hub")]
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        raise CannotConvertError(f"its model builder says: {done.stderr.strip().splitlines()[-1]}")
    part.rename(path)


class GenAi:
    """A folder of its model builder.

    Args:
        path: the folder.
        folder: the checkpoint that it was made from.
        longest: tokens that it reads at once.
    """

    def __init__(self, path: str, folder: str, longest: int) -> None:
        import onnxruntime_genai as og

        self._og: Any = og
        config = og.Config(path)
        threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = og.Model(config)
        self._longest = longest + 64
        self._texts = np.empty((0, 0), np.int32)
        self._length = 0
        self.weight_bytes = int(weights(Path(folder)) * _BYTES_PER_WEIGHT)

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        self._texts, self._length = np.array(texts, np.int32), length

    def forward(self, sessions: int, rows: int) -> Answer:
        """See `Engine`. Texts are read again first, outside of the time.

        A batch takes tokens only once; what follows is the one token that it finds most likely itself.
        """
        if sessions > 1 and rows > 1:
            raise CannotDoError("a batch takes no tokens behind a context")
        texts, length = self._texts[:sessions], self._length
        generator = self._generator(sessions)
        generator.append_tokens(texts[:, :length])
        if sessions > 1:
            generator.generate_next_token()
            watch = Stopwatch()
            generator.generate_next_token()
            return Answer(*watch.stop(), generator.get_next_tokens().tolist())
        return self._append(generator, texts[:, length : length + rows], rows)

    def read(self, ids: Sequence[int], rows: int) -> Answer:
        """See `Engine`."""
        return self._append(self._generator(1), np.array([list(ids)], np.int32), rows)

    def _generator(self, sessions: int) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=self._longest, batch_size=sessions, do_sample=False)
        return self._og.Generator(self._model, params)

    def _append(self, generator: Any, ids: npt.NDArray[np.int32], rows: int) -> Answer:
        watch = Stopwatch()
        generator.append_tokens(ids)
        logits = np.asarray(generator.get_output("logits"))
        spent = watch.stop()
        if logits.shape[1] < rows:
            raise RuntimeError(f"it gives {logits.shape[1]} rows of logits, not {rows}")
        return Answer(*spent, logits[:, -rows:].argmax(-1).flatten().tolist())
