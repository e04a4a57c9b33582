"""Tokenizers: prompts become the ids that are meant, streams decode exactly, other contents have other fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flexspec_mq.errors import UsageError
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.fingerprint import (
    FINGERPRINT_BYTES,
    Difference,
    TokenizerContents,
    difference,
    left_out_ids,
)
from flexspec_mq.models.text import StreamDecoder, Turn, decode, encode_turns, text_from_bytes
from flexspec_mq.models.tokenizer import Tokenizer
from schemas.status import TokenizerStatus, WorkerStatus
from tests.models.tiny_checkpoints import SPECIAL, TEMPLATE, byte_fallback_tokenizer, byte_level_tokenizer

BYTE_LEVEL = byte_level_tokenizer(("cat", "Ġdog", "Ċ"), TEMPLATE)
BASE = byte_level_tokenizer()
FALLBACK = byte_fallback_tokenizer()


def stream(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], sizes: Sequence[int] = (1,)) -> list[str]:
    """Feed ids in pieces of the given sizes, in turn; returns what came out of each push and of the end."""
    decoder, out, start, turn = StreamDecoder(tokenizer), [], 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        out.append(decoder.push(ids[start : start + size]))
        start, turn = start + size, turn + 1
    return [*out, decoder.finish()]


# Words, blanks, single bytes of all kinds, special tokens: most byte sequences here are broken UTF-8.
@settings(max_examples=400, deadline=None)
@given(
    ids=st.lists(st.integers(0, len(BYTE_LEVEL) - 1) | st.integers(130, 258), max_size=40),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_any_ids_of_a_byte_level_tokenizer(ids: list[int], sizes: list[int]) -> None:
    assert "".join(stream(BYTE_LEVEL, ids, sizes)) == decode(BYTE_LEVEL, ids).rstrip("�")


@settings(max_examples=400, deadline=None)
@given(
    ids=st.lists(st.integers(0, len(FALLBACK) - 1) | st.integers(259, len(FALLBACK) - 1), max_size=40),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_any_ids_of_a_byte_fallback_tokenizer(ids: list[int], sizes: list[int]) -> None:
    whole = decode(FALLBACK, ids)
    text = "".join(stream(FALLBACK, ids, sizes))
    assert not text.endswith("�")
    if whole.endswith("�"):  # a run of bytes, of which the last three at most are left out
        shown = [token for token in ids if token not in left_out_ids(FALLBACK)]
        assert text in {decode(FALLBACK, shown[: len(shown) - cut]).rstrip("�") for cut in range(4)}
    else:
        assert text == whole


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_whole_text_comes_out_in_whole_characters(text: str) -> None:
    ids = BASE.encode(text, add_special_tokens=False)
    pieces = stream(BASE, ids)
    assert "".join(pieces) == text
    assert "�" in text or all("�" not in piece for piece in pieces)


def test_text_is_not_held_back_longer_than_needed() -> None:
    assert stream(BASE, BASE.encode("aé b")) == ["a", "", "é", " ", "b", ""]


@pytest.mark.parametrize("tokenizer", [BASE, FALLBACK], ids=["byte level", "byte fallback"])
@pytest.mark.parametrize(
    ("text", "cut", "shown"),
    [
        ("aé", 1, "a"), ("a€", 1, "a"), ("a€", 2, "a"), ("a🙂", 1, "a"), ("a🙂", 2, "a"), ("a🙂", 3, "a"),
        ("é🙂€", 1, "é🙂"),
    ],
)  # fmt: skip
def test_an_unfinished_character_at_the_end_is_left_out(
    tokenizer: PreTrainedTokenizerFast, text: str, cut: int, shown: str
) -> None:
    assert "".join(stream(tokenizer, byte_ids(tokenizer, text)[:-cut])) == shown


def test_ids_beyond_the_vocabulary_decode_to_nothing() -> None:
    ids = [*BASE.encode("a"), len(BASE) + 5, *BASE.encode("b")]
    assert "".join(stream(BASE, ids)) == decode(BASE, ids) == "ab"


def test_long_streams_decode_a_short_window_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0

    def watched(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(tokenizer, ids)

    monkeypatch.setattr("flexspec_mq.models.text.decode", watched)
    ids = BASE.encode("naïve café 🙂 " * 200)
    assert "".join(stream(BASE, ids)) == decode(BASE, ids)
    assert 1 < longest <= 8


def test_several_turns_through_the_template() -> None:
    turns = [Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "yes?"), Turn("user", "why")]
    ids = encode_turns(BYTE_LEVEL, turns, max_context=200)
    said = "<s>system:be brief</s><s>user:hi</s><s>assistant:yes?</s><s>user:why</s><s>assistant:"
    assert BYTE_LEVEL.decode(list(ids)) == said
    assert ids[0] == BYTE_LEVEL.bos_token_id


def test_a_base_model_gets_the_bare_text() -> None:
    ids = encode_turns(BASE, [Turn("user", "once"), Turn("user", "upon")], max_context=200)
    assert BASE.decode(list(ids)) == "once\n\nupon"


REFUSING = byte_level_tokenizer(template="{{ raise_exception('roles must alternate') }}")
NOT_UTF8 = b"caf\xe9".decode("utf-8", "surrogateescape")
"""Bytes of a command line, as Python reads them."""


@pytest.mark.parametrize(
    ("tokenizer", "texts", "message"),
    [
        *(
            (tokenizer, texts, "the prompt is empty")
            for tokenizer in (BASE, BYTE_LEVEL)
            for texts in ([], [""])
        ),
        *((tokenizer, ["a", " \n\t"], "the prompt is empty") for tokenizer in (BASE, BYTE_LEVEL)),
        (BASE, ["abcd"], "has 4 tokens and the model's context 4"),
        (BASE, [NOT_UTF8], "not UTF-8: character 3"),
        (REFUSING, ["a"], "refuses these turns: roles must alternate"),
    ],
)
def test_prompts_that_cannot_be(tokenizer: PreTrainedTokenizerFast, texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_turns(tokenizer, [Turn("user", text) for text in texts], max_context=4)


def test_a_prompt_leaves_room_for_one_token() -> None:
    assert len(encode_turns(BASE, [Turn("user", "abc")], max_context=4)) == 3


def test_bytes_of_a_file() -> None:
    assert text_from_bytes("né\n".encode()) == "né\n"
    with pytest.raises(UsageError, match=r"prompt.txt is not UTF-8: byte 0xe9 at offset 1"):
        text_from_bytes(b"n\xe9", source="prompt.txt")


@pytest.mark.model
def test_the_default_model_streams_many_scripts() -> None:
    tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(default_model_path()))
    text = "naïve 日本語 👩‍👩‍👧 Привет\n\tعربي 🙂 …  two blanks "
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == text
    assert all("�" not in piece for piece in pieces)
    turn = encode_turns(tokenizer, [Turn("user", "hi")], max_context=8192)
    assert str(tokenizer.decode(list(turn))).endswith(
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def byte_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text with a token for each UTF-8 byte."""
    if tokenizer is FALLBACK:
        tokens = [f"<0x{byte:02X}>" for byte in text.encode()]
        return cast("list[int]", tokenizer.convert_tokens_to_ids(tokens))
    return list(tokenizer.encode(text, add_special_tokens=False))


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


