"""Text for training: the target answers prompts itself, many at a time, at the temperatures it will serve.

White-box distillation on the target's own text beats any other text of the same size, because that is what
the draft will be asked to continue. Tokens are chosen by the product's own noise, so a row is what a worker
would write.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from flexspec_mq.errors import UsageError
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.sampling.rows import Draw, choose_rows
from schemas.messages import Sampling

PREFILL = 512
"""Tokens of prompts that one forward reads beside the texts that are being written."""


@dataclass(frozen=True, slots=True)
class TextOrder:
    """Text to be written.

    Attributes:
        prompt: token ids.
        temperature: temperature of the sampling; 0 takes the likeliest token.
        top_p: nucleus of the sampling, as a share of the probability.
        limit: tokens to write at most.
        seed: seed of the noise, which is made from it, prompt and temperature: the text is a function of the
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

    def params(self) -> Sampling:
        """How tokens are chosen."""
        key = f"{self.seed} {self.temperature} {' '.join(map(str, self.prompt))}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return Sampling(self.temperature, 0, self.top_p, seed)


@dataclass(slots=True)
class _Text:
    order: TextOrder
    params: Sampling
    kv: SessionKV
    tokens: list[int] = field(default_factory=list)

    @property
    def unread(self) -> Sequence[int]:
        known, prompt = self.kv.length, self.order.prompt
        return self.tokens[-1:] if known >= len(prompt) else prompt[known:]


def write_texts(
    model: TargetModel,
    orders: Iterable[TextOrder],
    eos: frozenset[int],
    on_text: Callable[[TextOrder, tuple[int, ...]], None],
    *,
    head: str = "",
    at_once: int = 48,
    on_step: Callable[[int], None] = lambda _tokens: None,
) -> None:
    """Write texts; a new one starts as soon as one has ended.

    Args:
        model: the target.
        orders: texts to write, taken one by one.
        eos: ids that end a text; they are part of it.
        on_text: told of each finished text, with what was written.
        head: head that the model holds, whose version writes; empty is the base.
        at_once: texts that share the forwards.
        on_step: told after each forward how many tokens it wrote; may raise to stop.
    """
    waiting = iter(orders)
    active: deque[_Text] = deque()
    while True:
        while len(active) < at_once and (order := next(waiting, None)) is not None:
            active.append(_Text(order, order.params(), model.new_kv()))
        if not active:
            return
        inputs, places = _inputs(active, head)
        logits = model.forward(inputs)
        chosen = choose_rows(logits, [Draw(text.params, text.kv.length) for text in places])
        for row, text in enumerate(places):
            text.tokens.append(chosen(row))
        for text in [text for text in places if _ended(text, eos)]:
            active.remove(text)
            on_text(text.order, tuple(text.tokens))
        on_step(len(places))


def _inputs(active: Iterable[_Text], head: str) -> tuple[list[ModelInput], list[_Text]]:
    """A token of each text that is being written, pieces of prompts as far as they fit."""
    inputs, places = [], []
    budget = PREFILL
    for text in active:
        unread = text.unread
        if not text.tokens:
            piece = unread[:budget]
            budget -= len(piece)
            if not piece:
                continue
            if len(piece) < len(unread):
                inputs.append(ModelInput(text.kv, piece, 0, head))
                continue
            unread = piece
        inputs.append(ModelInput(text.kv, unread, 1, head))
        places.append(text)
    # Rows of logits come input by input, so those that want none may stand anywhere.
    return inputs, places


def _ended(text: _Text, eos: frozenset[int]) -> bool:
    return text.tokens[-1] in eos or len(text.tokens) >= text.order.limit
