"""Tokenizers that differ by contents alone have different fingerprints; copies have the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from flexspec_mq.models.fingerprint import (
    FINGERPRINT_BYTES,
    TokenizerContents,
    describe_difference,
    fingerprint,
)
from tests.models.tiny_checkpoints import SPECIAL, TEMPLATE, byte_level_tokenizer

PLAIN = byte_level_tokenizer(("cat", "dog"), TEMPLATE)


def test_a_copy_through_files_has_the_same(tmp_path: Path) -> None:
    PLAIN.save_pretrained(tmp_path)
    copy = AutoTokenizer.from_pretrained(tmp_path)
    assert len(fingerprint(PLAIN)) == FINGERPRINT_BYTES
    assert fingerprint(copy) == fingerprint(PLAIN)
    assert describe_difference(copy, PLAIN) == ""


def test_two_tokens_swapped() -> None:
    swapped = byte_level_tokenizer(("dog", "cat"), TEMPLATE)
    assert len(swapped) == len(PLAIN)
    assert fingerprint(swapped) != fingerprint(PLAIN)
    said = describe_difference(PLAIN, swapped)
    assert "first at id 259: 'cat' against 'dog'" in said
    assert "template" not in said


def test_one_token_renamed_at_the_same_size() -> None:
    renamed = byte_level_tokenizer(("cat", "cow"), TEMPLATE)
    assert fingerprint(renamed) != fingerprint(PLAIN)
    assert "id 260: 'dog' against 'cow'" in describe_difference(PLAIN, renamed)


def test_a_token_more() -> None:
    larger = byte_level_tokenizer(("cat", "dog", "cow"), TEMPLATE)
    assert fingerprint(larger) != fingerprint(PLAIN)
    assert "vocabularies of 261 and 262 tokens" in describe_difference(PLAIN, larger)
    assert "first at id 261: nothing against 'cow'" in describe_difference(PLAIN, larger)


@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "only one has a chat template"), (TEMPLATE + " ", "the chat templates differ")],
)
def test_another_template(template: str | None, said: str) -> None:
    other = byte_level_tokenizer(("cat", "dog"), template)
    assert fingerprint(other) != fingerprint(PLAIN)
    assert describe_difference(PLAIN, other) == said


def test_another_end_of_text() -> None:
    other = byte_level_tokenizer(("cat", "dog"), TEMPLATE)
    other.eos_token = SPECIAL[1]
    assert fingerprint(other) != fingerprint(PLAIN)
    assert describe_difference(PLAIN, other) == "eos_token: '</s>' against '<s>'"


def test_padding_alone_makes_no_difference() -> None:
    padded = byte_level_tokenizer(("cat", "dog"), TEMPLATE)
    padded.pad_token = SPECIAL[2]
    assert padded.special_tokens_map != PLAIN.special_tokens_map
    assert fingerprint(padded) == fingerprint(PLAIN)


def test_contents_that_join_to_the_same_bytes_differ() -> None:
    apart = TokenizerContents({"a": 1, "b": 2}, {}, {})
    joined = TokenizerContents({'a",1],["b': 2}, {}, {})
    moved = TokenizerContents({}, {"a": 1, "b": 2}, {})
    assert len({apart.digest(), joined.digest(), moved.digest()}) == 3


def test_the_order_of_insertion_makes_no_difference() -> None:
    one = TokenizerContents({"a": 1, "b": 2}, {"x": "y", "z": "w"}, {})
    other = TokenizerContents({"b": 2, "a": 1}, {"z": "w", "x": "y"}, {})
    assert one.digest() == other.digest()


def test_the_value_is_stable_across_releases() -> None:
    """Edges and workers of different releases compare it: a change here cuts them off from each other."""
    contents = TokenizerContents({"a": 0, "é": 1}, {"eos_token": "a"}, {"default": "{{ x }}"})
    assert contents.digest().hex() == "c5ca58eb50aa8a3695208cd4b72fd8f9"
