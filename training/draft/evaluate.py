"""Acceptance of a draft, offline: the target's own text is replayed, with the product's noise on both sides.

At each position of an answer both models choose from their logits after the same prefix, as `flexspec_mq.sampling`
does in the product, and a draft token is accepted if both chose the same. The tokens behind a rejected one in the same
batch are not known from such a replay; where batches are counted, the text's own next positions stand for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from flexspec_mq.models.draft.calibrate import Coupled
from flexspec_mq.models.draft.confidence import COLUMNS, Floats, features_of
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling
from training.draft.architecture import lm_head_weight, run_head, teacher_states
from training.draft.cache import StateCache
from training.draft.losses import chunks
from training.draft.rows import TextRows

TEMPERATURES = (0.0, 0.7, 1.0)


@dataclass(frozen=True, slots=True)
class Replay:
    """Row of target-written text, ready to be replayed.

    Attributes:
        backbone: Backbone outputs of the row, shape ``(length, width)``.
        final: The teacher's final states where it predicts the answer, shape ``(answer, width)``.
        answer: Ids of the answer, shape ``(answer,)``.
        lm_head: The teacher's, shape ``(vocabulary, width)``, if it is not the draft's.
    """

    backbone: torch.Tensor
    final: torch.Tensor
    answer: torch.Tensor
    lm_head: torch.Tensor | None = None

    def teacher_logits(self, span: slice, weight: torch.Tensor) -> torch.Tensor:
        """The teacher's at some positions of the answer; ``weight`` is the draft's LM head."""
        return self.final[span].to(weight) @ (weight if self.lm_head is None else self.lm_head).T


def count_rounds(accepted: npt.NDArray[np.bool_], k: int) -> int:
    """Count the verification rounds of an answer: each commits what is accepted, and one more token.

    Args:
        accepted: Whether the target takes the draft's token at each position.
        k: Drafted tokens of a round.
    """
    position = rounds = 0
    while position < len(accepted):
        wrong = np.flatnonzero(~accepted[position : position + k])
        position += (int(wrong[0]) if len(wrong) else k) + 1
        rounds += 1
    return rounds


@dataclass(slots=True)
class ReplayFigures:
    """Sums over replayed rows, and the figures they make.

    Attributes:
        positions: Answer positions compared.
        matches: Positions at which both models' most likely ids are equal.
        overlap_sum: Σ over positions of Σ min(p, q) at temperature 1.
    """

    positions: int = 0
    matches: int = 0
    overlap_sum: float = 0.0

    @property
    def greedy_match(self) -> float:
        """Share of positions where draft and target agree on the most likely id."""
        return self.matches / max(1, self.positions)

    @property
    def overlap(self) -> float:
        """Mean Σ min(p, q): the acceptance of ideal rejection sampling at temperature 1."""
        return self.overlap_sum / max(1, self.positions)

    def figures(self) -> dict[str, float]:
        """Figures worth printing and keeping."""
        return {
            "positions": self.positions,
            "greedy_match": round(self.greedy_match, 4),
            "overlap": round(self.overlap, 4),
        }


@torch.no_grad()
def replay(
    draft: nn.Module, n: int, rows: Iterable[Replay], sums: ReplayFigures | None = None
) -> ReplayFigures:
    """Measure a draft on rows that it was not trained on.

    Args:
        draft: From ``build_draft`` or a materialised folder.
        n: Number of its backbone layers.
        rows: Rows to replay.
        sums: Sums of earlier rows, to be added to.
    """
    sums = sums or ReplayFigures()
    weight = lm_head_weight(draft)
    for row in rows:
        first = len(row.backbone) - len(row.answer) - 1
        student = run_head(draft, n, row.backbone.to(weight)[None])[0, first:-1]
        for span in chunks(len(student)):
            z = student[span] @ weight.T
            t = row.teacher_logits(span, weight)
            sums.matches += int((z.argmax(-1) == t.argmax(-1)).sum())
            sums.overlap_sum += float(torch.minimum(z.float().softmax(-1), t.float().softmax(-1)).sum())
        sums.positions += len(student)
    return sums


def cached_rows(
    cache: StateCache, rows: Sequence[int], lm_head: torch.Tensor | None = None
) -> Iterator[Replay]:
    """Rows whose states are in the cache; the teacher's LM head is given if it is not the draft's."""
    text = cache.text
    for row in rows:
        answer = torch.from_numpy(text.row(row)[text.prompt_len[row] :])
        yield Replay(cache.backbone(row), cache.final(row, int(text.prompt_len[row]) - 1), answer, lm_head)


def fresh_rows(base: nn.Module, n: int, text: TextRows) -> Iterator[Replay]:
    """Rows whose states are computed now, one by one."""
    for row in range(len(text)):
        ids = torch.from_numpy(text.row(row))
        backbone, final = teacher_states(base, n, ids[None])
        first = int(text.prompt_len[row])
        yield Replay(backbone[0], final[0, first - 1 : -1], ids[first:])


@torch.no_grad()
def coupled(
    draft: nn.Module, n: int, rows: Iterable[Replay], temperatures: Sequence[float], *, first_row: int = 0
) -> Iterator[Coupled]:
    """Replay answers at several temperatures.

    Args:
        draft: From ``build_draft`` or a materialised folder.
        n: Number of its backbone layers.
        rows: Rows to replay; each draws noise of its own.
        temperatures: At which both models choose, whatever the text was written at.
        first_row: Number of the first row.
    """
    weight = lm_head_weight(draft)
    for number, row in enumerate(rows, first_row):
        first = len(row.backbone) - len(row.answer)
        student = run_head(draft, n, row.backbone.to(weight)[None])[0, first - 1 : -1]
        parts: dict[float, list[tuple[Floats, npt.NDArray[np.bool_]]]] = defaultdict(list)
        runs = dict.fromkeys(temperatures, 0)
        for span in chunks(len(student)):
            mine = (student[span] @ weight.T).float().cpu().numpy()
            theirs = row.teacher_logits(span, weight).float().cpu().numpy()
            for temperature in temperatures:
                params = Sampling(temperature, seed=number)
                found = samples(mine, theirs, params, first + span.start, runs[temperature])
                parts[temperature].append(found)
                runs[temperature] = _accepted_run(runs[temperature], found[1])
        for temperature, pieces in parts.items():
            features, accepted = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            yield Coupled(number, temperature, features, accepted)


def samples(
    draft: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    params: Sampling,
    first: int,
    accepted_run: int = 0,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Observations for `calibrate.fit`, from the logits of both models over one stretch of the target's text.

    Args:
        draft: logits, float32 of shape [positions, vocabulary].
        target: the same, each row after the same prefix.
        params: sampling of both, its seed included.
        first: position of the first row's token in prompt + text.
        accepted_run: before the first row.

    Returns:
        Features, float64 of shape [positions, 5], and whether the target takes the draft's token, [positions].
    """
    features = np.empty((len(draft), len(COLUMNS)))
    accepted = np.empty(len(draft), dtype=np.bool_)
    for row, (mine, theirs) in enumerate(zip(draft, target, strict=True)):
        token, features[row] = features_of(mine, params, first + row, accepted_run)
        accepted[row] = choose(theirs, params, first + row) == token
        accepted_run = accepted_run + 1 if accepted[row] else 0
    return features, accepted


