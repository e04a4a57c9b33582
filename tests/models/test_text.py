"""Tokenizers: prompts become the ids that are meant, streams decode exactly, other contents have other fingerprints."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from zstandard import ZstdCompressor

from flexspec_mq.codec import Codec
from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models import target_text as module
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.fingerprint import FINGERPRINT_BYTES, TokenizerContents, left_out_ids
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.target_text import (
    as_fetched,
    as_told,
    target_text,
    token_map,
    told_text,
    unpacked_tokenizer,
)
from flexspec_mq.models.text import StreamDecoder, Turn, decode, encode_turns, text_from_bytes
from flexspec_mq.models.tokenizer import Tokenizer
from schemas.status import TokenizerStatus
from tests.models.tiny_checkpoints import SPECIAL, TEMPLATE, byte_fallback_tokenizer, byte_level_tokenizer

BYTE_LEVEL = byte_level_tokenizer(("cat", "Ġdog", "Ċ"), TEMPLATE)
BASE = byte_level_tokenizer()
FALLBACK = byte_fallback_tokenizer()
CODEC = Codec()


def stream(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], sizes: Sequence[int] = (1,)) -> list[str]:
    """Feed ids in pieces of the given sizes, in turn; returns what came out of each push and of the end."""
    decoder, out, start, turn = StreamDecoder(tokenizer), [], 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        out.append(decoder.push(ids[start : start + size]))
        start, turn = start + size, turn + 1
    return [*out, decoder.finish()]


# Words, blanks, single bytes of all kinds, special tokens: most byte sequences here are broken UTF-8.
@settings(max_examples=100)
@given(
    ids=st.lists(st.integers(0, len(BYTE_LEVEL) - 1) | st.integers(130, 258), max_size=40),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_any_ids_of_a_byte_level_tokenizer(ids: list[int], sizes: list[int]) -> None:
    assert "".join(stream(BYTE_LEVEL, ids, sizes)) == decode(BYTE_LEVEL, ids).rstrip("�")


@settings(max_examples=100)
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


@given(text=st.text(max_size=30))
def test_whole_text_comes_out_in_whole_characters(text: str) -> None:
    ids = BASE.encode(text, add_special_tokens=False)
    pieces = stream(BASE, ids)
    assert "".join(pieces) == text
    assert "�" in text or all("�" not in piece for piece in pieces)


@pytest.mark.parametrize("before", ["the cat", "日", "é", "the\n", "</s>", ""])
def test_a_blank_counts_where_a_text_goes_on(before: str) -> None:
    given, new = (FALLBACK.encode(text, add_special_tokens=False) for text in (before, "▁the▁a"))
    decoder = StreamDecoder(FALLBACK, given)
    text = decoder.push(new) + decoder.finish()
    assert text == decode(FALLBACK, [*given, *new]).removeprefix(decode(FALLBACK, given))
    assert text.startswith(" ") == bool(decode(FALLBACK, given)) == (before not in {"", "</s>"})


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


# A target's texts with another tokenizer's vocabulary, and a draft that has yet another one


def spoken(tokenizer: PreTrainedTokenizerFast, rows: int = 300, eos: tuple[int, ...] = (2,)) -> LoadedText:
    """The text part of a model with so many rows."""
    contents = TokenizerContents.from_tokenizer(tokenizer)
    return LoadedText(
        source="tiny",
        config={},
        generation={},
        tokenizer=tokenizer,
        fingerprint=contents.digest(),
        tokenizer_status=contents.status(eos, rows),
        eos=eos,
        vocab_size=rows,
        max_context=64,
        name="tiny",
    )


def with_added(*tokens: AddedToken, template: str = TEMPLATE, **roles: str) -> PreTrainedTokenizerFast:
    """`PLAIN` with more added tokens, another template, and tokens in other roles."""
    made = byte_level_tokenizer(("cat", "dog"), template)
    made.add_tokens(list(tokens))
    for role, token in roles.items():
        setattr(made, role, token)
    return made


THINK = AddedToken("<think>", special=False, normalized=False)
TOOL = AddedToken("<tool>", special=True, normalized=False, lstrip=True)
SHOWN = AddedToken("cat", special=True, normalized=False)
BEGINS = with_added(template=TEMPLATE + " ")
BEGINS.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
)
TARGETS = {
    "the same": PLAIN,
    "another template": with_added(template="{{ bos_token }}{{ messages[0]['content'] | tojson }}<tool>"),
    "no template": byte_level_tokenizer(("cat", "dog"), None),
    "other roles": with_added(bos_token="<unk>", eos_token="<s>"),  # noqa: S106  no password
    "more tokens at the end": with_added(THINK, TOOL),
    "the same ones in another order": with_added(TOOL, THINK, template=TEMPLATE + "<think>"),
    "an ordinary one that texts do not show": with_added(SHOWN, THINK),
    "ids before and behind a text": BEGINS,
}
WRITTEN = st.lists(
    st.sampled_from(["<think>", "<tool>", "<s>", "</s>", " ", "cat", "x"]) | st.text(max_size=4)
).map("".join)
DEVICES = {"plain": PLAIN, "two": with_added(TOOL, THINK), "one": with_added(THINK), "none": None}


@pytest.mark.parametrize("theirs", TARGETS)
@pytest.mark.parametrize("ours", DEVICES)
@settings(max_examples=40)
@given(text=WRITTEN, ids=st.lists(st.integers(0, 262), max_size=12))
def test_a_device_writes_and_reads_as_the_target_does(
    ours: str, theirs: str, text: str, ids: list[int]
) -> None:
    target, made = at_a_device(ours, theirs)
    assert (made.fingerprint, made.eos, made.vocab_size) == (target.fingerprint, (1, 2), 300)
    assert made.tokenizer_status == target.tokenizer_status
    assert made.tokenizer.encode(text) == target.tokenizer.encode(text)
    assert decode(made.tokenizer, ids) == decode(target.tokenizer, ids)
    turns = [Turn("user", f"{text}.")]
    assert encode_turns(made.tokenizer, turns, max_context=10_000) == encode_turns(
        target.tokenizer, turns, max_context=10_000
    )


@cache
def at_a_device(ours: str, theirs: str) -> tuple[LoadedText, LoadedText]:
    """The text part of a target, and what a device makes of it."""
    target, own = spoken(TARGETS[theirs], eos=(1, 2)), DEVICES[ours]
    return target, told(None if own is None else spoken(own), target)


def told(ours: LoadedText | None, target: LoadedText) -> LoadedText:
    """The target's text as it arrives at a device, which may have no tokenizer of its own."""
    tokenizer, text, file = told_text(target)
    assert tokenizer.file == blob_name(file)
    document = CODEC.decode_target_text(CODEC.encode_target_text(text))
    if ours is None:
        unpacked = unpacked_tokenizer(file, checked=True)
        return as_fetched(unpacked, document, target.fingerprint.hex(), tokenizer)
    return as_told(ours, document, target.fingerprint.hex(), tokenizer)


