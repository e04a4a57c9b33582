"""Tokens of all rows of a forward at once, in torch, where the logits are: the same ids as `choose` gives.

Few tokens of a row can be chosen: those that are nearly as likely as the likeliest one, and those whose noise is large.
Rows are read twice at most, in whole; noise, min-p, top-k and top-p look at these few. Libraries round logarithms and
sums in ways of their own, so what lies too close to be told, or is too flat to be quick, is left to `choose`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from flexspec_mq.sampling.choose import choose, keeps_all
from flexspec_mq.sampling.noise import hashed, hashed_before, lucky_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from flexspec_mq.sampling.noise import Lucky
    from flexspec_mq.sampling.penalties import Penalties
    from schemas.messages import Sampling

_REACH = 10.0
"""Tempered logits below the likeliest token. A token that lies deeper is chosen only if its noise is large: the least
noise is -3.13, and tokens that are not of `lucky_words` have less than 6.24."""
_BLOCKS = (64, 128, 32, 16, 8, 4, 2, 1)
"""Token ids whose largest logit is looked at first; the first that divides the vocabulary."""
_MOST_BLOCKS = 512
"""Blocks of a row that may hold candidates; with more, sorting them would take as long as `choose` does."""
_FEW = 250_000
"""Logits on a processor that `choose` gets through sooner: a row of 152,000 ids, or five of 49,000."""
_ROUNDING = 1e-9
"""Bound on the relative rounding of a score."""
_MASS_ROUNDING = 2e-5
"""Bound on the relative rounding of a row's mass, a sum in float32."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw of the token behind one row of logits.

    Attributes:
        params: as for `choose`.
        position: index of the token in prompt + text.
        lucky: `lucky_words` of the seed and this position if they are drawn already.
        allowed: as for `choose`; such a row is left to it.
    """

    params: Sampling
    position: int
    lucky: Lucky | None = None
    allowed: npt.NDArray[np.bool_] | None = None


def few(rows: int, vocabulary: int) -> bool:
    """Whether a processor leaves so few logits to `choose`, which looks at a row only when it is asked for."""
    return rows * vocabulary < _FEW


def needs_luck(params: Sampling, vocabulary: int) -> bool:
    """Whether any token may be chosen, however unlikely, so that `lucky_words` are asked for."""
    return params.temperature > 0.0 and keeps_all(params, vocabulary)


@torch.inference_mode()
def penalized(logits: torch.Tensor, changes: Sequence[Penalties | None]) -> torch.Tensor:
    """Logits as the penalties of texts leave them, in float32 where there are any.

    Args:
        logits: floating point of shape [rows, vocabulary], on any device.
        changes: change of the rows of each text, in order; None leaves one row as it is.
    """
    if all(change is None for change in changes):
        return logits
    logits, row = logits.to(torch.float32, copy=True), 0
    for change in changes:
        end = row + (1 if change is None else len(change.counts))
        if change is not None:
            ids = torch.from_numpy(change.ids).to(logits.device)
            changed = change.of(logits[row:end, ids].cpu().numpy())
            logits[row:end, ids] = torch.from_numpy(changed).to(logits.device)
        row = end
    return logits


@torch.inference_mode()
def choose_rows(logits: torch.Tensor, draws: Sequence[Draw]) -> Callable[[int], int]:
    """Choose the tokens behind all rows.

    Args:
        logits: floating point of shape [rows, vocabulary], on any device.
        draws: how each row is sampled.

    Returns:
        From the index of a row to its token's id.
    """
    alone = not draws or (logits.device.type == "cpu" and few(*logits.shape))
    chosen = [-1] * len(draws) if alone else _chosen(logits, draws)

    def token(row: int) -> int:
        draw = draws[row]
        if chosen[row] >= 0 and draw.allowed is None:
            return chosen[row]
        found: npt.NDArray[np.float32] = logits[row].float().cpu().numpy()
        return choose(found, draw.params, draw.position, draw.allowed)

    return token


def _chosen(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """Ids of the rows' tokens; -1 where `choose` has to decide."""
    batch = _Batch(logits, draws)
    if all(draw.params.temperature == 0.0 for draw in draws):
        return batch.likeliest()
    scores, ids = batch.candidates()
    kept, unsure = batch.kept(scores)
    row, column = kept.nonzero(as_tuple=True)
    return batch.best(row, ids[row, column], scores[row, column], unsure)


