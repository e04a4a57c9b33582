"""The interface between the daemon and whatever decides tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker import WorkItem


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker tells of its verifier.

    Attributes:
        fingerprint: of the tokenizer's contents, 16 bytes.
        flip_rate: measured share of tokens that another shape changes; None where it is exact.
    """

    fingerprint: bytes
    max_context: int
    vocab_size: int
    exactness: Literal["exact", "exact up to ties", "unknown"]
    flip_rate: float | None
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step decided.

    Attributes:
        decided: finished items with their tokens.
        compute_ms: of the forward.
    """

    decided: list[tuple[WorkItem, tuple[int, ...]]]
    compute_ms: int


class Verifier(Protocol):
    """Decides tokens for work items. All methods but `facts` are called on one thread of their own."""

    @property
    def facts(self) -> Facts:
        """What it is."""
        ...

    def add(self, item: WorkItem) -> None:
        """Take an item in; a later `step` decides it."""
        ...

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        ...

    def step(self) -> StepResult:
        """Run one forward over what is pending."""
        ...

    def idle(self) -> bool:
        """Whether nothing is pending."""
        ...
