"""Figures of a pair on this machine: the target writes prompts' texts, and the draft names its token at each place."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

from cloud_worker.engine.interface import Engine
from cloud_worker.pair.forecast import LENGTHS, Figures
from flexspec_mq.drafting.interface import Drafter, DraftRequest, DraftToken
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.models.load import load_text
from flexspec_mq.models.target_text import token_map
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import Identity

_TIMED, _TURNS = 4, 4
"""Texts on which forwards are timed, and how often each is."""


@dataclass(frozen=True, slots=True)
class PairText:
    """Prompt and the target's answer as token ids, and all else that makes the text."""

    prompt: tuple[int, ...]
    identity: Identity
    answer: tuple[int, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the answer is as long as it may be, or has an end."""
        return len(self.answer) >= self.identity.limit or not {*self.answer[-1:]}.isdisjoint(
            self.identity.eos
        )


def write(
    engine: Engine, texts: Sequence[PairText], tell: Callable[[str], None], *, seconds: float = inf
) -> list[PairText]:
    """Have the target go on with all texts at once that have not ended, for so many seconds."""
    written = list(texts)
    for number, text in enumerate(texts):
        if not text.ended:
            engine.add(_item(number, text, len(text.answer), ()))
    ends, last = time.monotonic() + seconds, 0.0
    while not engine.idle() and time.monotonic() < ends:
        for item, tokens in engine.step().decided:
            number = item.key[1]
            text = written[number] = replace(written[number], answer=written[number].answer + tokens)
            if not text.ended:
                engine.add(_item(number, text, len(text.answer), ()))
        if time.monotonic() > last + 1:
            last = time.monotonic()
            done = sum(len(text.answer) / text.identity.limit for text in written) / len(texts)
            tell(f"the target writes {len(texts)} answers: {done:.0%}")
    for number in range(len(texts)):
        engine.free(("pair", number))
    return written


def measure(
    engine: Engine,
    drafter: Drafter,
    texts: Sequence[PairText],
    tell: Callable[[str], None],
    *,
    seconds: float = inf,
) -> Figures:
    """Time both models on texts, and compare the draft's tokens with the target's; see `forecast.runs`.

    Texts that a model does not come to in so many seconds are left out.
    """
    right, draft_reads, token = _drafted(drafter, texts, tell, time.monotonic() + seconds)
    tell("timing the target")
    forwards, target_reads = _forwards(engine, texts, time.monotonic() + seconds)
    prompt = sum(len(text.prompt) for text in texts) / len(texts)
    return Figures(right, prompt, forwards, prompt * target_reads, prompt * draft_reads, token)


def drafter_for(target: str, drafts: DraftSettings, tell: Callable[[str], None]) -> DraftModel:
    """Load a draft that speaks the target's ids."""
    draft = load_draft(drafts, tell)
    if draft.model is not None:
        tokens = token_map(draft.text, load_text(target))
        draft.model.token_map = lambda _fingerprint: tokens
    return draft


def _drafted(
    drafter: Drafter, texts: Sequence[PairText], tell: Callable[[str], None], ends: float
) -> tuple[list[list[bool]], float, float]:
    """Whether each of the draft's tokens is right, and seconds of a token of a prompt and of a drafted one."""
    right: list[list[bool]] = []
    reads: list[float] = []
    tokens: list[float] = []
    last = time.monotonic()
    for number, text in enumerate(texts):
        context = list(text.prompt)
        found: list[bool] = []
        for expected in text.answer:
            start = time.perf_counter()
            proposals = _ask(drafter, number, context, text)
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
        if time.monotonic() > ends:
            break
    return right, median(reads), median(tokens or reads)


def _ask(drafter: Drafter, number: int, context: Sequence[int], text: PairText) -> Sequence[DraftToken]:
    """The draft's next token; none beyond its context."""
    if not drafter.fits(context):
        return ()
    request = DraftRequest(number, context, text.identity, len(context), len(text.prompt))
    while (proposals := drafter.draft([request])[0]) is None:
        pass
    return proposals


def _forwards(engine: Engine, texts: Sequence[PairText], ends: float) -> tuple[dict[int, float], float]:
    """Seconds of a forward in the middle of a text, by drafted tokens, and of a token of a prompt."""
    forwards: dict[int, list[float]] = {rows: [] for rows in (0, *LENGTHS)}
    reads = []
    for number, text in enumerate(texts[:: -(-len(texts) // _TIMED)]):
        middle = len(text.answer) // 2
        read = _decide(engine, _item(number, text, middle, ()))
        reads.append(read / (len(text.prompt) + middle))
        for turn in range(_TURNS):
            if turn and time.monotonic() > ends:
                break
            for rows, seconds in forwards.items():
                draft = (text.answer * (rows + 1))[middle:][:rows]
                seconds.append(_decide(engine, _item(number, text, middle, draft)))
        engine.free(("pair", number))
        if time.monotonic() > ends:
            break
    took = {rows: median(seconds) for rows, seconds in forwards.items()}
    # More rows take no less: where they seem to, something else had the processor.
    return {rows: min(took[more] for more in took if more >= rows) for rows in took}, median(reads)


def _decide(engine: Engine, item: WorkItem) -> float:
    """Seconds until an item is decided."""
    began = time.perf_counter()
    engine.add(item)
    while not engine.idle():
        engine.step()
    return time.perf_counter() - began


def _item(number: int, text: PairText, start: int, draft: tuple[int, ...]) -> WorkItem:
    """Work as the worker's protocol hands it to its engine, behind so many tokens of the answer."""
    return WorkItem(
        key=("pair", number),
        version="base",
        start=start,
        digest=0,
        context=text.prompt + text.answer[:start],
        prompt_length=len(text.prompt),
        draft=draft,
        identity=text.identity,
        seq=0,
        waiting_since=0.0,
    )
