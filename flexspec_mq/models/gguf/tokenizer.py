"""The tokenizer that a GGUF file describes, with the vocabulary that its makers' own has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens that are found before all others: those that a text does not show, and those that it shows."""

_ENDINGS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "</s>",
}  # fmt: skip
"""Control tokens at which llama.cpp ends a text, beside those that the file names."""

ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Role of transformers: name of the file's key."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SHORT}|{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_SHORT}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_GPT4O = rf"{_CASES[0]}{_SHORT}?|{_CASES[1]}{_SHORT}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_TEKKEN = rf"{_CASES[0]}|{_CASES[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS = r"\p{N}"

_SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_QWEN2,)),
    **dict.fromkeys(("gpt-4o", "llama4"), (_GPT4O,)),
    **dict.fromkeys(("smollm", "starcoder", "refact"), (_DIGITS, _GPT2)),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo"), (_GPT2,)),
    "tekken": (_TEKKEN,),
}
"""Regular expressions that cut a text before its bytes are merged, by the name that llama.cpp has for them."""
_WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "tekken"}
"""Names for which a piece that is a token stays whole, whatever its merges say."""
_COMPOSED = {"qwen2", "deepseek-r1-qwen"}
"""Names for which texts are put into Unicode's composed form (NFC)."""


def read_tokenizer(facts: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer, as transformers has it.

    Args:
        facts: The file's metadata.

    Raises:
        ModelError: The file has none, or one of a kind that is not known here.
        KeyError, IndexError, TypeError, ValueError: Its parts do not fit each other.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    kind, pre = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "default")
    if kind not in ("gpt2", "llama") or "tokenizer.ggml.tokens" not in facts:
        raise ModelError(
            f"its tokenizer is of kind {kind!r}" if kind else "it has no tokenizer",
            hint="byte-level BPE and SentencePiece BPE are read; take a file with one, or the checkpoint folder",
        )
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    if kind == "llama":
        # Newer files spell a token of blanks as blanks.
        tokens = ["▁" * len(token) if set(token) == {" "} else token for token in tokens]
    # Ids that only fill up the matrix are no tokens of the makers' tokenizer.
    vocabulary = {token: index for index, token in enumerate(tokens) if token != f"[PAD{index}]"}
    backend = _bytes(vocabulary, facts, pre) if kind == "gpt2" else _pieces(vocabulary, facts)
    added = {_CONTROL: True, _USER_DEFINED: False}
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=added[kinds[index]])
            for token, index in vocabulary.items()
            # Spaces of SentencePiece are found by merges, as all other text is.
            if kinds[index] in added and not (kind == "llama" and set(token) == {"▁"})
        ]
    )
    ids = {role: facts.get(f"tokenizer.ggml.{key}_token_id") for role, key in ROLES.items()}
    roles = {f"{role}_token": tokens[index] for role, index in ids.items() if index is not None}
    first = facts.get("tokenizer.ggml.add_bos_token", kind == "llama" or _SPLITS.get(pre) == (_LLAMA3,))
    start = [roles["bos_token"]] if first and "bos_token" in roles else []
    backend.post_processor = processors.TemplateProcessing(
        single=[*start, "$A"],
        pair=[*start, "$A:0", "$B:1"],
        special_tokens=[(token, vocabulary[token]) for token in start],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, chat_template=facts.get("tokenizer.chat_template"), **roles
    )


def ending_ids(facts: Mapping[str, Any]) -> list[int]:
    """Ids that end a text, ascending: those that the file names, and control tokens known for it."""
    named = (facts.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom"))
    words = zip(facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"], strict=True)
    known = (index for index, (token, kind) in enumerate(words) if kind == _CONTROL and token in _ENDINGS)
    return sorted({index for index in (*named, *known) if index is not None})


def _bytes(vocabulary: dict[str, int], facts: Mapping[str, Any], pre: str) -> Backend:
    """Byte-level BPE, as GPT-2 has it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if pre not in _SPLITS:
        raise ModelError(
            f"its tokenizer cuts texts by {pre!r}, which is not known here",
            hint=f"known are {', '.join(sorted(_SPLITS))}; take the checkpoint folder instead",
        )
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in _WHOLE_WORDS))
    if pre in _COMPOSED:
        backend.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS[pre]]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _pieces(vocabulary: dict[str, int], facts: Mapping[str, Any]) -> Backend:
    """SentencePiece's BPE: the pair of pieces that makes the one with the highest score is merged first.

    Gemma's own tokenizer goes by the order of pieces instead.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    by_order = facts.get("general.architecture", "").startswith("gemma")
    scores = [0.0] * len(facts["tokenizer.ggml.tokens"]) if by_order else facts["tokenizer.ggml.scores"]
    ids = vocabulary.get
    pairs = [
        (-scores[index], index, ids(token[:cut]), ids(token[cut:]), (token[:cut], token[cut:]))
        for token, index in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    unknown = facts["tokenizer.ggml.tokens"][facts.get("tokenizer.ggml.unknown_token_id", 0)]
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            [pair for *_, pair in sorted(pairs)],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = facts.get("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if prefixed else []), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefixed else []),
        ]
    )
    return backend
