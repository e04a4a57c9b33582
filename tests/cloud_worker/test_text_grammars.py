"""Grammars that take long to follow: their device's texts fail, and those of others are written as before."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_worker.engine.grammars import TextGrammars
from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.default import default_model_path
from flexspec_mq.protocol.worker.types import WorkItem
from lab.fuzz.grammars import LARK
from schemas.messages import Identity, Sampling
from tests.cloud_worker.works import work

pytestmark = pytest.mark.model
SLOW, QUICK = Grammar.from_lark(LARK["ambiguous"]), Grammar.from_regex("[a-z ]*")


def an_item(edge: str, session: int, grammar: Grammar, text: list[int]) -> WorkItem:
    digest = grammar.digest(engine_name())
    identity = Identity(2, bytes(16), Sampling(seed=1), (2,), False, 4000, digest)
    return work(identity, (5,), text, key=(edge, session))


def test_a_device_whose_grammars_take_too_long_is_stopped_and_others_are_not() -> None:
    tokenizer = default_model_path(lambda _line: None) / "tokenizer.json"
    grammars = CompiledGrammars(lambda: tokenizer.read_text("utf-8"), 49_152, (2,))
    for grammar in (SLOW, QUICK):
        grammars.compile(grammar)
    texts, letter = TextGrammars(grammars, lambda: 0.0), 81
    assert grammars.compile(SLOW).matcher().valid((), [letter]) == 1
    spent, failed = 0.0, 0
    for session in range(8):
        masks = texts.masks(an_item("evil", session, SLOW, [letter] * 400), ())
        failed += isinstance(masks, GrammarError)
        spent += matcher.ms if (matcher := texts._matchers.get(("evil", session))) else 0.0
        good = texts.masks(an_item("good", session, QUICK, [letter] * session), (letter,))
        assert not isinstance(good, GrammarError)
        assert len(good) == 2
        assert np.count_nonzero(good[0])
    assert failed == 8
    assert spent < 1000
    assert "too much time" in str(masks)


def test_a_gateway_may_have_any_number_of_texts_with_ordinary_grammars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of steps in a moment, where a bucket of all their time would be empty."""
    monkeypatch.setattr("cloud_worker.engine.grammars._BURST", 2.0)
    tokenizer = default_model_path(lambda _line: None) / "tokenizer.json"
    grammars = CompiledGrammars(lambda: tokenizer.read_text("utf-8"), 49_152, (2,))
    schema = Grammar.from_json_schema({"type": "object", "properties": {"a": {"type": "string"}}})
    grammars.compile(schema)
    texts = TextGrammars(grammars, lambda: 0.0)
    for session in range(20):
        for step in range(20):
            masks = texts.masks(an_item("gateway", session, schema, []), ())
            assert not isinstance(masks, GrammarError), (session, step)
            texts._matchers["gateway", session]._mask = None  # the next step asks anew
