"""Where a text stands in its grammar: the same masks by whatever way it got there."""

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.matcher import Matcher
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.load import LoadedText, load_text

SCHEMA = Grammar.from_json_schema({
    "type": "object",
    "properties": {
        "name": {"enum": ["light.turn_on", "light.turn_off", "cover.open"]},
        "level": {"type": "integer", "minimum": 0, "maximum": 100},
        "rooms": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["name", "level"],
    "additionalProperties": False,
})  # fmt: skip
GRAMMARS = {
    "schema": SCHEMA,
    "regex": Grammar.from_regex(r"[a-c]{2,5}/(\d+|x\/y)"),
    "choice": Grammar.from_choice(["yes, surely", "no", 'no "never"']),
    "lark": Grammar.from_lark('start: item (" and then " item)*\nitem: "apples" | "pears" " of wood"?'),
}
RNG = random.Random


EOS = (2,)


@cache
def loaded() -> LoadedText:
    return load_text("default")


@cache
def grammars() -> CompiledGrammars:
    ours = loaded().grammars()
    assert ours is not None
    return ours


def begun(grammar: Grammar) -> Matcher:
    return grammars().compile(grammar).matcher()


def walk(grammar: Grammar, seed: int, most: int = 40) -> list[int]:
    """A random text of a grammar."""
    matcher, rng, text = begun(grammar), RNG(seed), list[int]()
    while len(text) < most:
        matcher.follow(text)
        text.append(int(rng.choice(np.flatnonzero(matcher.allowed()))))
        if text[-1] in EOS:
            break
    return text


def mask_after(grammar: Grammar, text: Sequence[int]) -> bytes:
    matcher = begun(grammar)
    matcher.follow(text)
    return matcher.allowed().tobytes()


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("seed", range(3))
def test_a_mask_depends_on_the_text_alone(name: str, seed: int) -> None:
    """Whichever drafts were tried and taken back before: that is what retries, failover and who drafts rest on."""
    grammar, rng = GRAMMARS[name], RNG(seed)
    text, other = walk(grammar, seed), walk(grammar, seed + 100)
    travelled = begun(grammar)
    for _ in range(25):
        end = rng.randrange(len(text))
        if rng.random() < 0.5:
            travelled.follow(other[: rng.randrange(len(other))])
        wrong = [*text[end : end + rng.randrange(4)], rng.randrange(49_152), 5]
        masks = travelled.masks(text[:end], wrong)
        assert masks[0].tobytes() == mask_after(grammar, text[:end])
        allowed = travelled.valid(text[:end], wrong)
        assert len(masks) == 1 + allowed - (allowed > 0 and wrong[allowed - 1] in EOS)
        for place, mask in enumerate(masks):
            assert mask.tobytes() == mask_after(grammar, (*text[:end], *wrong[:place]))


@pytest.mark.parametrize("name", GRAMMARS)
def test_forced_tokens_are_those_behind_which_no_other_is_allowed(name: str) -> None:
    grammar = GRAMMARS[name]
    found = 0
    for seed in range(4):
        text = walk(grammar, seed)
        for end in range(len(text)):
            forced = begun(grammar).forced(text[:end], 10)
            found += len(forced)
            for place, token in enumerate(forced):
                mask = np.frombuffer(mask_after(grammar, (*text[:end], *forced[:place])), np.bool_)
                assert np.flatnonzero(mask).tolist() == [token]
            if len(forced) < 10 and not (forced and forced[-1] in EOS):
                mask = np.frombuffer(mask_after(grammar, (*text[:end], *forced)), np.bool_)
                assert np.count_nonzero(mask) > 1
    assert found > 4


def test_several_ends_of_a_text_are_one_where_nothing_else_is_allowed() -> None:
    """Else a forward would choose between ids that show nothing."""
    text = loaded()
    ours = CompiledGrammars(text.tokenizer.backend_tokenizer.to_str, text.vocab_size, (7, 2, 0))
    matcher = ours.compile(Grammar.from_choice(["no", "nothing"])).matcher()
    (no,) = text.tokenizer.encode("no")
    matcher.follow([no])
    assert {0, 2, 7} < set(np.flatnonzero(matcher.allowed()))
    assert matcher.forced(text.tokenizer.encode("nothing"), 5) == (0,)


def test_a_text_of_no_grammar_and_a_grammar_of_no_text_are_errors() -> None:
    matcher = begun(SCHEMA)
    with pytest.raises(GrammarError, match="token 0 of the text"):
        matcher.follow([5, 6])
    matcher.follow([])
    assert matcher.allowed().any()  # it goes on all the same
    dead_end = begun(Grammar.from_lark('start: "a" NEVER\nNEVER: /[^\\s\\S]/'))
    dead_end.follow(loaded().tokenizer.encode("a"))
    with pytest.raises(GrammarError):  # and no end of the text, which would not be whole
        dead_end.allowed()


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar_travels_whole_and_its_name_is_of_what_reads_it_too(name: str) -> None:
    grammar = GRAMMARS[name]
    assert Grammar.unpack(grammar.pack()) == grammar
    digests = {each.digest(engine) for each in GRAMMARS.values() for engine in (engine_name(), "another 1")}
    assert len(digests) == 2 * len(GRAMMARS)
