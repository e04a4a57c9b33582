"""A text's beginning, and how the text is to be written."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn
from flexspec_mq.sampling.params import SamplingParams

WHOLE_CONTEXT = -1
"""Limit of a text that may be as long as the context leaves."""
_BEGINNING = 256
"""Characters or tokens of a prompt without turns that name its conversation."""
SEED_BITS = 53
"""Bits of seeds that we draw: programs read numbers from JSON, some of them as floats."""

Prompt = str | tuple[int, ...] | tuple[Turn, ...]
"""Text, token ids, or the turns of a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOptions:
    """How a text is to be written. None leaves a value to the target's makers, or as stated.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep this mass of them.
        seed: 64 bits; None draws one.
        limit: tokens at most, or `WHOLE_CONTEXT`; None is the node's default.
        stops: non-empty strings that end the text and are not shown.
        ignore_eos: go on to the limit.
        timeout: seconds for the whole text, waiting included; None is no bound.
        version: target version, or with a family what stands for one; None is the node's.
        key: names the conversation, which decides its side of a canary; empty takes its beginning.
        wait: seconds to wait for the link to the broker, and then for a worker while none serves the version.
        prediction: a text that much of this one will probably be. It speeds the text up and never changes it.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    limit: int | None = None
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    timeout: float | None = None
    version: str | None = None
    key: bytes = b""
    wait: float = 0.0
    prediction: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no text can be written with.

        Raises:
            UsageError: naming the value.
        """
        self.sampling(0, SamplingParams())
        if self.limit not in (None, WHOLE_CONTEXT) and self.limit < 1:
            raise UsageError(f"a limit of {self.limit} tokens leaves nothing to write", hint="use at least 1")
        if self.timeout is not None and not self.timeout > 0:  # nan is not either
            raise UsageError(f"a timeout of {self.timeout} s is over before it begins")

    @property
    def leaves_to_target(self) -> bool:
        """Whether it matters what the makers of the target recommend."""
        return self.temperature is None or (self.temperature > 0 and None in (self.top_k, self.top_p))

    def sampling(self, drawn: int, recommended: SamplingParams) -> SamplingParams:
        """The sampling parameters, with the seed that is asked for or else with `drawn`."""
        return SamplingParams(
            recommended.temperature if self.temperature is None else self.temperature,
            recommended.top_k if self.top_k is None else self.top_k,
            recommended.top_p if self.top_p is None else self.top_p,
            drawn if self.seed is None else self.seed,
        )


def conversation_key(prompt: Prompt) -> bytes:
    """Names the conversation that a prompt is of by what does not change as it goes on: its user's first message."""
    if isinstance(prompt, str):
        first = prompt[:_BEGINNING]
    else:
        said = [one.content for one in prompt if isinstance(one, Turn) and one.role == "user"]
        first = said[0] if said else repr(prompt[:_BEGINNING])
    return blake2b(first.encode("utf-8", "surrogatepass"), digest_size=16).digest()
