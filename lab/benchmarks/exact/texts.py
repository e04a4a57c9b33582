"""Which texts are written: prompts, sampling parameters and ends for each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lab.benchmarks.exact.dice import Dice
from lab.benchmarks.exact.reference import Text

_GREEDY = (0.0, 0, 1.0)
_SETTINGS = (_GREEDY, _GREEDY, (0.7, 0, 1.0), (1.0, 0, 1.0), (1.0, 0, 0.95), (0.7, 50, 0.95), (1.0, 50, 1.0))
"""Temperature, top-k, top-p."""
_FIRST_STOP = 10
_QUESTION = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """How texts are made.

    Attributes:
        most_prompt: tokens of a prompt; of longer ones the end is kept.
        least, most: bounds of the limit.
        eos: ids that end a text.
        stops: ids of which one may serve as a stop.
        turns: share of texts that go on from an earlier one, as the next turn of a conversation does.
        most_turns: tokens of prompt and text together that a conversation may have.
    """

    most_prompt: int
    least: int
    most: int
    eos: tuple[int, ...]
    stops: tuple[int, ...]
    turns: float = 0.3
    most_turns: int = 700


def texts(prompts: Sequence[Sequence[int]], shape: Shape, rng: random.Random) -> Iterator[Text]:
    """Texts for ever. Each pass uses every prompt once, in random order."""
    order = [tuple(prompt[-shape.most_prompt :]) for prompt in prompts]
    number = 0
    while True:
        rng.shuffle(order)
        for prompt in order:
            yield _text(number, prompt, shape, rng)
            number += 1


def _text(number: int, prompt: tuple[int, ...], shape: Shape, rng: random.Random) -> Text:
    temperature, top_k, top_p = rng.choice(_SETTINGS)
    return Text(
        number=number,
        prompt=prompt,
        dice=Dice(temperature, top_k, top_p, rng.getrandbits(64)),
        limit=rng.randint(shape.least, shape.most),
        eos=shape.eos if rng.random() < 0.6 else (),
        stop=(rng.choice(shape.stops), _FIRST_STOP) if rng.random() < 0.2 else None,
    )


def next_turn(text: Text, earlier: Sequence[int], shape: Shape) -> Text:
    """`text` as the next turn of a conversation that has come to `earlier`; itself where that would be too long."""
    prompt = (*earlier, *text.prompt[-_QUESTION:])
    if len(prompt) + text.limit > shape.most_turns:
        return text
    return replace(text, prompt=prompt)


def long_text(prompts: Sequence[Sequence[int]], positions: int, limit: int, rng: random.Random) -> Text:
    """A text whose prompt, many prompts in a row, fills `positions`; drawn at temperature 1."""
    joined: list[int] = []
    while len(joined) < positions:
        joined += rng.choice(prompts)
    dice = Dice(1.0, 0, 1.0, rng.getrandbits(64))
    return Text(-1 - rng.getrandbits(16), tuple(joined[:positions]), dice, limit, ())
