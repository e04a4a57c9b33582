"""From a request to the token ids of its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edge_node.api.errors import ApiError, bad
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn, encode_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from edge_node.api.requests import TextRequest


class TextModel(Protocol):
    """What the API needs of a loaded draft; `flexspec_mq.models.load.LoadedText` is one."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that draft and targets share."""
        ...

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def max_context(self) -> int:
        """Positions, prompt and new tokens together."""
        ...


def encode(model: TextModel, request: TextRequest) -> tuple[int, ...]:
    """The token ids of a prompt, at least one, with room for one more in the context. May take a while.

    Raises:
        ApiError: 400; the prompt is empty, too long, or the chat template refuses it.
    """
    param = "messages" if request.chat else "prompt"
    prompt = request.prompt
    if isinstance(prompt, str):
        ids = tuple(model.tokenizer.encode(prompt))
    elif isinstance(prompt[0], Turn):
        ids = _turns(model, [turn for turn in prompt if isinstance(turn, Turn)], param)
    else:
        ids = tuple(token for token in prompt if isinstance(token, int))
        if max(ids) >= model.vocab_size:
            raise bad(
                param, f"token id {max(ids)} is not below {model.vocab_size}, the size of the vocabulary"
            )
    if not ids:
        raise bad(param, "the prompt is empty")
    if len(ids) >= model.max_context:
        raise ApiError(
            400,
            f"the prompt has {len(ids)} tokens and the model's context {model.max_context}, new tokens included",
            code="context_length_exceeded",
            param=param,
        )
    return ids


def _turns(model: TextModel, turns: list[Turn], param: str) -> tuple[int, ...]:
    try:
        # The length is checked by the caller, who says it with a code for programs.
        return encode_turns(model.tokenizer, turns, max_context=2**62)
    except UsageError as error:
        raise ApiError(400, error.message, code="invalid_value", param=param, hint=error.hint) from error
