"""A prompt is refused by its first part where that alone does not fit, and never for more tokens than it has."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from edge_node.text.encoding import PromptTooLong, encode
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn
from tests.edge_node.api.served import speech, tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def bpe(normalizer: Any = None, split: Any = None, added: str = "", lacks: str = "") -> Any:
    vocab = {
        token: at for at, token in enumerate([*(one for one in ALPHABET if one not in lacks), "ab", "abab"])
    }
    backend = Tokenizer(BPE(vocab=vocab, merges=[("a", "b"), ("ab", "ab")]))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(added, lstrip=True)] if added else [])
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


KNOWN = {
    "api": tokenizer(),
    "sequence": bpe(normalizers.Sequence([normalizers.Replace(" ", "_"), normalizers.NFC()])),
    "added": bpe(added="a long token of its own"),
    "lacks bytes": bpe(lacks="\u0104\u00c3\u00e2\u00f1"),
    "splits at nothing": bpe(split=pre_tokenizers.Split("", "isolated")),
}
TEXTS = st.text(max_size=60) | st.text("ab \u0301\u0313\u0300\u0345\u03b1", min_size=20, max_size=60)


@pytest.mark.parametrize("name", KNOWN)
@given(text=TEXTS, times=st.integers(1, 60))
def test_a_prompt_is_refused_for_no_more_tokens_than_it_has(name: str, text: str, times: int) -> None:
    model = speech(20, KNOWN[name])
    actual = len(model.tokenizer.encode(text * times))
    try:
        fits = len(encode(model, text * times)) == actual < model.max_context
    except PromptTooLong as error:
        said = re.search(r"\d+", error.message)
        assert said is not None
        assert model.max_context <= int(said[0]) <= actual
    except UsageError:
        assert actual == 0
    else:
        assert fits


def test_megabytes_are_refused_by_their_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model = speech(max_context=8192)
    read: list[int] = []
    whole = type(model.tokenizer).encode

    def reading(self: Any, text: str, **more: Any) -> Any:
        read.append(len(text))
        return whole(self, text, **more)

    monkeypatch.setattr(type(model.tokenizer), "encode", reading)
    for prompt in ("ab " * 1_300_000, (Turn("user", "ab " * 1_300_000),)):
        with pytest.raises(PromptTooLong, match=r"at least \d+ tokens"):
            encode(model, prompt)
    assert read == [16 * 8192, 16 * 8192]


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.integers(1, 30)), min_size=1))
def test_the_newest_turns_that_fit_are_kept(said: list[tuple[Any, int]]) -> None:
    model, room = speech(60), 20
    turns = [*(Turn(role, "a" * size) for role, size in said), Turn("user", "end")]
    starts = [at for at, turn in enumerate(turns) if turn.role == "user"]
    shorter = [[turn for turn in turns[:at] if turn.role == "system"] + turns[at:] for at in starts]
    sizes = [len(_ids(kept)) for kept in shorter]
    if len(_ids(turns)) < 60:
        expected = turns
    else:
        expected = next(
            (kept for kept, size in zip(shorter, sizes, strict=True) if size < 60 - room), shorter[-1]
        )
    if len(_ids(expected)) >= 60:
        with pytest.raises(PromptTooLong):
            encode(model, tuple(turns), None, room)
    else:
        assert encode(model, tuple(turns), None, room) == _ids(expected)


def _ids(turns: list[Turn]) -> tuple[int, ...]:
    return encode(speech(100_000), tuple(turns))
