"""From a row of the draft's logits to a proposal, as confident as the draft's calibration says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.draft.confidence import KEY, USUAL, ConfidenceCalibration, features_of
from flexspec_mq.sampling.noise import words_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from flexspec_mq.sampling.params import SamplingParams

    Proposer = Callable[[npt.NDArray[np.float32], SamplingParams, int, int], DraftToken]
    """Called with logits of shape [columns], sampling parameters, the token's position in prompt + text, and how many
    of the draft's choices before it were right, one after another."""


def proposer_of(
    calibration: ConfidenceCalibration | None, ids: npt.NDArray[np.int64] | None = None
) -> Proposer:
    """Maker of proposals from logits.

    Args:
        calibration: the draft's; without one, `USUAL`.
        ids: token id of each column of the logits, ascending; None when they are all ids. A column's noise is that
            of its token, whichever columns there are.
    """
    known = calibration or USUAL

    def propose(
        logits: npt.NDArray[np.float32], params: SamplingParams, position: int, run: int
    ) -> DraftToken:
        drawn = None
        if ids is not None and params.temperature > 0.0:
            drawn = words_of(params.seed, position, ids)
        column, features = features_of(logits, params, position, run, drawn)
        token = column if ids is None else int(ids[column])
        return DraftToken(token, known.probability(features))

    return propose


def read_calibration(folder: Path) -> ConfidenceCalibration | None:
    """The calibration that ships with a draft's checkpoint; None if none does.

    Raises:
        ModelError: there is one that cannot be read.
    """
    try:
        found: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / MARKER} cannot be read: {error}", hint="export the draft again"
        ) from error
    if not isinstance(found, dict) or found.get(KEY) is None:
        return None
    return ConfidenceCalibration.from_json(found[KEY])
