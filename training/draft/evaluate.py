"""Acceptance of a draft, offline: the target's own text is replayed, with the product's dice on both sides.

At each position of an answer both models choose from their logits after the same prefix, as `flexspec_mq.sampling`
does in the product, and a draft token is accepted if both chose the same. The tokens behind a rejected one in the same
batch are not known from such a replay; where batches are counted, the text's own next positions stand for it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flexspec_mq.models.draft.confidence import COLUMNS, USUAL, ConfidenceCalibration, Floats, features_of
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from training.draft.architecture import lm_head_weight, run_head, teacher_states
from training.draft.losses import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt
    from torch import nn

    from training.draft.cache import StateCache
    from training.draft.rows import TextRows

TEMPERATURES = (0.0, 0.7, 1.0)


@dataclass(frozen=True, slots=True)
class Replay:
    """Row of target-written text, ready to be replayed.

    Attributes:
        backbone: Backbone outputs of the row, shape ``(length, width)``.
        final: The teacher's final states where it predicts the answer, shape ``(answer, width)``.
        answer: Ids of the answer, shape ``(answer,)``.
        greedy: Whether the answer was written at temperature 0, so that rounds can be counted.
        lm_head: The teacher's, shape ``(vocabulary, width)``, if it is not the draft's.
    """

    backbone: torch.Tensor
    final: torch.Tensor
    answer: torch.Tensor
    greedy: bool
    lm_head: torch.Tensor | None = None

    def teacher_logits(self, span: slice, weight: torch.Tensor) -> torch.Tensor:
        """The teacher's at some positions of the answer; ``weight`` is the draft's LM head."""
        return self.final[span].to(weight.dtype) @ (weight if self.lm_head is None else self.lm_head).T


@dataclass(slots=True)
class RoundCounts:
    """Verification rounds, counted.

    Attributes:
        tokens: Committed: in each round what is accepted, and one more that the target writes.
        rounds: All, those without a draft included.
        empty: empty of them, without a drafted token.
        drafted: Tokens sent to the target.
        accepted: accepted of them, accepted.
    """

    tokens: int = 0
    rounds: int = 0
    empty: int = 0
    drafted: int = 0
    accepted: int = 0

    def play(
        self, accepted: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float64], k: int, stop: float
    ) -> None:
        """Add the rounds of one answer.

        Args:
            accepted: Whether the target takes the draft's token at each position.
            confidence: How likely the draft thinks that, 0 to 1.
            k: Drafted tokens of a round, at most.
            stop: A batch ends before the token at which the product of its confidences falls below this.
        """
        position, length = 0, len(accepted)
        while position < length:
            together = np.cumprod(confidence[position : position + k])
            below = np.flatnonzero(together < stop)
            drafted = int(below[0]) if len(below) else len(together)
            wrong = np.flatnonzero(~accepted[position : position + drafted])
            taken = int(wrong[0]) if len(wrong) else drafted
            self.rounds += 1
            self.empty += drafted == 0
            self.drafted += drafted
            self.accepted += taken
            position += taken + 1
        self.tokens += length

    def figures(self) -> dict[str, float]:
        """Figures worth printing."""
        return {
            "tokens_per_round": round(self.tokens / max(1, self.rounds), 4),
            "accepted_per_drafted": round(self.accepted / max(1, self.drafted), 4),
            "empty_rounds": round(self.empty / max(1, self.rounds), 4),
        }


@dataclass(slots=True)
class ReplayFigures:
    """Sums over replayed rows, and the figures they make.

    Attributes:
        positions: Answer positions compared.
        matches: matches of them, where both models' most likely ids are equal.
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

    def figures(self) -> dict[str, float]:
        """Figures worth printing and keeping."""
        return {
            "positions": self.positions,
            "greedy_match": round(self.greedy_match, 4),
            "overlap": round(self.overlap, 4),
            "greedy_tokens": self.round_tokens,
            "tokens_per_round": round(self.tokens_per_round, 4),
        }


@torch.no_grad()
def replay(
    draft: nn.Module, n: int, rows: Iterable[Replay], k: int = 4, sums: ReplayFigures | None = None
) -> ReplayFigures:
    """Measure a draft on rows that it was not trained on.

    Args:
        draft: From ``build_draft`` or a materialised folder.
        n: Number of its backbone layers.
        rows: Rows to replay.
        k: Draft tokens per round.
        sums: Sums of earlier rows, to be added to.
    """
    sums, rounds = sums or ReplayFigures(), RoundCounts()
    weight = lm_head_weight(draft)
    for row in rows:
        first = len(row.backbone) - len(row.answer) - 1
        student = run_head(draft, n, row.backbone.to(weight.dtype)[None])[0, first:-1]
        proposed = []
        for span in chunks(len(student)):
            z = student[span] @ weight.T
            t = row.teacher_logits(span, weight)
            proposed.append(z.argmax(-1))
            sums.matches += int((proposed[-1] == t.argmax(-1)).sum())
            sums.overlap_sum += float(torch.minimum(z.float().softmax(-1), t.float().softmax(-1)).sum())
        sums.positions += len(student)
        if row.greedy:
            accepted = (torch.cat(proposed) == row.answer).numpy()
            rounds.play(accepted, np.ones(len(accepted)), k, stop=0.0)
    sums.rounds += rounds.rounds
    sums.round_tokens += rounds.tokens
    return sums


