"""Text for training: the target answers prompts itself, many at a time, at the temperatures it will serve.

White-box distillation on the target's own text beats any other text of the same size, because that is what
the draft will be asked to continue. Tokens are chosen by the product's own dice, so a row is what a worker
would write, but for tokens that are equally likely up to rounding (see `lockstep`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.models.draft.lockstep import Lockstep
from flexspec_mq.models.feed import to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

LOOK_AHEAD = 4
"""Groups that are formed at a time: texts of similar prompts share one, since the longest decides what all cost."""
CROWD = 7 / 8
"""Share of a group's texts that must still be written; below, those that have ended leave its memory."""


@dataclass(frozen=True, slots=True)
class Order:
    """One text to be written.

    Attributes:
        prompt: token ids.
        temperature: of the sampling; 0 takes the likeliest token.
        top_p: of the sampling.
        limit: tokens to write at most.
        seed: of the dice, which are made from it, prompt and temperature: the text is a function of the
            order.

    Raises:
        UsageError: the prompt is empty, or no token may be written.
    """

    prompt: tuple[int, ...]
    temperature: float
    top_p: float = 1.0
    limit: int = 192
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would never end."""
        if not self.prompt or self.limit < 1:
            raise UsageError("a text needs a prompt and room for a token")

    def params(self) -> SamplingParams:
        """How tokens are chosen."""
        key = f"{self.seed} {self.temperature} {' '.join(map(str, self.prompt))}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return SamplingParams(self.temperature, 0, self.top_p, seed)


@dataclass(slots=True)
class _Text:
    order: Order
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)

    def go_on(self, logits: npt.NDArray[np.float32]) -> None:
        """Write one more token."""
        position = len(self.order.prompt) + len(self.tokens)
        self.tokens.append(choose(logits, self.params, position))

    def ended(self, eos: frozenset[int]) -> bool:
        """Whether nothing is to be written any more."""
        return self.tokens[-1] in eos or len(self.tokens) >= self.order.limit


def write_texts(
    model: PreTrainedModel,
    orders: Iterable[Order],
    eos: frozenset[int],
    on_text: Callable[[Order, tuple[int, ...]], None],
    *,
    at_once: int = 96,
    on_step: Callable[[int], None] = lambda _tokens: None,
) -> None:
    """Write texts, in groups of similar prompts.

    Args:
        model: the target, loaded with the attention that `lockstep.register` names.
        orders: what to write, taken a few groups at a time.
        eos: ids that end a text; they are part of it.
        on_text: told of each finished text, with what was written.
        at_once: texts of a group.
        on_step: told after each forward how many tokens it wrote; may raise to stop.
    """
    for group in _groups(iter(orders), at_once):
        _write_group(model, group, eos, on_text, on_step)


def _write_group(
    model: PreTrainedModel,
    group: list[Order],
    eos: frozenset[int],
    on_text: Callable[[Order, tuple[int, ...]], None],
    on_step: Callable[[int], None],
) -> None:
    def go_on(text: _Text, logits: npt.NDArray[np.float32]) -> None:
        text.go_on(logits)
        if text.ended(eos):
            on_text(text.order, tuple(text.tokens))

    texts = [_Text(order, order.params()) for order in group]
    # The last token of a text is not read.
    lockstep = Lockstep(model, [order.prompt for order in group], max(order.limit for order in group) - 1)
    for row, text in enumerate(texts):
        go_on(text, to_numpy(lockstep.read(row)))
        on_step(1)
    while left := [row for row, text in enumerate(texts) if not text.ended(eos)]:
        if len(left) < CROWD * len(texts):
            lockstep.keep(left)
            texts = [texts[row] for row in left]
            left = list(range(len(texts)))
        logits = to_numpy(lockstep.step([text.tokens[-1] for text in texts]))
        for row in left:
            go_on(texts[row], logits[row])
        on_step(len(left))


def _groups(orders: Iterator[Order], size: int) -> Iterator[list[Order]]:
    while some := sorted(islice(orders, LOOK_AHEAD * size), key=lambda order: len(order.prompt)):
        for first in range(0, len(some), size):
            yield some[first : first + size]
