"""What every engine is asked for, in its own process."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class CannotConvertError(Exception):
    """An engine has no form of this model here; says why."""


class CannotDoError(Exception):
    """An engine has no such forward; says which it has."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A forward.

    Attributes:
        ms: that it took, logits at hand.
        cpu_ms: of the processor, which strangers on the machine change less.
        best: the most likely id of every row that was asked for.
    """

    ms: float
    cpu_ms: float
    best: list[int]


class Stopwatch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Milliseconds since, by the clock and of this process' processor time."""
        return 1e3 * (time.perf_counter() - self._wall), 1e3 * (time.process_time() - self._cpu)


class Engine(Protocol):
    """A model that runs on one thread.

    Attributes:
        weight_bytes: that the matrices take which one token needs, the LM head's among them.
    """

    weight_bytes: int

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """Give each text a session that holds its first `length` tokens. All texts are equally long."""
        ...

    def forward(self, sessions: int, rows: int) -> Answer:
        """Read the next `rows` tokens of the first sessions in one forward, logits for all, and forget them again.

        Raises:
            CannotDoError: it does not do that.
        """
        ...

    def read(self, ids: Sequence[int], rows: int) -> Answer:
        """Read a text from nothing, logits for its last `rows` tokens."""
        ...


def matrices(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the matrices that one token multiplies, from the headers of the safetensors."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(size))
        found.update({name: tuple(one["shape"]) for name, one in header.items() if name != "__metadata__"})
    apart = "lm_head.weight" in found
    return {
        name: shape
        for name, shape in found.items()
        if len(shape) == 2 and not (apart and name.endswith("embed_tokens.weight"))
    }


def weights(folder: Path) -> int:
    """How many values those matrices hold."""
    return sum(math.prod(shape) for shape in matrices(folder).values())


def is_plain_llama(config: dict[str, Any]) -> bool:
    """Whether a configuration says that nothing is added to Llama's layers."""
    rope = config.get("rope_parameters") or {}
    return (
        config.get("model_type") == "llama"
        and not (config.get("attention_bias") or config.get("mlp_bias") or config.get("rope_scaling"))
        and rope.get("rope_type", "default") == "default"
    )