def survival(answers: Sequence[npt.NDArray[np.bool_]], k: int) -> list[float]:
    """Shares of positions from which the next 1, 2, … k draft tokens are all accepted.

    Args:
        answers: Whether the draft's token is accepted at each position of each answer.
        k: Up to how many.
    """
    found = []
    for length in range(1, k + 1):
        starts = [
            np.lib.stride_tricks.sliding_window_view(answer, length).all(1)
            for answer in answers
            if len(answer) >= length
        ]
        found.append(float(np.concatenate(starts).mean()) if starts else 0.0)
    return found


def figures(answers: Iterable[Coupled], k: int) -> dict[str, dict[str, Any]]:
    """Figures worth printing, by temperature.

    Args:
        answers: answers of all temperatures.
        k: Drafted tokens of a round.

    Returns:
        For each temperature ``acceptance`` (share of positions where both models choose alike), ``by_position`` (see
        ``survival``), and ``tokens_per_round``.
    """
    by_temperature: dict[float, list[npt.NDArray[np.bool_]]] = defaultdict(list)
    for answer in answers:
        by_temperature[answer.temperature].append(answer.accepted)
    return {
        f"{temperature:g}": {
            "acceptance": round(float(np.concatenate(accepted).mean()), 4),
            "by_position": [round(share, 4) for share in survival(accepted, k)],
            "tokens_per_round": round(
                sum(map(len, accepted)) / sum(count_rounds(some, k) for some in accepted), 4
            ),
        }
        for temperature, accepted in sorted(by_temperature.items())
    }


def _accepted_run(before: int, accepted: npt.NDArray[np.bool_]) -> int:
    """How many choices in a row were the target's, at the end of these."""
    wrong = np.flatnonzero(~accepted)
    return len(accepted) - 1 - int(wrong[-1]) if len(wrong) else before + len(accepted)
