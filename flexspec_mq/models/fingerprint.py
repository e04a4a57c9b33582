"""The fingerprint of a tokenizer: two sides that speak in token ids must mean the same tokens by them.

It is made from contents, never from sizes or names: a vocabulary of the same size with two tokens swapped has
another fingerprint. Merges are left out: only ids travel, and one side alone turns text into ids.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexspec_mq.models.tokenizer import Tokenizer

FINGERPRINT_BYTES = 16

# Padding fills rows of a batch and never reaches a text; fine-tunes set it as they like.
_NOT_IN_TEXTS = "pad_token"


@dataclass(frozen=True, slots=True)
class TokenizerContents:
    """What a fingerprint is made from.

    Attributes:
        vocabulary: token → id, added tokens included.
        special: role (``eos_token`` …) → token or list of tokens, and which ids decoding leaves out.
        template: chat template, by name; the usual only one is named ``default``. Empty for a base model.
    """

    vocabulary: dict[str, int]
    special: dict[str, Any]
    template: dict[str, str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerContents:
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
        whole = hashlib.blake2b(digest_size=FINGERPRINT_BYTES, person=b"flexspec-tokens")
        for part in (
            sorted(self.vocabulary.items()),
            sorted(self.special.items()),
            sorted(self.template.items()),
        ):
            encoded = json.dumps(part, ensure_ascii=True, separators=(",", ":")).encode()
            whole.update(len(encoded).to_bytes(8, "big"))
            whole.update(encoded)
        return whole.digest()


def fingerprint(tokenizer: Tokenizer) -> bytes:
    """BLAKE2b-128 of vocabulary contents, special tokens and chat template: 16 bytes."""
    return TokenizerContents.of(tokenizer).digest()


def left_out_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the tokens that a decoded text does not show, such as the end of a turn."""
    return frozenset(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)


def describe_difference(a: Tokenizer, b: Tokenizer) -> str:
    """Say in one sentence how the contents of two tokenizers differ; empty when their fingerprints agree."""
    ours, theirs = TokenizerContents.of(a), TokenizerContents.of(b)
    found = [_vocabulary_difference(ours.vocabulary, theirs.vocabulary)]
    roles = sorted(
        role for role in ours.special | theirs.special if ours.special.get(role) != theirs.special.get(role)
    )
    found += [
        f"{role}: {_short(ours.special.get(role))} against {_short(theirs.special.get(role))}"
        for role in roles
    ]
    if ours.template != theirs.template:
        one_lacks = not ours.template or not theirs.template
        found.append("only one has a chat template" if one_lacks else "the chat templates differ")
    return "; ".join(part for part in found if part)


def _vocabulary_difference(ours: dict[str, int], theirs: dict[str, int]) -> str:
    sizes = f"vocabularies of {len(ours)} and {len(theirs)} tokens"
    differing = sorted(
        min(vocabulary[token] for vocabulary in (ours, theirs) if token in vocabulary)
        for token in ours.keys() | theirs.keys()
        if ours.get(token) != theirs.get(token)
    )
    if not differing:
        return ""
    first = differing[0]
    names = [
        next((token for token, at in vocabulary.items() if at == first), None)
        for vocabulary in (ours, theirs)
    ]
    return f"{sizes} differ, first at id {first}: {_short(names[0])} against {_short(names[1])}"


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
