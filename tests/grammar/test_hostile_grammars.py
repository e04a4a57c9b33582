"""Hostile grammars: bounded time and memory, an error with its place, and the same masks whatever was tried before."""

import contextlib
import random
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import GrammarError, RemoteProtocolError, UsageError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import MAX_SOURCE, Grammar
from flexspec_mq.grammar.matcher import CompiledGrammar, GrammarTokenizer, Matcher
from flexspec_mq.grammar.place import place_of
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.grammar.trial import LIMITS, MEGABYTES, SECONDS, GrammarTrial
from lab.fuzz.grammars import HOSTILE, LARK, ORDINARY, GrammarRun, mutant

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
EOS = (0, 2)
COMPILE = GrammarTokenizer.compile


def large() -> Grammar:
    """Memory in an eighth of the time that a compile may take."""
    return Grammar.from_json_schema({"enum": [[]] * 300_000})


def many() -> Grammar:
    return Grammar.from_parts(
        [{"name": f"g{number}", "lark_grammar": 'start: "a"'} for number in range(10_000)]
    )


@pytest.fixture(scope="module")
def run() -> GrammarRun:
    return GrammarRun()


@pytest.fixture(scope="module")
def reader(run: GrammarRun) -> GrammarTokenizer:
    return run.reader


def test_seeds_are_compiled_or_refused_within_bounds_and_ordinary_schemas_are_written(
    run: GrammarRun,
) -> None:
    rng = random.Random(1)
    for kind, seeds in (("schema", HOSTILE), ("lark", LARK)):
        for seed in seeds.values():
            run.try_one(kind, seed, rng)
    hostile = run.tally.outcomes.copy()
    for schema in ORDINARY.values():
        run.try_one("schema", schema, rng)
    tally = run.tally
    assert not tally.faults
    assert hostile["refused"] > 10
    assert hostile.total() - hostile["refused"] > 10
    assert (tally.outcomes - hostile).keys() <= {"written", "ended"}
    assert (tally.outcomes - hostile).total() == len(ORDINARY)
    assert tally.size < 1_000_000 * MEGABYTES


def test_a_hundred_mutants(run: GrammarRun) -> None:
    rng = random.Random(2)
    for _ in range(100):
        run.try_one(*mutant(rng), rng)
    assert not run.tally.faults


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (large, f"it takes more than {MEGABYTES} MB to compile"),
        # Time or memory, by the machine.
        (Grammar.from_json_schema(HOSTILE["patterns"]), "it takes more than"),
        (Grammar.from_json_schema(HOSTILE["multiple"]), "it takes more than"),
        (many, f"it takes more than {SECONDS:g} s to compile"),
        (Grammar.from_lark(LARK["chain"]), "it is too large to be compiled, or nests too deeply"),
        (Grammar.from_json_schema(HOSTILE["cycle"]), "it allows no text"),
        (Grammar.from_lark('start: "a"\nx: [z'), "line 2, column 6: Expected token ']', found '\\n'"),
        (Grammar.from_lark("start: <|nobody|>"), 'line 1, column 8: unknown special token: "<|nobody|>"'),
        (Grammar.from_regex("a(b"), "regular expression a(b, character 2: unclosed group"),
        (Grammar("{"), "EOF while parsing an object at line 1 column 1"),
        (Grammar(""), "Empty grammar"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_would_end_or_hold_up_a_daemon_is_an_error_in_one_line(
    reader: GrammarTokenizer, source: Grammar | Callable[[], Grammar], says: str
) -> None:
    with pytest.raises(GrammarError) as refused:
        reader.compile(source() if callable(source) else source)
    assert refused.value.message.startswith(says)
    assert "\n" not in refused.value.message
    # Processor time, which the system bounds by its ticks.
    assert refused.value.ms < 2 * 1000 * SECONDS
    reader.compile(Grammar.from_regex("a+"))  # others are tried as before


def test_a_trial_knows_the_targets_special_tokens_and_begins_anew_when_it_was_ended() -> None:
    trial = GrammarTrial(300, (7,), {7: "<|end|>", 9: "<call>"})
    named = Grammar.from_lark('start: <call> "a" <[10-20]>').source
    assert not trial.outcome(named).error
    assert trial._process is not None
    trial._process.kill()
    assert not trial.outcome(named).error
    assert "unknown special token" in trial.outcome(Grammar.from_lark("start: <other>").source).error


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strin"}, ""),
        ({"properties": {"a": {"type": "array", "items": {"type": "strin"}}}}, ", at /properties/a/items"),
        ({"properties": {"a/b~c": {"anyOf": [{}, {"type": 4}]}}}, ", at /properties/a~1b~0c/anyOf/1"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"items": {"not": {}}}}}, ", at /$defs/b/items"),
        ({"properties": {"a": {"pattern": "a(b", "type": "string"}}}, ", at /properties/a"),
        ({"properties": {"a": 3}}, ", at /properties/a"),
        ({"prefixItems": [{"properties": {"a": HOSTILE["patterns"]}}]}, ", at /prefixItems/0/properties/a"),
    ],
)  # fmt: skip
def test_the_smallest_part_that_is_to_blame(
    reader: GrammarTokenizer, schema: dict[str, object], place: str
) -> None:
    error = reader.error_of(Grammar.from_json_schema(schema))
    assert error
    assert place_of(schema, error, reader.error_of) == place


