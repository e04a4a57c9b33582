"""Tokenizers that differ by contents alone have different fingerprints; copies have the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flexspec_mq.models.fingerprint import (
    FINGERPRINT_BYTES,
    Difference,
    TokenizerContents,
    difference,
)
from flexspec_mq.models.tokenizer import Tokenizer
from schemas.status import TokenizerStatus, WorkerStatus
from tests.models.tiny_checkpoints import SPECIAL, TEMPLATE, byte_level_tokenizer

PLAIN = byte_level_tokenizer(("cat", "dog"), TEMPLATE)


def fingerprint(tokenizer: Tokenizer) -> bytes:
    return TokenizerContents.from_tokenizer(tokenizer).digest()


def test_a_copy_through_files_has_the_same(tmp_path: Path) -> None:
    PLAIN.save_pretrained(tmp_path)
    copy = AutoTokenizer.from_pretrained(tmp_path)
    assert len(fingerprint(PLAIN)) == FINGERPRINT_BYTES
    assert fingerprint(copy) == fingerprint(PLAIN)


@pytest.mark.parametrize(
    ("words", "template"),
    [
        (("dog", "cat"), TEMPLATE),
        (("cat", "cow"), TEMPLATE),
        (("cat", "dog", "cow"), TEMPLATE),
        (("cat", "dog"), None),
        (("cat", "dog"), TEMPLATE + " "),
    ],
    ids=["swapped", "renamed", "one more", "no template", "another template"],
)
def test_other_contents_have_another(words: tuple[str, ...], template: str | None) -> None:
    assert fingerprint(byte_level_tokenizer(words, template)) != fingerprint(PLAIN)


def test_another_end_of_text() -> None:
    other = byte_level_tokenizer(("cat", "dog"), TEMPLATE)
    other.eos_token = SPECIAL[1]
    assert fingerprint(other) != fingerprint(PLAIN)


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


# What must agree, and what need not


def tokenizer_status(tokenizer: PreTrainedTokenizerFast, eos: tuple[int, ...] = (2,)) -> TokenizerStatus:
    return TokenizerContents.from_tokenizer(tokenizer).status(eos)


def compared(
    ours: PreTrainedTokenizerFast,
    theirs: PreTrainedTokenizerFast,
    eos: tuple[tuple[int, ...], tuple[int, ...]] = ((2,), (2,)),
) -> Difference:
    """How a target's tokenizer differs from ours, as a status tells it; `eos` are of ours and of theirs."""
    status = WorkerStatus(
        state="online",
        epoch=0,
        at=0.0,
        worker="w",
        fingerprint=fingerprint(theirs).hex(),
        tokenizer=tokenizer_status(theirs, eos[1]),
    )
    return difference(fingerprint(ours), tokenizer_status(ours, eos[0]), status)


def test_another_template_means_the_same_ids() -> None:
    """As of two sizes of one model, whose templates differ by a brace."""
    other = byte_level_tokenizer(("cat", "dog"), TEMPLATE + " ")
    assert tokenizer_status(other).vocabulary == tokenizer_status(PLAIN).vocabulary
    assert compared(PLAIN, other) == Difference(
        harmless="the chat templates differ; prompts are written by the device's"
    )
    base = byte_level_tokenizer(("cat", "dog"), None)
    assert compared(base, PLAIN).harmless.startswith("only one has a chat template")
    assert compared(PLAIN, byte_level_tokenizer(("cat", "dog"), TEMPLATE)) == Difference()


def test_a_special_token_in_another_role_means_the_same_ids() -> None:
    other = byte_level_tokenizer(("cat", "dog"), TEMPLATE)
    other.bos_token = SPECIAL[0]
    assert compared(PLAIN, other) == Difference(harmless="special tokens have other roles")


def test_ids_that_mean_other_tokens() -> None:
    swapped = byte_level_tokenizer(("dog", "cat"), TEMPLATE)
    assert compared(PLAIN, swapped) == Difference(
        "its vocabulary has 261 tokens as ours, and some of them are others"
    )
    larger = byte_level_tokenizer(("cat", "dog", "cow"), TEMPLATE + " ")
    found = compared(PLAIN, larger)
    assert found.fatal == "its vocabulary has 262 tokens and ours 261"
    assert "templates differ" in found.harmless


def test_ids_that_are_shown_by_one_side_alone_mean_other_things() -> None:
    shown = byte_level_tokenizer(("cat", "dog"), TEMPLATE)
    shown.add_tokens([AddedToken("cat", special=True, normalized=False)])
    assert shown.get_vocab() == PLAIN.get_vocab()
    assert compared(PLAIN, shown).fatal


def test_texts_that_end_elsewhere() -> None:
    found = compared(PLAIN, PLAIN, ((2,), (1, 2)))
    assert found == Difference("it ends texts with id 1 or id 2 and we with id 2")
    assert compared(PLAIN, PLAIN, ((), (2,))).fatal.endswith("and we with no token")


@pytest.mark.parametrize(("of", "fits"), [(PLAIN, True), (byte_level_tokenizer(("cat", "dog"), None), False)])
def test_an_older_worker_says_no_more_than_its_fingerprint(of: PreTrainedTokenizerFast, fits: bool) -> None:
    """It takes sessions of that one alone."""
    status = WorkerStatus(state="online", epoch=0, at=0.0, worker="w", fingerprint=fingerprint(of).hex())
    found = difference(fingerprint(PLAIN), tokenizer_status(PLAIN), status)
    assert found == (Difference() if fits else Difference("the worker does not say in what it differs"))


def test_what_ids_mean_has_a_digest_that_is_stable_across_releases() -> None:
    contents = TokenizerContents({"a": 0, "é": 1}, {"left out": [1]}, {"default": "{{ x }}"})
    assert contents.status((1,)) == TokenizerStatus(
        tokens=2, vocabulary="853ac459128615980e84f07d23ce456e", eos=(1,), template="25ca4c47798801d6"
    )