class _Batch:
    """Rows that are sampled together, with their parameters as tensors of shape [rows]."""

    def __init__(self, logits: torch.Tensor, draws: Sequence[Draw]) -> None:
        params, device = [draw.params for draw in draws], logits.device
        vocabulary = logits.shape[1]
        top_k = [p.top_k if p.temperature and p.top_k < vocabulary else 0 for p in params]
        mass_wanted = [
            p.temperature > 0.0 and p.top_p < 1.0 and not k and not p.min_p
            for p, k in zip(params, top_k, strict=True)
        ]
        self._draws = draws
        self._size = next(size for size in _BLOCKS if vocabulary % size == 0)
        self._blocks = logits.view(len(draws), -1, self._size)
        self._temperature = torch.tensor([p.temperature for p in params], dtype=torch.float64, device=device)
        self._greedy = self._temperature == 0.0
        self._temperature[self._greedy] = 1.0
        self._top_k = torch.tensor(top_k, device=device)
        self._top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
        self._least: torch.Tensor | None = None
        """The least tempered logit that min-p leaves, less the likeliest one's; None where no row has it."""
        if any(p.min_p and p.temperature for p in params):
            least = [math.log(p.min_p) if p.min_p and p.temperature else -math.inf for p in params]
            self._least = torch.tensor(least, dtype=torch.float64, device=device)
        signed = [p.seed - (p.seed >> 63 << 64) for p in params]
        self._seed = torch.tensor(signed, device=device)
        self._position = torch.tensor([draw.position for draw in draws], device=device)
        peaks, masses = [], []
        # A processor keeps a row in its cache, and finds the largest of float32 16 times as fast as of bfloat16.
        step = 1 if device.type == "cpu" else len(draws)
        for begin in range(0, len(draws), step):
            span = slice(begin, begin + step)
            part = self._blocks[span].float()
            peaks.append(part.amax(dim=2))
            if any(mass_wanted[span]):
                # To the base 2, which takes a quarter of the time.
                factor = (math.log2(math.e) / self._temperature[span]).float()[:, None, None]
                part = part.sub(peaks[-1].amax(dim=1)[:, None, None]).mul_(factor).exp2_()
            masses.append(part.sum(dim=(1, 2)) if any(mass_wanted[span]) else part.new_ones(len(part)))
        self._peaks = torch.cat(peaks)
        self._top = self._peaks.amax(dim=1).double()
        self._mass = torch.cat(masses).double()
        """Mass of all tokens beside the likeliest one's, where the nucleus is one of all tokens."""

    def likeliest(self) -> list[int]:
        """Ids with the largest logit, the lowest of equal ones."""
        block = self._peaks.argmax(dim=1, keepdim=True)
        inner = self._blocks.take_along_dim(block[..., None], dim=1)[:, 0].argmax(dim=1, keepdim=True)
        ids: list[int] = (block * self._size + inner)[:, 0].tolist()
        return ids

    def candidates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tempered logits of the likeliest tokens, and their ids; [rows, most].

        They are in descending order, ties by id, unless every token may be chosen, and else by id. Behind a row's last
        candidate the scores are minus infinity. A row may have none.
        """
        blocks, peaks = self._blocks, self._peaks.double()
        border = self._top - _REACH * self._temperature
        border = torch.where(self._greedy, self._top, border)
        most = int(self._top_k.max())
        if most:
            # As many tokens as blocks reach the peaks of these blocks.
            best = peaks.topk(min(most, peaks.shape[1]), dim=1).values
            at = (self._top_k - 1).clamp_(0, best.shape[1] - 1)[:, None]
            border = torch.where(self._top_k > 0, best.gather(1, at)[:, 0], border)
        near = peaks >= border[:, None]
        near &= (near.sum(dim=1) <= _MOST_BLOCKS)[:, None]
        near &= (self._top_k <= peaks.shape[1])[:, None]
        row, block = near.nonzero(as_tuple=True)
        values = blocks[row, block].double()
        place, inner = ((values >= border[row, None]) & (values > -torch.inf)).nonzero(as_tuple=True)
        row, ids = row[place], block[place] * self._size + inner
        counts = torch.bincount(row, minlength=len(peaks))
        column = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        scores = peaks.new_full((len(peaks), max(1, int(counts.max()))), -torch.inf)
        scores[row, column] = values[place, inner] / self._temperature[row]
        named = torch.zeros(scores.shape, dtype=torch.long, device=row.device)
        named[row, column] = ids
        if all(keeps_all(draw.params, blocks[0].numel()) for draw in self._draws):
            return scores, named
        ordered, order = scores.sort(dim=1, descending=True, stable=True)
        return ordered, named.gather(1, order)

    def kept(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which candidates min-p, top-k and top-p leave, [rows, most], and whether that cannot be told, [rows]."""
        kept = scores > -torch.inf
        kept[:, 1:] &= ~self._greedy[:, None]
        unsure = ~kept[:, 0] | ~self._top.isfinite()
        known = self._top_k > 0
        column = torch.arange(scores.shape[1], device=scores.device)
        kept &= (column < self._top_k[:, None]) | ~known[:, None]
        if self._least is not None:
            unsure |= self._least.isfinite() & (self._least < -_REACH) & ~known
            kept &= ~(scores < (self._top / self._temperature + self._least)[:, None])
            known |= self._least.isfinite()
        by_mass = (self._top_p < 1.0) & ~self._greedy
        if by_mass.any():
            mass = torch.where(kept, (scores - scores[:, :1]).exp(), 0.0).cumsum(dim=1)
            wanted = self._top_p * torch.where(known, mass[:, -1], self._mass)
            least, most = (
                (mass < (wanted * bound)[:, None]).sum(dim=1)
                for bound in (1.0 - _MASS_ROUNDING, 1.0 + _MASS_ROUNDING)
            )
            unsure |= by_mass & ((least != most) | (least >= kept.sum(dim=1)) | ~wanted.isfinite())
            kept &= (column <= least[:, None]) | ~by_mass[:, None]
        return kept, unsure

    def best(
        self, row: torch.Tensor, ids: torch.Tensor, scores: torch.Tensor, unsure: torch.Tensor
    ) -> list[int]:
        """Candidates with the largest score with noise, by row; -1 where two are too close, or the row is unsure."""
        rows, vocabulary = len(self._draws), self._blocks[0].numel()
        drawn = words_of(self._seed[row], self._position[row], ids)
        lucky = {
            place: draw.lucky or lucky_words(draw.params.seed, draw.position, vocabulary)
            for place, draw in enumerate(self._draws)
            if needs_luck(draw.params, vocabulary)
        }
        if lucky:
            more, words = (
                torch.from_numpy(np.concatenate(parts)).to(row.device)
                for parts in zip(*lucky.values(), strict=True)
            )
            counts = torch.tensor([len(few) for few, _ in lucky.values()], device=row.device)
            whose = torch.tensor(list(lucky), device=row.device).repeat_interleave(counts)
            logits = self._blocks[whose, more // self._size, more % self._size].double()
            row, ids, drawn = torch.cat((row, whose)), torch.cat((ids, more)), torch.cat((drawn, words))
            scores = torch.cat((scores, logits / self._temperature[whose]))
        scores = scores + gumbel_of(drawn)
        best = scores.new_full((rows,), -torch.inf).scatter_reduce_(0, row, scores, "amax")
        slack = _ROUNDING * (self._top.abs() / self._temperature + 40.0)
        near = scores >= (best - slack)[row]
        row, ids = row[near], ids[near]
        first = ids.new_full((rows,), vocabulary).scatter_reduce_(0, row, ids, "amin")
        last = ids.new_full((rows,), -1).scatter_reduce_(0, row, ids, "amax")
        chosen: list[int] = torch.where(unsure | (first != last), -1, first).tolist()
        return chosen


def words_of(seed: torch.Tensor, position: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Draw the words of some token ids, each with a seed and a position of its own, as `noise.words` does.

    All are int64 of one shape; seeds are the unsigned ones' bits.
    """
    return hashed(hashed_before(seed, position), ids)


def gumbel_of(drawn: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel variates of words, float64 of the same shape."""
    return ((2.0**32 - 0.5 - drawn.double()) * 2.0**-32).log_().neg_().log_().neg_()
