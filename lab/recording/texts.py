"""The target writes texts, then the draft is asked at each position of them, as on an edge."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.protocol.worker.types import WorkItem
from lab.simulator.recording import RecordedText, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud_worker.engine.engine import EngineCore
    from flexspec_mq.drafting.interface import Drafter, DraftToken
    from flexspec_mq.models.load import LoadedText
    from lab.simulator.recording import About
    from schemas.messages import Identity

_AT_ONCE = 16
"""Texts that share the target's forwards while they are written."""
_EDGE, _VERSION = "recorded", "v"


def record(
    about: About,
    asked: Sequence[tuple[tuple[int, ...], Identity]],
    engine: EngineCore,
    draft: Drafter,
    loaded: LoadedText,
    say: Callable[[str], None],
) -> Recording:
    """Record.

    Args:
        about: what it is of.
        asked: prompt and identity of each text.
        engine: of the target.
        draft: proposes, without lookups.
        loaded: what is known of the target without its weights.
        say: told how far it is.

    Returns:
        The texts in their order.
    """
    say(f"the target writes {len(asked)} texts")
    written = _written(engine, asked)
    say("the draft is asked at each position of them")
    times: list[float] = []
    texts = tuple(
        _drafted(draft, number, prompt, identity, tokens, times)
        for number, ((prompt, identity), tokens) in enumerate(zip(asked, written, strict=True))
    )
    return Recording(
        about=about,
        fingerprint=loaded.fingerprint.hex(),
        eos=tuple(loaded.eos),
        vocab_size=loaded.vocab_size,
        max_context=loaded.max_context,
        draft_ms=float(np.median(times)) if times else 0.0,
        texts=texts,
    )


def work_item(
    session: int, prompt: Sequence[int], identity: Identity, context: Sequence[int], draft: Sequence[int]
) -> WorkItem:
    """What the worker's protocol would hand to its engine."""
    return WorkItem(
        key=(_EDGE, session),
        version=_VERSION,
        start=len(context) - len(prompt),
        digest=0,
        context=tuple(context),
        prompt_length=len(prompt),
        draft=tuple(draft),
        identity=identity,
        seq=0,
        waiting_since=0.0,
    )


def _written(engine: EngineCore, asked: Sequence[tuple[tuple[int, ...], Identity]]) -> list[tuple[int, ...]]:
    contexts = [list(prompt) for prompt, _ in asked]
    waiting = list(reversed(range(len(asked))))
    active: set[int] = set()
    while waiting or active:
        while waiting and len(active) < _AT_ONCE:
            active.add(waiting.pop())
        for number in sorted(active):
            prompt, identity = asked[number]
            engine.scheduler.add(work_item(number, prompt, identity, contexts[number], ()))
        while engine.scheduler.pending:
            for item, tokens in engine.step():
                number = item.key[1]
                contexts[number] += tokens
                if _ended(asked[number][1], contexts[number], len(asked[number][0])):
                    active.remove(number)
                    engine.scheduler.free(item.key)
    return [tuple(context[len(prompt) :]) for context, (prompt, _) in zip(contexts, asked, strict=True)]


def _ended(identity: Identity, context: Sequence[int], prompt: int) -> bool:
    return len(context) - prompt >= identity.limit or context[-1] in identity.eos


def _drafted(
    draft: Drafter,
    session: int,
    prompt: tuple[int, ...],
    identity: Identity,
    tokens: tuple[int, ...],
    times: list[float],
) -> RecordedText:
    """Walk along a text; `times` gets the milliseconds of each token but the first, for which the prompt is read."""
    proposals: list[DraftToken] = []
    context = list(prompt)
    for place, token in enumerate(tokens):
        one = DraftRequest(session, context, identity, len(context), len(prompt), place)
        # The processor's time: it is the clock's where nobody else computes, as the draft has one thread.
        began = time.process_time()
        while not (found := draft.draft([one])[0]):
            continue
        if place:
            times.append(1000 * (time.process_time() - began))
        proposals.append(found[0])
        context.append(token)
    draft.free(session)
    pairs = tuple((one.token, one.confidence) for one in proposals)
    return RecordedText(prompt, identity.temperature, identity.seed, tokens, pairs)