def test_what_drafts_and_others_have_used_up_changes_no_mask_and_fails_no_text(
    reader: GrammarTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts of other words come upon lexer states until there may be no more; then matchers begin anew."""
    monkeypatch.setitem(LIMITS, "max_lexer_states", 2000)
    rng = random.Random(3)
    words = Grammar.from_choice(["".join(rng.choices(string.ascii_lowercase, k=30)) for _ in range(300)])

    def word(matcher: Matcher) -> list[int]:
        draft: list[int] = []
        while (ids := np.flatnonzero(matcher.masks((), draft)[-1]))[0] != EOS[0]:
            draft.append(int(rng.choice(ids)))
        return draft

    compiled = reader.compile(words)
    text, tried, other = word(reader.compile(words).matcher()), compiled.matcher(), compiled.matcher()
    roots = {id(tried._root): tried._root}
    for _ in range(150):
        word(tried)
        roots[id(tried._root)] = tried._root
    assert len(roots) > 2
    for end in range(len(text) + 1):
        alone = reader.compile(words).matcher().masks(text[:end], ())[0]
        assert np.array_equal(tried.masks(text[:end], ())[0], alone)
        assert np.array_equal(other.masks(text[:end], ())[0], alone)


def test_a_text_that_takes_too_long_to_follow_fails(reader: GrammarTokenizer) -> None:
    compiled = reader.compile(Grammar.from_lark(LARK["ambiguous"]))
    letter = next(token for token in range(3, 300) if compiled.matcher().valid((), [token]))
    matcher = compiled.matcher()
    matcher.most = 100.0
    with pytest.raises(GrammarError, match="too much time to follow"):
        matcher.follow([letter] * 8000)


def test_a_grammar_is_kept_while_a_text_of_it_lives_and_an_error_is_remembered(
    reader: GrammarTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexspec_mq.grammar.compiled._MOST", 2)
    grammars, compiled = CompiledGrammars(str, 1, EOS), list[Grammar]()
    monkeypatch.setattr(grammars, "_tokenizer", reader)

    def counted(grammar: Grammar) -> CompiledGrammar:
        compiled.append(grammar)
        return COMPILE(reader, grammar)

    monkeypatch.setattr(reader, "compile", counted)
    held, bad = grammars.compile(Grammar.from_regex("a")), Grammar.from_regex("(")
    for _ in range(2):
        with pytest.raises(GrammarError, match="unclosed group"):
            grammars.compile(bad)
    for regex in "bcd":
        grammars.compile(Grammar.from_regex(regex))
    assert len(compiled) == 5
    assert grammars.compile(Grammar.from_regex("a")) is held
    assert grammars.get(Grammar.from_regex("b").digest(engine_name())) is None


@given(packed=st.binary(max_size=300), cut=st.integers(0, 100), flip=st.integers(0, 799))
@settings(max_examples=100)
def test_whatever_an_open_carries_is_a_grammar_or_refused(packed: bytes, cut: int, flip: int) -> None:
    whole = bytearray(Grammar.from_regex("[a-z]{3}").pack())
    whole[flip // 8 % len(whole)] ^= 1 << flip % 8
    for payload in (packed, bytes(whole), bytes(whole[:cut]), bytes(whole) + packed):
        with contextlib.suppress(RemoteProtocolError):
            Grammar.unpack(payload)


def test_bombs_and_what_cannot_travel_are_refused_before_they_are_unpacked() -> None:
    for size in (MAX_SOURCE + 1, 2**27):
        with pytest.raises(RemoteProtocolError, match=f"a grammar of {size} bytes"):
            Grammar.unpack(zstandard.compress(bytes(size)))
    with pytest.raises(RemoteProtocolError, match="a grammar of -1 bytes"):
        Grammar.unpack(zstandard.ZstdCompressor(write_content_size=False).compress(b"x"))
    for schema, says in (
        ({"const": "\ud800"}, "half a character"),
        ({"const": "x" * MAX_SOURCE}, "beyond 1000000"),
        (nested(100_000), "nests too deeply"),
    ):
        with pytest.raises(UsageError, match=says):
            Grammar.from_json_schema(schema)
    with pytest.raises(UsageError, match="beyond"):
        Grammar(random.Random(1).randbytes(80_000).hex()).pack()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema
