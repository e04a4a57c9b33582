"""Distillation through a frozen LM head, with gradients in closed form.

Logits of 49k ids for every position dominate the cost of training a small draft. Forming the gradient with
respect to the student's hidden state by hand takes three matrix products per position and keeps no graph over
the vocabulary. With q the student's and p the teacher's distribution, and logits z of the student:

- KL(p, q) = sum p log(p/q):  d/dz = q - p
- TV(p, q) = 1 - sum min(p, q):  d/dz = q (sum q [q < p] - [q < p])

Both distributions may be those of a temperature other than 1, which divides the logits and the gradients.

The hybrid is w KL + (1 - w) TV with w = exp(-3 A), with A = sum min(p, q), the acceptance to be raised (the
adaptive loss of "LK losses", which goes over to TV as the draft gets better).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

CHUNK = 128
HYBRID_DECAY = 3.0


def hybrid_weight(overlap: float) -> float:
    """Share of KL in the hybrid loss for an acceptance of ``overlap`` in [0, 1]."""
    return math.exp(-HYBRID_DECAY * overlap)


@dataclass(frozen=True, slots=True)
class LMHead:
    """The frozen LM head, or a random part of it.

    Attributes:
        weight: Shape ``(ids, width)``.
        bias: Added to both models' logits, shape ``(ids,)`` float32; None for none.
        temperature: Divisor of the logits. At T = 0 only the likeliest token counts, and low
            temperatures weigh it more.
        teacher: The teacher's at the same ids, if it has another one; None if both share ``weight``.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    temperature: float = 1.0
    teacher: torch.Tensor | None = None


def sampled_head(
    weight: torch.Tensor,
    common: torch.Tensor,
    extra: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    teacher: torch.Tensor | None = None,
) -> LMHead:
    """Cut the LM head down to the common ids and a fresh random draw of the others.

    Each drawn id stands for all that were not drawn: its logit rises by log(others / drawn), which keeps the
    expectation of both softmax denominators.

    Args:
        weight: The whole LM head, shape ``(vocabulary, width)``.
        common: Ids that are always in, shape ``(common,)``, without repeats.
        extra: How many others to draw.
        generator: Source of the draw.
        temperature: temperature of the softmax.
        teacher: The teacher's LM head, if it has another one.
    """
    rest = torch.ones(weight.shape[0], dtype=torch.bool)
    rest[common] = False
    others = rest.nonzero()[:, 0]
    drawn = others[torch.randperm(len(others), generator=generator)[:extra]]
    bias = torch.zeros(len(common) + len(drawn))
    if len(drawn):
        bias[len(common) :] = math.log(len(others) / len(drawn))
    ids = torch.cat((common, drawn))
    return LMHead(weight[ids], bias.to(weight.device), temperature, None if teacher is None else teacher[ids])


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over positions: count, KL in nats, and Σ min(p, q)."""

    positions: int
    kl: float
    overlap: float


@torch.no_grad()
def distil(
    student: torch.Tensor, teacher: torch.Tensor, head: LMHead, kl_share: float
) -> tuple[torch.Tensor, LossSums]:
    """Gradient of the summed loss with respect to the student's hidden states.

    Args:
        student: Final hidden states, shape ``(positions, width)``.
        teacher: The teacher's at the same positions.
        head: LM head that both models share, but for `LMHead.teacher`.
        kl_share: Share of KL in the loss; 1 is plain KL, 0 plain TV.

    Returns:
        The gradient, shaped and typed as ``student``, and the sums.
    """
    gradient = torch.empty_like(student)
    kl = overlap = 0.0
    for span in chunks(len(student)):
        z, q = _distribution(student[span], head, head.weight)
        t, p = _distribution(teacher[span], head, head.weight if head.teacher is None else head.teacher)
        kl += float(t.sub_(z).mul_(p).sum())
        overlap += float(torch.minimum(p, q, out=t).sum())
        slope = q - p
        if kl_share < 1:
            below = torch.where(slope < 0, q, 0.0)
            tv = q.mul_(below.sum(-1, keepdim=True)).sub_(below)
            slope.mul_(kl_share).add_(tv, alpha=1 - kl_share)
        gradient[span] = slope.div_(head.temperature).to(student.dtype) @ head.weight
    return gradient, LossSums(len(student), kl, overlap)


def chunks(positions: int, size: int = CHUNK) -> Iterator[slice]:
    """Cut a range of positions so that a chunk's logits stay in the processor's cache."""
    return (slice(first, min(first + size, positions)) for first in range(0, positions, size))


def _distribution(
    hidden: torch.Tensor, head: LMHead, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and probabilities, float32, shape ``(positions, ids)``."""
    logits = (hidden @ weight.T).float()
    if head.temperature != 1.0:
        logits /= head.temperature
    if head.bias is not None:
        logits += head.bias
    logits -= logits.logsumexp(-1, keepdim=True)
    return logits, logits.exp()
