"""The interface of a tokenizer, over the ids of a text of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from flexspec_mq.models.byte_text.ids import BYTE_CONTEXT, ROWS, ByteDecoder, ByteEnd, Channel, encode_text
from flexspec_mq.models.tokenizer import PlainTokenizer

_PERSON = b"flexspec-bytes-1"


class ByteTokenizer(PlainTokenizer):
    """The interface of a tokenizer over bytes and marks."""

    def __init__(self) -> None:
        self.around = None
        self.special_tokens_map: dict[str, Any] = {}
        self.chat_template = None
        self.model_max_length = BYTE_CONTEXT

    def __len__(self) -> int:
        """Ids of the vocabulary."""
        return ROWS

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """None: marks are no tokens of a tokenizer's."""
        return {}

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends most texts."""
        return ByteEnd.STOP

    def get_vocab(self) -> dict[str, int]:
        """Token → id."""
        return {f"<0x{each:02X}>": each for each in range(256)} | {
            mark.name: int(mark) for mark in (*Channel, *ByteEnd)
        }

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """The token of an id; None if there is none."""
        return next((token for token, each in self.get_vocab().items() if each == ids), None)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The bytes of a text."""
        del add_special_tokens
        return list(encode_text(text))

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids."""
        del skip_special_tokens, clean_up_tokenization_spaces
        return ByteDecoder().push(token_ids)


def fingerprint() -> bytes:
    """Fingerprint of these ids, 16 bytes."""
    return blake2b(msgspec.json.encode(ByteTokenizer().get_vocab()), digest_size=16, person=_PERSON).digest()
