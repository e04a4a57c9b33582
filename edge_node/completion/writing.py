"""Writing one text for a user: prompt to tokens, tokens to text, figures on the way."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge_node.completion.events import Clock, pieces, stats_event
from edge_node.generation import GenerationRequest
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.errors import FlexSpecError, TimeIsOver, UsageError
from flexspec_mq.models.text import StreamDecoder, Turn, encode_turns
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Plan, Policy
    from flexspec_mq.models.load import LoadedText


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a user wants texts written.

    Attributes:
        seed: of the common random numbers; None draws one for each text.
        limit: tokens at most; cut to what the context leaves.
        plan: for drafts.
        policy: makes what adapts it.
        timeout: seconds for a text; None is no bound.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    limit: int
    plan: Plan
    policy: Callable[[Plan], Policy] = FixedPolicy
    ignore_eos: bool = False
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no text can be written with.

        Raises:
            UsageError: naming the value.
        """
        self.sampling(0)
        if self.limit < 1:
            raise UsageError(f"a limit of {self.limit} tokens leaves nothing to write", hint="use at least 1")
        if self.timeout is not None and not self.timeout > 0:  # nan is not either
            raise UsageError(f"a timeout of {self.timeout} s is over before it begins")

    def sampling(self, drawn: int) -> SamplingParams:
        """The sampling parameters, with the user's seed or else with `drawn`."""
        seed = drawn if self.seed is None else self.seed
        return SamplingParams(self.temperature, self.top_k, self.top_p, seed)


async def write(
    node: EdgeNode, model: LoadedText, turns: Sequence[Turn], wish: Wish
) -> AsyncGenerator[dict[str, Any]]:
    """Write the next turn of a conversation; yields the events of `events`.

    Closing the iterator early cancels the text, up to the worker.

    Raises:
        UsageError: the prompt is empty, or leaves no room in the context.
        TimeIsOver: after its `finish` event.
        FlexSpecError: what made it fail, after its `finish` event.
    """
    prompt = encode_turns(model.tokenizer, turns, max_context=model.max_context)
    sampling = wish.sampling(secrets.randbits(64))
    request = GenerationRequest(
        prompt=prompt,
        sampling=sampling,
        limit=min(wish.limit, model.max_context - len(prompt)),
        policy=wish.policy(wish.plan),
        ignore_eos=wish.ignore_eos,
        timeout=wish.timeout,
    )
    clock = Clock()
    decoder = StreamDecoder(model.tokenizer)
    generation = node.generate(request)
    yield {"type": "start", "prompt_tokens": len(prompt), "seed": sampling.seed}
    text: list[str] = []
    finish = Finish(FinishReason.CANCELLED)
    try:
        async for event in generation:
            if isinstance(event, Finish):
                finish = event
                break
            clock.committed()
            shown = pieces(decoder, event)
            text += [piece for piece, _ in shown]
            yield {"type": "text", "pieces": shown}
            yield stats_event(clock.stats(generation))
    finally:
        node.cancel(generation)
    if rest := decoder.finish():
        text.append(rest)
        yield {"type": "text", "pieces": [(rest, False)]}
    error = finish.error if finish.reason is FinishReason.FAILED else None
    if finish.reason is FinishReason.DEADLINE:
        error = TimeIsOver(
            f"the text was not finished within {wish.timeout:g} s",
            hint="raise --timeout, or lower --max-tokens",
        )
    yield _finish_event(generation, finish, "".join(text), clock, error)
    if error is not None:
        raise error


def _finish_event(
    generation: Generation, finish: Finish, text: str, clock: Clock, error: FlexSpecError | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "finish",
        "reason": finish.reason.value,
        "tokens": list(generation.machine.committed),
        "text": text,
        "stats": asdict(clock.stats(generation)),
    }
    if error is not None:
        found |= {"error": error.message, "hint": error.hint}
    return found
