"""Drafts of texts with grammars beside others': what goes wrong with one is no other's loss."""

from __future__ import annotations

import pytest

from flexspec_mq.drafting.grammar_drafter import GrammarDrafter
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.matcher import Matcher
from flexspec_mq.models.load import load_text
from flexspec_mq.models.text import decode
from schemas.messages import Identity, Sampling

TEXT = load_text("default")
IDENTITY = Identity(2, bytes(16), Sampling(seed=1), TEXT.eos, False, 100)
SAID = tuple(TEXT.tokenizer.encode("the cat sat on the mat and then the cat sat on"))


def wanted(session: int, grammar: object = None, text: tuple[int, ...] = ()) -> DraftRequest:
    context = (*SAID, *text)
    return DraftRequest(
        session, context, IDENTITY, len(context), prompt_length=len(SAID), most=4, grammar=grammar
    )


@pytest.fixture
def compiled() -> object:
    grammars = TEXT.grammars()
    assert isinstance(grammars, CompiledGrammars)
    return grammars.compile(Grammar.from_regex(" the (mat|bed)[a-z ]*"))


def test_lookups_end_where_the_grammar_does(compiled: object) -> None:
    free, held = GrammarDrafter(PromptLookupDrafter(max_context=100)).lookups(
        [wanted(1), wanted(2, compiled)]
    )
    assert decode(TEXT.tokenizer, [each.token for each in free]).startswith(" the mat and")
    assert [each.token for each in held] == [each.token for each in free]
    grammars = TEXT.grammars()
    assert grammars is not None
    other = grammars.compile(Grammar.from_regex(" the bed"))
    (cut,) = GrammarDrafter(PromptLookupDrafter(max_context=100)).lookups([wanted(3, other)])
    assert decode(TEXT.tokenizer, [each.token for each in cut]) == " the"


@pytest.mark.parametrize("fails", ["valid", "allowed"])
def test_a_grammar_that_cannot_be_followed_leaves_the_drafts_of_others(
    compiled: object, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A drafter that raises is not asked again, by nobody's sessions: one device must not bring that about."""

    def used_up(*_: object) -> None:
        raise GrammarError("it takes too much time")

    drafter = GrammarDrafter(PromptLookupDrafter(max_context=100))
    monkeypatch.setattr(Matcher, fails, used_up)
    requests = [wanted(1), wanted(2, compiled)]
    lookups = drafter.lookups(requests)
    assert lookups[0]
    assert not lookups[1]
    drafted = drafter.draft(requests)
    while drafted[0] is None:
        drafted = drafter.draft(requests[:1])
    assert drafted[0]


def test_the_text_of_another_grammar_gets_no_drafts() -> None:
    grammars = TEXT.grammars()
    assert grammars is not None
    number = grammars.compile(Grammar.from_regex("[0-9]+"))
    drafter = GrammarDrafter(PromptLookupDrafter(max_context=100))
    assert drafter.draft([wanted(1, number, SAID[:2])]) == [()]
