"""Sampling parameters that a user can give."""

from dataclasses import dataclass
from typing import Self

from flexspec_mq.errors import UsageError
from schemas.messages import MAX_TOKEN_ID, Identity


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen from logits.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens with at least this mass; 1.0 keeps all.
        seed: unsigned 64-bit key of the common random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """Parameters of a session, the same at edge and worker."""
        return cls(identity.temperature, identity.top_k, identity.top_p, identity.seed)

    def __post_init__(self) -> None:
        """Refuse values that no choice can be made with.

        Raises:
            UsageError: naming the value.
        """
        if not 0.0 <= self.temperature <= 100.0:
            raise UsageError(f"temperature {self.temperature} is not between 0 and 100")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top_p {self.top_p} is not above 0 and at most 1")
        if not 0 <= self.top_k <= MAX_TOKEN_ID:
            raise UsageError(
                f"top_k {self.top_k} is not between 0 and {MAX_TOKEN_ID}", hint="0 turns top-k off"
            )
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed} does not fit in 64 bits")