def cached_rows(
    cache: StateCache, rows: Sequence[int], lm_head: torch.Tensor | None = None
) -> Iterator[Replay]:
    """Rows whose states are in the cache; the teacher's LM head is given if it is not the draft's."""
    text = cache.text
    for row in rows:
        answer = torch.from_numpy(text.row(row)[text.prompt_len[row] :])
        yield Replay(
            cache.backbone(row),
            cache.final(row, int(text.prompt_len[row]) - 1),
            answer,
            bool(text.temperature[row] == 0),
            lm_head,
        )


def fresh_rows(base: nn.Module, n: int, text: TextRows) -> Iterator[Replay]:
    """Rows whose states are computed now, one by one."""
    for row in range(len(text)):
        ids = torch.from_numpy(text.row(row))
        backbone, final = teacher_states(base, n, ids[None])
        first = int(text.prompt_len[row])
        greedy = bool(text.temperature[row] == 0)
        yield Replay(backbone[0], final[0, first - 1 : -1], ids[first:], greedy)


@dataclass(frozen=True, slots=True)
class Coupled:
    """Answer, replayed with common dice.

    Attributes:
        row: Number of the answer.
        temperature: temperature of both models' choices.
        features: features of the draft's choices, see ``confidence.COLUMNS``, float64 of shape ``(positions, 5)``.
        accepted: Whether the target chose the same token, shape ``(positions,)``.
    """

    row: int
    temperature: float
    features: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.bool_]


@torch.no_grad()
def coupled(
    draft: nn.Module, n: int, rows: Iterable[Replay], temperatures: Sequence[float], *, first_row: int = 0
) -> Iterator[Coupled]:
    """Replay answers at several temperatures.

    Args:
        draft: From ``build_draft`` or a materialised folder.
        n: Number of its backbone layers.
        rows: Rows to replay; each throws dice of its own.
        temperatures: At which both models choose, whatever the text was written at.
        first_row: Number of the first row.
    """
    weight = lm_head_weight(draft)
    for number, row in enumerate(rows, first_row):
        first = len(row.backbone) - len(row.answer)
        student = run_head(draft, n, row.backbone.to(weight.dtype)[None])[0, first - 1 : -1]
        parts: dict[float, list[tuple[Floats, npt.NDArray[np.bool_]]]] = defaultdict(list)
        runs = dict.fromkeys(temperatures, 0)
        for span in chunks(len(student)):
            mine = (student[span] @ weight.T).float().numpy()
            theirs = row.teacher_logits(span, weight).float().numpy()
            for temperature in temperatures:
                params = SamplingParams(temperature, seed=number)
                found = samples(mine, theirs, params, first + span.start, runs[temperature])
                parts[temperature].append(found)
                runs[temperature] = _accepted_run(runs[temperature], found[1])
        for temperature, pieces in parts.items():
            features, accepted = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            yield Coupled(number, temperature, features, accepted)


def samples(
    draft: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    params: SamplingParams,
    first: int,
    accepted_run: int = 0,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Observations for `calibrate.fit`, from the logits of both models over one stretch of the target's text.

    Args:
        draft: logits, float32 of shape [positions, vocabulary].
        target: the same, each row after the same prefix.
        params: which dice both throw.
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


def figures(
    answers: Iterable[Coupled], calibration: ConfidenceCalibration | None, k: int, stop: float
) -> dict[str, dict[str, Any]]:
    """Figures worth printing, by temperature.

    Args:
        answers: answers of all temperatures.
        calibration: Makes confidences; without one, ``USUAL`` does, as on a device.
        k: Drafted tokens of a round, at most.
        stop: See ``RoundCounts.play``.

    Returns:
        For each temperature ``acceptance`` (share of positions where both models choose alike),
        ``by_position`` (see ``survival``), and the figures of ``RoundCounts``.
    """
    by_temperature: dict[float, list[Coupled]] = defaultdict(list)
    for answer in answers:
        by_temperature[answer.temperature].append(answer)
    found = {}
    for temperature, mine in sorted(by_temperature.items()):
        rounds = RoundCounts()
        for answer in mine:
            rounds.play(answer.accepted, (calibration or USUAL).probabilities(answer.features), k, stop)
        accepted = [answer.accepted for answer in mine]
        found[f"{temperature:g}"] = {
            "acceptance": round(float(np.concatenate(accepted).mean()), 4),
            "by_position": [round(share, 4) for share in survival(accepted, k)],
            **rounds.figures(),
        }
    return found


def _accepted_run(before: int, accepted: npt.NDArray[np.bool_]) -> int:
    """How many choices in a row were the target's, at the end of these."""
    wrong = np.flatnonzero(~accepted)
    return len(accepted) - 1 - int(wrong[-1]) if len(wrong) else before + len(accepted)
