"""From a prompt to its token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn, encode_turns, render_turns

if TYPE_CHECKING:
    from edge_node.completion.options import Prompt
    from flexspec_mq.models.load import LoadedText


_CHARACTERS = 8
"""Characters of a prediction's token at most, on average; a part of more is not read."""
_FIRST = 16
"""Characters of a prompt for each position of the context that are tokenised first: few texts have longer tokens."""
_UNSETTLED = 256
"""Tokens at the end of a part that what follows may change."""


class PromptError(UsageError):
    """The prompt cannot be taken."""


class PromptTooLong(PromptError):
    """The prompt leaves no room in the context."""


def encode(model: LoadedText, prompt: Prompt) -> tuple[int, ...]:
    """The token ids of a prompt, at least one, with room for one more in the context. May take a while.

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
        ids = _turns(model, [turn for turn in prompt if isinstance(turn, Turn)])
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


def _turns(model: LoadedText, turns: list[Turn]) -> tuple[int, ...]:
    try:
        _check_length(model, render_turns(model.tokenizer, turns))
        # The length in tokens is checked by the caller, for all kinds of prompts.
        return encode_turns(model.tokenizer, turns, max_context=2**62)
    except PromptTooLong:
        raise
    except UsageError as error:
        raise PromptError(error.message, hint=error.hint) from error
