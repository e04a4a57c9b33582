"""A tokenizer that is made without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerBase

Tokenizer: TypeAlias = "PlainTokenizer | PreTrainedTokenizerBase"
"""A tokenizer with the ids and texts of transformers' own."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Roles that a token may have, in transformers' order."""


class PlainTokenizer:
    """A tokenizer with the part of transformers' interface that texts need, and the same ids and texts.

    Attributes:
        special_tokens_map: role → token.
        chat_template: source of the template; None for a base model.
        model_max_length: tokens of a text.
        backend_tokenizer: the same tokenizer in the tokenizers library.
        around: ids that go before and behind a text; None leaves that to the library's tokenizer.
    """

    def __init__(self, backend: Backend, special: dict[str, Any], template: str | None, longest: int) -> None:
        self.around: tuple[Sequence[int], Sequence[int]] | None = None
        self.special_tokens_map = special
        self.chat_template = template
        self.model_max_length = longest
        self.backend_tokenizer = backend
        if template is not None:
            from flexspec_mq.models.templates.template import chat_template

            chat_template(template)

    def __len__(self) -> int:
        """Tokens of the vocabulary, added ones included."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Id → token that is not of the model's own vocabulary, or special."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""
        eos = self.special_tokens_map.get("eos_token")
        return None if eos is None else self.backend_tokenizer.token_to_id(eos)

    def get_vocab(self) -> dict[str, int]:
        """Token → id."""
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """The token of an id; None if there is none."""
        return self.backend_tokenizer.id_to_token(ids)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text; with what the tokenizer puts around each text, unless told otherwise."""
        if self.around is None or not add_special_tokens:
            return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        before, after = self.around
        return [*before, *self.encode(text, add_special_tokens=False), *after]

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids. Nothing is ever tidied up."""
        del clean_up_tokenization_spaces
        return str(self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))
