"""How good a draft is, offline: replay the target's own text and count what it would have accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from flexspec_mq.training.architecture import lm_head_weight, run_head, teacher_states
from flexspec_mq.training.losses import chunks
from flexspec_mq.training.rows import make_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import nn
    from transformers import PreTrainedModel

    from flexspec_mq.training.cache import StateCache
    from flexspec_mq.training.rows import TextRows

BATCH_PROMPTS = 16


@dataclass(frozen=True, slots=True)
class Replay:
    """One row of target-written text, ready to be replayed.

    Attributes:
        backbone: Backbone outputs of the row, shape ``(length, width)``.
        final: The teacher's final states where it predicts the answer, shape ``(answer, width)``.
        answer: Ids of the answer, shape ``(answer,)``.
        greedy: Whether the answer was written at temperature 0, so that rounds can be counted.
    """

    backbone: torch.Tensor
    final: torch.Tensor
    answer: torch.Tensor
    greedy: bool


@dataclass(slots=True)
class Acceptance:
    """Sums over replayed rows, and the figures they make.

    Attributes:
        positions: Answer positions compared.
        matches: Of them, where both models' most likely ids are equal.
        overlap_sum: Σ over positions of Σ min(p, q) at temperature 1.
        round_tokens: Tokens of greedy answers.
        rounds: Verification rounds they took: in each, the target commits what it accepts and one more.
    """

    positions: int = 0
    matches: int = 0
    overlap_sum: float = 0.0
    round_tokens: int = 0
    rounds: int = 0

    @property
    def greedy_match(self) -> float:
        """Share of positions where draft and target agree on the most likely id."""
        return self.matches / max(1, self.positions)

    @property
    def overlap(self) -> float:
        """Mean Σ min(p, q): the acceptance of ideal rejection sampling at temperature 1."""
        return self.overlap_sum / max(1, self.positions)

    @property
    def tokens_per_round(self) -> float:
        """Tokens committed per round on greedy answers; the end of an answer cuts its last round short."""
        return self.round_tokens / max(1, self.rounds)

    def add(self, other: Acceptance) -> None:
        """Take in what other rows gave."""
        self.positions += other.positions
        self.matches += other.matches
        self.overlap_sum += other.overlap_sum
        self.round_tokens += other.round_tokens
        self.rounds += other.rounds

    def figures(self) -> dict[str, float]:
        """What is worth printing and keeping."""
        return {
            "positions": self.positions,
            "greedy_match": round(self.greedy_match, 4),
            "overlap": round(self.overlap, 4),
            "greedy_tokens": self.round_tokens,
            "tokens_per_round": round(self.tokens_per_round, 4),
        }


def count_rounds(accepted: npt.NDArray[np.bool_], k: int) -> int:
    """Rounds of up to ``k`` draft tokens that an answer takes.

    Args:
        accepted: Whether the draft proposes the target's id, given the target's own text before it.
        k: Draft tokens per round.
    """
    rounds = position = 0
    while position < len(accepted):
        run = 0
        while run < k and position + run < len(accepted) and accepted[position + run]:
            run += 1
        position += run + 1
        rounds += 1
    return rounds


@torch.no_grad()
def replay(draft: nn.Module, n: int, rows: Iterable[Replay], k: int = 4) -> Acceptance:
    """Measure a draft on rows that it was not trained on.

    Args:
        draft: From ``build_draft`` or a materialised folder.
        n: Its backbone layers.
        rows: What to replay.
        k: Draft tokens per round.
    """
    sums = Acceptance()
    weight = lm_head_weight(draft)
    for row in rows:
        first = len(row.backbone) - len(row.answer) - 1
        student = run_head(draft, n, row.backbone.to(weight.dtype)[None])[0, first:-1]
        proposed = []
        for span in chunks(len(student)):
            z = student[span] @ weight.T
            t = row.final[span].to(weight.dtype) @ weight.T
            proposed.append(z.argmax(-1))
            sums.matches += int((proposed[-1] == t.argmax(-1)).sum())
            sums.overlap_sum += float(torch.minimum(z.float().softmax(-1), t.float().softmax(-1)).sum())
        sums.positions += len(student)
        if row.greedy:
            sums.rounds += count_rounds((torch.cat(proposed) == row.answer).numpy(), k)
            sums.round_tokens += len(student)
    return sums


def cached_rows(cache: StateCache, rows: Sequence[int]) -> Iterator[Replay]:
    """Rows whose states are in the cache."""
    text = cache.text
    for row in rows:
        answer = torch.from_numpy(text.row(row)[text.prompt_len[row] :])
        yield Replay(
            cache.backbone(row),
            cache.final(row, int(text.prompt_len[row]) - 1),
            answer,
            bool(text.temperature[row] == 0),
        )


def fresh_rows(base: nn.Module, n: int, text: TextRows) -> Iterator[Replay]:
    """Rows whose states are computed now, one by one."""
    for row in range(len(text)):
        ids = torch.from_numpy(text.row(row))
        backbone, final = teacher_states(base, n, ids[None])
        first = int(text.prompt_len[row])
        greedy = bool(text.temperature[row] == 0)
        yield Replay(backbone[0], final[0, first - 1 : -1], ids[first:], greedy)


@torch.inference_mode()
def write_answers(
    base: PreTrainedModel,
    folder: Path,
    prompts: Sequence[str],
    max_new: int,
    on_prompts: Callable[[int], None] = lambda _count: None,
) -> TextRows:
    """Let the target answer prompts at temperature 0, through its chat template.

    Args:
        base: The target.
        folder: Its checkpoint, for the tokenizer.
        prompts: What a user would type.
        max_new: Answer tokens at most.
        on_prompts: Told how many prompts were answered, after each batch.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    template = cast("Any", tokenizer).apply_chat_template
    asked: list[list[int]] = template(chats, add_generation_prompt=True, return_dict=False)
    ends = base.generation_config.eos_token_id if base.generation_config else None
    end = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    answers: list[list[int]] = [[] for _ in asked]
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    for start in range(0, len(order), BATCH_PROMPTS):
        batch = order[start : start + BATCH_PROMPTS]
        for i, answer in zip(batch, _greedy(base, [asked[i] for i in batch], max_new), strict=True):
            stop = next((j + 1 for j, token in enumerate(answer) if token in end), len(answer))
            answers[i] = answer[:stop]
        on_prompts(len(batch))
    return make_rows(asked, answers, [0.0] * len(asked))


def _greedy(base: PreTrainedModel, prompts: list[list[int]], max_new: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    generate = cast("Any", base).generate
    out = generate(ids, attention_mask=mask, max_new_tokens=max_new, do_sample=False, pad_token_id=0)
    found: list[list[int]] = out[:, width:].tolist()
    return found
