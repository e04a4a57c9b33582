"""Figures of a pair on this machine: the target writes prompts' texts, and the draft names its token at each place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from cloud_worker.pair.forecast import LENGTHS, Figures
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.protocol.worker.types import WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud_worker.engine.interface import Engine
    from flexspec_mq.drafting.interface import Drafter, DraftToken
    from schemas.messages import Identity

WRITING, DRAFTING = 40.0, 30.0
"""Seconds that the target may write, and that the draft may draft; what was not reached by then is left out."""
_TIMED, _TURNS = 4, 4
"""Texts on which forwards are timed, and how often each is."""


@dataclass(frozen=True, slots=True)
class Text:
    """Prompt and the target's answer, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def write(
    engine: Engine, prompts: Sequence[tuple[int, ...]], identity: Identity, tell: Callable[[str], None]
) -> list[Text]:
    """Have the target answer all prompts at once, within `WRITING` seconds."""
    answers: list[tuple[int, ...]] = [() for _ in prompts]
    for number, prompt in enumerate(prompts):
        engine.add(_item(number, prompt, (), (), identity))
    ends, last = time.monotonic() + WRITING, 0.0
    while not engine.idle() and time.monotonic() < ends:
        for item, tokens in engine.step().decided:
            number = item.key[1]
            answers[number] += tokens
            if len(answers[number]) < identity.limit and tokens[-1] not in identity.eos:
                engine.add(_item(number, prompts[number], answers[number], (), identity))
        if time.monotonic() > last + 1:
            last = time.monotonic()
            done = sum(map(len, answers)) / (identity.limit * len(prompts))
            tell(f"the target writes {len(prompts)} answers: {done:.0%}")
    for number in range(len(prompts)):
        engine.free(("pair", number))
    return [Text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer]


def measure(
    engine: Engine, drafter: Drafter, texts: Sequence[Text], identity: Identity, tell: Callable[[str], None]
) -> Figures:
    """Time both models on texts, and compare the draft's tokens with the target's; see `forecast.runs`."""
    right, draft_reads, token = _drafted(drafter, texts, identity, tell)
    tell("timing the target")
    forwards: dict[int, list[float]] = {rows: [] for rows in (0, *LENGTHS)}
    target_reads = [
        _timed(engine, number, text, identity, forwards) for number, text in enumerate(texts[:_TIMED])
    ]
    prompt = sum(len(text.prompt) for text in texts) / len(texts)
    return Figures(
        right,
        prompt,
        {rows: median(seconds) for rows, seconds in forwards.items()},
        prompt * median(target_reads),
        prompt * draft_reads,
        token,
    )


def _drafted(
    drafter: Drafter, texts: Sequence[Text], identity: Identity, tell: Callable[[str], None]
) -> tuple[list[list[bool]], float, float]:
    """Whether each of the draft's tokens is right, and seconds of a token of a prompt and of a drafted one."""
    right: list[list[bool]] = []
    reads: list[float] = []
    tokens: list[float] = []
    began = last = time.monotonic()
    for number, text in enumerate(texts):
        context = list(text.prompt)
        found: list[bool] = []
        for expected in text.answer:
            start = time.perf_counter()
            proposals = _ask(drafter, number, context, text, identity)
            seconds = time.perf_counter() - start
            if found:
                tokens.append(seconds)
            else:
                reads.append(seconds / len(text.prompt))
            found.append(bool(proposals) and proposals[0].token == expected)
            context.append(expected)
            if time.monotonic() > last + 1:
                last = time.monotonic()
                tell(f"the draft drafts them: {(number + len(found) / len(text.answer)) / len(texts):.0%}")
        drafter.free(number)
        right.append(found)
        if time.monotonic() > began + DRAFTING:
            break
    return right, median(reads), median(tokens or reads)


def _ask(
    drafter: Drafter, number: int, context: Sequence[int], text: Text, identity: Identity
) -> Sequence[DraftToken]:
    """The draft's next token; none beyond its context."""
    if not drafter.fits(context):
        return ()
    request = DraftRequest(number, context, identity, len(context), len(text.prompt))
    while (proposals := drafter.draft([request])[0]) is None:
        pass
    return proposals


def _timed(
    engine: Engine, number: int, text: Text, identity: Identity, forwards: dict[int, list[float]]
) -> float:
    """Time forwards in the middle of a text, with each number of drafted tokens in turn; seconds of a token read."""
    middle = text.answer[: len(text.answer) // 2]
    read = _decide(engine, _item(number, text.prompt, middle, (), identity)) / (
        len(text.prompt) + len(middle)
    )
    for _ in range(_TURNS):
        for rows, seconds in forwards.items():
            draft = (text.answer * (rows + 1))[len(middle) :][:rows]
            seconds.append(_decide(engine, _item(number, text.prompt, middle, draft, identity)))
    engine.free(("pair", number))
    return read


def _decide(engine: Engine, item: WorkItem) -> float:
    """Seconds until an item is decided."""
    began = time.perf_counter()
    engine.add(item)
    while not engine.idle():
        engine.step()
    return time.perf_counter() - began


def _item(
    number: int, prompt: tuple[int, ...], answer: tuple[int, ...], draft: tuple[int, ...], identity: Identity
) -> WorkItem:
    """Work as the worker's protocol hands it to its engine."""
    return WorkItem(
        key=("pair", number),
        version="base",
        start=len(answer),
        digest=0,
        context=prompt + answer,
        prompt_length=len(prompt),
        draft=draft,
        identity=identity,
        seq=0,
        waiting_since=0.0,
    )
