"""What the real draft would choose at each place of texts that the target wrote with dice that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_node.settings import EdgeSettings
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.errors import LocalProtocolError, UsageError
from flexspec_mq.models.runner import ModelInput, to_numpy
from lab.bench.questions import spread
from lab.benchmarks.leaves.choices import Choices, rank_of, ranked
from training.draft.collect import Order
from training.draft.rows import TextRows, load_rows

TOP_P = 0.95
"""Of collected texts above temperature 0."""

Say = Callable[[str], None]


def load_drafter(name: str, say: Say) -> ModelDrafter:
    """A draft as an edge node runs it, on one thread.

    Raises:
        UsageError: there is no model.
    """
    settings = EdgeSettings(edge="bench", draft=name, lookup=False, threads=1)
    model = draft_model.load(settings, say).model
    if model is None:
        raise UsageError("there are no choices without a draft's model", hint="name one with --draft")
    return model


def chosen_rows(text: TextRows, temperature: float, most: int) -> list[int]:
    """Rows of a temperature that no draft was trained on, evenly spaced.

    Args:
        text: of ``flexspec draft collect``.
        temperature: of the sampling.
        most: rows at most.

    Raises:
        UsageError: there is none.
    """
    held_out = text.is_held_out() & np.isclose(text.temperature, temperature) & (text.answer_len > 0)
    rows = [int(row) for row in np.flatnonzero(held_out)]
    if not rows:
        raise UsageError(
            f"no text at temperature {temperature:g} is held out",
            hint="give more text, or another temperature",
        )
    return spread(rows, most)


def record(
    draft: ModelDrafter,
    path: Path,
    temperatures: Sequence[float],
    *,
    rows: int,
    tokens: int,
    seed: int,
    say: Say,
) -> list[Choices]:
    """The draft's choices on held-out texts.

    Args:
        draft: that ships, with its calibration.
        path: of texts that a target wrote.
        temperatures: of the texts that are taken.
        rows: texts of each temperature at most.
        tokens: of each answer at most.
        seed: of the collection; the dice come from it.
        say: told how far it is, now and then.
    """
    text = load_rows(path)
    wanted = [(row, t) for t in temperatures for row in chosen_rows(text, t, rows)]
    found: list[Choices] = []
    said = time.monotonic()
    for row, temperature in wanted:
        ids = [int(token) for token in text.row(row)]
        prompt, answer = ids[: text.prompt_len[row]], ids[text.prompt_len[row] :][:tokens]
        order = Order(tuple(prompt), temperature, TOP_P if temperature else 1.0, seed=seed)
        found.append(choices_of(draft, order, answer, row))
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"choices of {len(found)} of {len(wanted)} texts")
    return found


def choices_of(draft: ModelDrafter, order: Order, answer: Sequence[int], row: int) -> Choices:
    """What the draft would choose at each place of one text, which it reads in one forward.

    Args:
        draft: with its calibration.
        order: prompt and dice.
        answer: what the target wrote, at least one token.
        row: number of the text.
    """
    # The parts of a drafter, as in `ReadAhead`: it has no way to be asked for many places at once.
    network, propose = draft._model, draft._proposer  # noqa: SLF001
    context = (*order.prompt, *answer[:-1])
    logits = to_numpy(network.forward([ModelInput(network.new_kv(), context, len(answer))]))
    ids = getattr(network, "ids", None)
    known = np.arange(logits.shape[1]) if ids is None else ids
    params = order.params()
    ranks: list[int] = []
    confidences: list[float] = []
    run = 0
    for place, (scores, token) in enumerate(zip(logits, answer, strict=True)):
        position = len(order.prompt) + place
        first = propose(scores, params, position, run)
        chosen = ranked(scores, params, position, known)
        if chosen[0] != first.token:
            raise LocalProtocolError(f"the draft proposes {first.token} and its first choice is {chosen[0]}")
        ranks.append(rank_of(token, chosen))
        confidences.append(first.confidence)
        run = run + 1 if first.token == token else 0
    return Choices(row, order.temperature, tuple(ranks), tuple(confidences))
