"""What a draft would have accepted with the product's own dice on both sides, offline, at any temperature.

The target's own text is replayed: at each position of an answer both models choose from their logits after
the same prefix, as `flexspec_mq.sampling` does in the product, and a draft token is accepted iff both chose
the same. What follows a rejected token in the same batch is not known from such a replay; where batches are
counted, the text's own next positions stand for it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flexspec_mq.models.draft.confidence import COLUMNS, USUAL, Calibration, features_of
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from training.draft.architecture import lm_head_weight, run_head
from training.draft.evaluate import Rounds
from training.draft.losses import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt
    from torch import nn

    from flexspec_mq.models.draft.confidence import Floats
    from training.draft.evaluate import Replay

TEMPERATURES = (0.0, 0.7, 1.0)


@dataclass(frozen=True, slots=True)
class Coupled:
    """One answer, replayed with common dice.

    Attributes:
        row: Number of the answer.
        temperature: Of both models' choices.
        features: Of the draft's choices, see ``confidence.COLUMNS``, float64 of shape ``(positions, 5)``.
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
        n: Its backbone layers.
        rows: What to replay; each throws dice of its own.
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
    """What `calibrate.fit` takes, from the logits of both models over one stretch of the target's text.

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
    answers: Iterable[Coupled], calibration: Calibration | None, k: int, stop: float
) -> dict[str, dict[str, Any]]:
    """What is worth printing, by temperature.

    Args:
        answers: Of all temperatures.
        calibration: Makes confidences; without one, ``USUAL`` does, as on a device.
        k: Drafted tokens of a round, at most.
        stop: See ``Rounds.play``.

    Returns:
        For each temperature ``acceptance`` (share of positions where both models choose alike),
        ``by_position`` (see ``survival``), and the figures of ``Rounds``.
    """
    by_temperature: dict[float, list[Coupled]] = defaultdict(list)
    for answer in answers:
        by_temperature[answer.temperature].append(answer)
    found = {}
    for temperature, mine in sorted(by_temperature.items()):
        rounds = Rounds()
        for answer in mine:
            rounds.play(answer.accepted, confidences(answer.features, calibration), k, stop)
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


def confidences(
    features: npt.NDArray[np.float64], calibration: Calibration | None
) -> npt.NDArray[np.float64]:
    """Probability that the target takes each token."""
    return (calibration or USUAL).probabilities(features)
