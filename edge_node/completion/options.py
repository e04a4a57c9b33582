"""A text's beginning and its token ids, and how the text is to be written."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from flexspec_mq.errors import GrammarError, UsageError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import ToolUse
from flexspec_mq.models.text import Turn, encode_turns, render_turns
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.telemetry import Carrier
from schemas.openai import Offline

if TYPE_CHECKING:
    from flexspec_mq.models.load import LoadedText

WHOLE_CONTEXT = -1
"""Limit of a text that may be as long as the context leaves."""
_BEGINNING = 256
"""Characters or tokens of a prompt without turns that name its conversation."""
SEED_BITS = 53
"""Bits of seeds that we draw: programs read numbers from JSON, some of them as floats."""

_CHARACTERS = 8
"""Characters of a prediction's token at most, on average; a part of more is not read."""
_FIRST = 16
"""Characters of a prompt for each position of the context that are tokenised first: few texts have longer tokens."""
_UNSETTLED = 256
"""Tokens at the end of a part that what follows may change."""

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
        user: name that the client gives its user: answers to others are not drafted from.
        key: names the conversation, which decides its side of a canary; empty takes its beginning.
        wait: patience: seconds without a token after which the text fails while the broker is away, no worker serves
            the version or all have too much to do; 0 and None are the node's.
        offline: offline mode, for while nobody can be reached; None is `hold`.
        prediction: a text that much of this one will probably be. It speeds the text up and never changes it.
        grammar: the texts that are allowed; None allows all.
        truncate: leave out the oldest turns of a conversation that is too long for the context.
        tools: tools that it may call, in place of such a text.
        trace_context: context of whoever asks, to whose trace the text belongs.
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
    user: bytes = b""
    key: bytes = b""
    wait: float | None = None
    offline: Offline | None = None
    prediction: str | None = None
    grammar: Grammar | None = None
    tools: ToolUse | None = None
    truncate: bool = False
    trace_context: Carrier = ()

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
        asked = [turn.content for turn in prompt if isinstance(turn, Turn) and turn.role == "user"]
        first = asked[0] if asked else repr(prompt[:_BEGINNING])
    return blake2b(first.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class PromptError(UsageError):
    """The prompt cannot be taken."""


class ToolError(GrammarError):
    """The parameters of a tool are a schema that cannot be followed."""


class PromptTooLong(PromptError):
    """The prompt leaves no room in the context."""


def encode(
    model: LoadedText, prompt: Prompt, tools: ToolUse | None = None, room: int | None = None
) -> tuple[int, ...]:
    """The token ids of a prompt, at least one, with room for one more in the context. May take a while.

    Args:
        model: whose tokenizer to use.
        prompt: beginning of the text.
        tools: tools that the prompt of a conversation describes.
        room: positions for the answer where the prompt is too long without its oldest turns; None leaves out none.

    Raises:
        PromptError: it is empty, too long, names what is no token, or the chat template refuses it.
    """
    if isinstance(prompt, str):
        _check_length(model, prompt)
        ids = tuple(model.tokenizer.encode(prompt))
    elif prompt and isinstance(prompt[0], int):
        ids = tuple(token for token in prompt if isinstance(token, int))
        if max(ids) >= model.vocab_size:
            raise PromptError(
                f"token id {max(ids)} is not below {model.vocab_size}, the size of the vocabulary"
            )
    else:
        turns = [turn for turn in prompt if isinstance(turn, Turn)]
        ids = _turns(model, turns, tools) if room is None else _newest(model, turns, tools, room)
    if not ids:
        raise PromptError("the prompt is empty")
    if len(ids) >= model.max_context:
        raise _too_long(model, f"{len(ids)}")
    return ids


def encode_prediction(model: LoadedText, prediction: str, most: int) -> tuple[int, ...]:
    """The token ids of the first part of a predicted text. May take a while.

    Args:
        model: whose tokenizer to use.
        prediction: text of any length.
        most: tokens that are of use.
    """
    text = prediction[: most * _CHARACTERS]
    return tuple(model.tokenizer.encode(text, add_special_tokens=False)[:most])


def _check_length(model: LoadedText, text: str) -> None:
    """Refuse a text whose first part alone does not fit: to tokenise megabytes takes seconds."""
    first = text[: _FIRST * model.max_context]
    if len(first) < len(text):
        least = len(model.tokenizer.encode(first)) - _UNSETTLED
        if least >= model.max_context:
            raise _too_long(model, f"at least {least}")


def _too_long(model: LoadedText, count: str) -> PromptTooLong:
    return PromptTooLong(
        f"the prompt has {count} tokens and the model's context {model.max_context}, new tokens included",
        hint="shorten the prompt or drop the oldest turns",
    )


def _turns(model: LoadedText, turns: list[Turn], tools: ToolUse | None) -> tuple[int, ...]:
    try:
        _check_length(model, render_turns(model.tokenizer, turns, tools))
        # The length in tokens is checked by the caller, for all kinds of prompts.
        return encode_turns(model.tokenizer, turns, tools, max_context=2**62)
    except PromptTooLong:
        raise
    except UsageError as error:
        raise PromptError(error.message, hint=error.hint) from error


def _newest(model: LoadedText, turns: list[Turn], tools: ToolUse | None, room: int) -> tuple[int, ...]:
    """The token ids of a conversation, without its oldest turns if it is too long.

    The rest begins with a question, and with all that the system said before, and leaves room for an answer.
    """
    most, left, starts = _FIRST * model.max_context, 0, list[int]()
    for at in reversed(range(len(turns))):  # to render megabytes again and again takes seconds, too
        left += len(turns[at].content)
        if turns[at].role == "user" and (left <= most or not starts):
            starts.insert(0, at)

    def since(start: int) -> tuple[int, ...]:
        return _turns(model, [turn for turn in turns[:start] if turn.role == "system"] + turns[start:], tools)

    def fits(start: int, room: int = room) -> bool:
        try:
            return len(since(start)) < model.max_context - room
        except PromptTooLong:
            return False

    if not starts or (left <= most and fits(0, 0)):
        return since(0)
    return since(starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)])
