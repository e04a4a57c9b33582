"""The fingerprint of a tokenizer: two sides that speak in token ids must mean the same tokens by them.

It is made from contents, never from sizes or names: a vocabulary of the same size with two tokens swapped has
another fingerprint. Merges are left out: only ids travel, and one side alone turns text into ids.

A device whose tokenizer has another fingerprint than the target's writes texts all the same where the two differ in
added tokens, their roles or the chat template: the worker tells these, and the device speaks by them (`target_text.py`
beside this). The meaning of the ids alone has a digest of its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flexspec_mq.models.tokenizer import Tokenizer
from schemas.status import DIGEST, TokenizerStatus

FINGERPRINT_BYTES = 16

# Padding fills rows of a batch and never reaches a text; fine-tunes set it as they like.
_NOT_IN_TEXTS = "pad_token"


@dataclass(frozen=True)
class TokenizerContents:
    """Contents that a fingerprint is made from.

    Attributes:
        vocabulary: token → id, added tokens included.
        special: role (``eos_token`` …) → token or list of tokens, and which ids decoding leaves out.
        template: chat template, by name; the usual only one is named ``default``. Empty for a base model.
    """

    vocabulary: dict[str, int]
    special: dict[str, Any]
    template: dict[str, str]

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> TokenizerContents:
        """Read them from a loaded tokenizer."""
        roles: dict[str, Any] = dict(tokenizer.special_tokens_map)
        special: dict[str, Any] = {
            role: [str(token) for token in tokens] if isinstance(tokens, (list, tuple)) else str(tokens)
            for role, tokens in roles.items()
            if role != _NOT_IN_TEXTS
        }
        special["left out"] = sorted(left_out_ids(tokenizer))
        template = tokenizer.chat_template or {}
        named = {"default": template} if isinstance(template, str) else dict(template)
        return cls(dict(tokenizer.get_vocab()), special, named)

    def digest(self) -> bytes:
        """BLAKE2b-128 over all three, each in a canonical form that no other contents share."""
        rest = (sorted(self.special.items()), sorted(self.template.items()))
        return _digest(b"flexspec-tokens", self._ids, *map(_encoded, rest))

    @cached_property
    def _ids(self) -> bytes:
        """The vocabulary in its canonical form, which takes a while to make of a large one."""
        return _encoded(sorted(self.vocabulary.items()))

    def status(self, eos: tuple[int, ...], rows: int = 0) -> TokenizerStatus:
        """The tokenizer in short, to say how another one differs.

        Args:
            eos: ids that end a text, ascending; the model decides them.
            rows: token ids that the model has, padding included.
        """
        meaning = _digest(b"flexspec-ids", self._ids, _encoded(self.special.get("left out", [])))
        template = (
            _digest(b"flexspec-chat", _encoded(sorted(self.template.items()))) if self.template else b""
        )
        return TokenizerStatus(
            tokens=len(self.vocabulary),
            vocabulary=meaning.hex(),
            eos=eos,
            template=template[:DIGEST].hex(),
            rows=rows,
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """How a target's tokens differ from a device's, in words; empty where they do not.

    Attributes:
        fatal: the device cannot write its texts at all.
        harmless: all else.
    """

    fatal: str = ""
    harmless: str = ""


def other_vocabulary(ours: TokenizerStatus, theirs: TokenizerStatus) -> str:
    """Say how the vocabulary of another tokenizer differs from ours; empty where it does not."""
    if theirs.tokens != ours.tokens:
        return f"its vocabulary has {theirs.tokens} tokens and ours {ours.tokens}"
    if theirs.vocabulary != ours.vocabulary:
        return f"its vocabulary has {ours.tokens} tokens as ours, and some of them are others"
    return ""


def _encoded(part: object) -> bytes:
    return json.dumps(part, ensure_ascii=True, separators=(",", ":")).encode()


def _digest(person: bytes, *parts: bytes) -> bytes:
    """BLAKE2b-128 of parts, each with its length."""
    whole = hashlib.blake2b(digest_size=FINGERPRINT_BYTES, person=person)
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()


def left_out_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the tokens that a decoded text does not show, such as the end of a turn."""
    return frozenset(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