def test_the_real_target_tells_half_a_kilobyte() -> None:
    real = load_text(default_model_path())
    assert len(CODEC.encode_target_text(target_text(real))) < 500
    assert told(real, real).tokenizer.encode("Hello<|im_end|>") == real.tokenizer.encode("Hello<|im_end|>")


def test_a_strangers_tokenizer_is_parsed_in_a_process_of_its_own_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = spoken(PLAIN)
    tokenizer, text, file = told_text(target)
    unpacked = unpacked_tokenizer(file, checked=False)
    assert unpacked == PLAIN.backend_tokenizer.to_str()
    with pytest.raises(ModelError, match="is not true"):
        as_fetched(unpacked, text, "00" * 16, tokenizer)
    with pytest.raises(ModelError, match="cannot be read"):
        as_fetched("{}", text, "00" * 16, tokenizer)
    packed = ZstdCompressor().compress
    for damaged in (b"", b"x", file[:-1], packed(b"{}"), packed(b"\xff"), packed(b"[" * 100_000)):
        with pytest.raises(ModelError, match="cannot be read"):
            unpacked_tokenizer(damaged, checked=False)
    with pytest.raises(ModelError, match="more than 40000000 bytes"):
        unpacked_tokenizer(packed(bytes(40_000_001)), checked=False)
    monkeypatch.setattr(module, "_PARSE", "import os; os.abort()")  # as the library may
    with pytest.raises(ModelError, match="SIGABRT"):
        unpacked_tokenizer(file, checked=False)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (byte_level_tokenizer(("dog", "cat"), TEMPLATE), "261 tokens as ours, and some of them are others"),
        (byte_level_tokenizer(("cat", "dog", "cow"), TEMPLATE), "has 262 tokens and ours 261"),
        (byte_fallback_tokenizer(), "has 267 tokens and ours 261"),
    ],
    ids=["swapped", "one more that is no added one", "another kind"],
)
def test_a_truly_other_vocabulary_is_refused_by_device_and_draft(
    theirs: PreTrainedTokenizerFast, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        told(spoken(PLAIN), spoken(theirs))
    with pytest.raises(ModelError, match="is not true"):
        as_told(spoken(PLAIN), target_text(spoken(PLAIN)), "00" * 16, spoken(PLAIN).tokenizer_status)
    if len(theirs) != 262:  # that one lies behind all that the draft knows
        assert "ids mean other tokens, such as" in token_map(spoken(PLAIN), spoken(theirs)).misfit


def test_a_vocabulary_with_fewer_words_is_told_by_its_sizes_and_not_by_the_librarys_error() -> None:
    ours, theirs = spoken(merging_tokenizer(("th", "the"))), spoken(merging_tokenizer(("th",)))
    with pytest.raises(ModelError) as refused:
        told(ours, theirs)
    assert (
        refused.value.message
        == f"its vocabulary has {len(theirs.tokenizer)} tokens and ours {len(ours.tokenizer)}"
    )


def merging_tokenizer(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer that makes words of letters."""
    known = [*"the", *words]
    merges = [(word[:-1], word[-1]) for word in words]
    backend = Backend(BPE(vocab={token: at for at, token in enumerate(known)}, merges=merges))
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("draft", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(("rows", "most"), [(300, 300), (280, 320), (320, 280)])
def test_a_drafts_ids_are_the_targets_by_their_tokens(
    draft: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast, rows: int, most: int
) -> None:
    """The same token is read and drafted wherever both have one; nothing else is ever drafted, and any id is read."""
    found = token_map(spoken(draft, rows), spoken(target, most))
    ours, theirs, never = draft.get_vocab(), target.get_vocab(), set(found.never.tolist())
    assert not found.misfit
    for token, each in theirs.items():
        assert found.read([each]) == [ours.get(token, 0)]
    assert all(0 <= each < rows for each in found.read(range(most)))
    assert found.lacking == len(theirs.keys() - ours.keys())
    for token, each in ours.items():
        assert (each in never) == (token not in theirs)
        assert each in never or found.writes.get(each, each) == theirs[token]
    assert never >= {*range(most, rows)}
    assert found.columns(np.array([5, most, rows])).tolist() == [1] * (most < rows)


def test_what_ids_mean_has_a_digest_that_is_stable_across_releases() -> None:
    contents = TokenizerContents({"a": 0, "é": 1}, {"left out": [1]}, {"default": "{{ x }}"})
    assert contents.status((1,)) == TokenizerStatus(
        tokens=2, vocabulary="853ac459128615980e84f07d23ce456e", eos=(1,), template="25ca4c47798801d6"
    )
