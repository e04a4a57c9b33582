"""How few tokens a text can have, by its characters alone: a long one need not be tokenised to be refused."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from flexspec_mq.models.tokenizer import Tokenizer

_NFC_SHRINKS = 4
"""A character stands for at most four of the same text decomposed, so NFC makes no text shorter than a quarter."""
_KEEPING = {"ByteLevel", "Metaspace", "Digits"}
"""Pre-tokenizers that leave no character out; Split does not either, unless it says so."""


class TokenLength(NamedTuple):
    """What tokens of a tokenizer stand for.

    Attributes:
        most: characters that one token can stand for at most; infinite where that is not known.
        dropped: characters that may become no token, since the vocabulary has not all of their bytes.
    """

    most: float
    dropped: re.Pattern[str]


_NOTHING = re.compile(r"(?!)")
_UNKNOWN = TokenLength(math.inf, _NOTHING)


def least_tokens(tokenizer: Tokenizer, text: str) -> int:
    """A number of tokens that the text has at least; 0 where the tokenizer allows no such statement."""
    most, dropped = token_length(tokenizer)
    return 0 if math.isinf(most) else math.ceil(len(dropped.sub("", text)) / most)


def token_length(tokenizer: Tokenizer) -> TokenLength:
    """What is known of BPE tokenizers without whitespace around special tokens, and whose steps drop no character."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _UNKNOWN if backend is None else _read(backend)


@lru_cache(maxsize=4)
def _read(backend: Backend) -> TokenLength:
    found: dict[str, Any] = json.loads(backend.to_str())
    shrinks = math.prod(_shrinks(one) for one in _steps(found["normalizer"], "normalizers"))
    kept = all(_keeps(one) for one in _steps(found["pre_tokenizer"], "pretokenizers"))
    strips = any(one["lstrip"] or one["rstrip"] for one in found["added_tokens"])
    dropped = _dropped(found)
    if not kept or strips or found["truncation"] is not None or dropped is None:
        return _UNKNOWN
    tokens = [*found["model"]["vocab"], *(one["content"] for one in found["added_tokens"])]
    return TokenLength(shrinks * max(map(len, tokens)), dropped)


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A step, or those of a sequence."""
    if step is None:
        return []
    return (
        [deeper for one in step[inner] for deeper in _steps(one, inner)]
        if step["type"] == "Sequence"
        else [step]
    )


def _shrinks(normalizer: dict[str, Any]) -> float:
    """How many characters a normalizer makes one of, at most."""
    kind = normalizer["type"]
    if kind in {"Prepend", "NFD", "ByteLevel"}:
        return 1
    if kind == "NFC":
        return _NFC_SHRINKS
    if kind == "Replace":
        replaced = normalizer["pattern"].get("String")
        if replaced is not None and len(replaced) <= len(normalizer["content"]):
            return 1
    return math.inf


def _keeps(step: dict[str, Any]) -> bool:
    return step["type"] in _KEEPING or (step["type"] == "Split" and step["behavior"] != "Removed")


def _dropped(found: dict[str, Any]) -> re.Pattern[str] | None:
    """Characters that may become no token; None where unknown ones may become one token together."""
    model = found["model"]
    if model["type"] != "BPE":
        return None
    if model["unk_token"] is not None and not model["fuse_unk"]:
        return _NOTHING
    if model["byte_fallback"]:
        return _NOTHING if all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)) else None
    steps = _steps(found["normalizer"], "normalizers") + _steps(found["pre_tokenizer"], "pretokenizers")
    if all(one["type"] != "ByteLevel" for one in steps):
        return None
    missing = [byte for byte in range(256) if _spelled(byte) not in model["vocab"]]
    if any(0x80 <= byte < 0xC0 for byte in missing):
        return None
    # A leading byte stands for all characters that begin with it; UTF-8 has no others than these.
    lacks = [re.escape(chr(byte)) for byte in missing if byte < 0x80]
    for first, last in ((_first(byte), _first(byte + 1)) for byte in missing if 0xC2 <= byte < 0xF5):
        lacks.append(f"{chr(first)}-{chr(last - 1)}")
    return re.compile(f"[{''.join(lacks)}]") if lacks else _NOTHING


def _first(lead: int) -> int:
    """The first code point whose UTF-8 begins with a byte, or with a later one."""
    if lead < 0xE0:
        return (lead - 0xC0) << 6
    if lead < 0xF0:
        return max(0x800, (lead - 0xE0) << 12)
    return min(max(0x10000, (lead - 0xF0) << 18), 0x110000)


def _spelled(byte: int) -> str:
    """The character by which byte-level tokenizers write a byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [one for one in range(256) if one not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))