def test_another_end_of_text_counts_and_padding_alone_does_not() -> None:
    other, padded = (byte_level_tokenizer(("cat", "dog"), TEMPLATE) for _ in range(2))
    other.eos_token, padded.pad_token = SPECIAL[1:3]
    assert fingerprint(other) != fingerprint(PLAIN)
    assert padded.special_tokens_map != PLAIN.special_tokens_map
    assert fingerprint(padded) == fingerprint(PLAIN)


def test_contents_that_join_to_the_same_bytes_differ_and_the_order_of_insertion_does_not_count() -> None:
    apart = TokenizerContents({"a": 1, "b": 2}, {"x": "y", "z": "w"}, {})
    joined = TokenizerContents({'a",1],["b': 2}, {"x": "y", "z": "w"}, {})
    moved = TokenizerContents({}, {"a": 1, "b": 2, "x": "y", "z": "w"}, {})
    assert len({apart.digest(), joined.digest(), moved.digest()}) == 3
    assert TokenizerContents({"b": 2, "a": 1}, {"z": "w", "x": "y"}, {}).digest() == apart.digest()


def test_the_value_is_stable_across_releases() -> None:
    """Edges and workers of different releases compare it: a change here cuts them off from each other."""
    contents = TokenizerContents({"a": 0, "é": 1}, {"eos_token": "a"}, {"default": "{{ x }}"})
    assert contents.digest().hex() == "c5ca58eb50aa8a3695208cd4b72fd8f9"


# Parts of two tokenizers that must agree, and parts that need not


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
