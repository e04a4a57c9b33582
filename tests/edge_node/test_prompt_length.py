"""The bound on tokens by characters is never wrong, and refuses megabytes without tokenising them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel
from transformers import PreTrainedTokenizerFast

from edge_node.completion.prompt_length import least_tokens, token_length
from edge_node.completion.prompts import PromptTooLong, encode
from flexspec_mq.models.text import Turn
from tests.edge_node.api.served import Speech, tokenizer

UNKNOWN = "<unk>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_OWN = [byte for byte in range(256) if chr(byte) in ALPHABET]
SPELLED = {byte: chr(byte) for byte in _OWN}
SPELLED |= {byte: chr(256 + at) for at, byte in enumerate(byte for byte in range(256) if byte not in _OWN)}


def bpe(
    *,
    lacks: tuple[int, ...] = (),
    normalizer: Any = None,
    split: Any = None,
    added: list[AddedToken] | None = None,
    **more: Any,
) -> Any:
    alphabet = [one for one in ALPHABET if one not in {SPELLED[byte] for byte in lacks}]
    vocab = {token: at for at, token in enumerate([*alphabet, "ab", "abab", "\u0120\u0120", "<unk>"])}
    merges = [("a", "b"), ("ab", "ab"), ("\u0120", "\u0120")]
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, **more))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(added or [])
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


LACKING = bpe(lacks=(0x04, 0xC3, 0xE2, 0xF1))
KNOWN = {
    "api": tokenizer(),
    "plain": bpe(),
    "nfc": bpe(normalizer=normalizers.NFC()),
    "sequence": bpe(normalizer=normalizers.Sequence([normalizers.Replace(" ", "_"), normalizers.NFC()])),
    "added": bpe(added=[AddedToken("a long token of its own")]),
}
TEXTS = st.text() | st.text("ab \u0301\u0313\u0300\u0345\u03b1", min_size=20)


@pytest.mark.parametrize("name", KNOWN)
@given(text=TEXTS)
def test_the_bound_is_never_wrong(name: str, text: str) -> None:
    found = KNOWN[name]
    assert least_tokens(found, text) <= len(found.encode(text, add_special_tokens=False))
    assert (least_tokens(found, text) > 0) == bool(text)


def test_what_a_token_can_stand_for() -> None:
    assert token_length(KNOWN["plain"]).most == len("<unk>")
    assert token_length(KNOWN["nfc"]).most == 4 * len("<unk>")
    assert token_length(KNOWN["added"]).most == len("a long token of its own")


def test_bytes_that_a_vocabulary_lacks_make_no_token() -> None:
    """The default model's has neither some control characters nor the first byte of unassigned planes."""
    lacking = bpe(lacks=(0x04, 0xC3, 0xE2, 0xF1))
    for text in ("\x04", "\u00e9", "\u2013", "\U00040000"):
        assert least_tokens(lacking, text * 1000) == 0
        assert least_tokens(lacking, f"{text}ab" * 1000) == 400
    assert least_tokens(lacking, "\u0101\u1001\U0001f600" * 1000) == 600
    assert token_length(bpe(lacks=(0x80,))).most == math.inf


@given(text=st.text(st.characters(exclude_categories=["Cs", "Z"])))
def test_the_bound_is_never_wrong_where_bytes_are_missing(text: str) -> None:
    assert least_tokens(LACKING, text) <= len(LACKING.encode(text))


@pytest.mark.parametrize(
    "odd",
    [
        bpe(added=[AddedToken("<x>", lstrip=True)]),
        bpe(split=pre_tokenizers.Whitespace()),
        bpe(normalizer=normalizers.Strip()),
        bpe(normalizer=normalizers.Replace("ab", "")),
        bpe(unk_token=UNKNOWN, fuse_unk=True, split=pre_tokenizers.Metaspace()),
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, unk_token=UNKNOWN))),  # type: ignore[no-untyped-call]
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(Unigram([("<unk>", 0.0)], unk_id=0))),  # type: ignore[no-untyped-call]
    ],
)  # fmt: skip
def test_where_nothing_can_be_said(odd: Any) -> None:
    assert token_length(odd).most == math.inf
    assert least_tokens(odd, "x" * 10**6) == 0


def test_megabytes_are_refused_untokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Speech(max_context=8192)
    monkeypatch.setattr(type(model.tokenizer), "encode", None)  # whoever calls it fails
    for prompt in ("ab " * 1_300_000, (Turn("user", "ab " * 1_300_000),)):
        with pytest.raises(PromptTooLong, match=r"at least \d+ tokens"):
            encode(model, prompt)
