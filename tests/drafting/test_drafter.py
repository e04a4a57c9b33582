"""The drafter over a tiny model: what it guesses, what it reads, what it keeps, and what a grammar allows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.drafting.grammar_drafter import GrammarDrafter
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.drafting.model_drafter import LEAST, AcceptedRun, DraftKVPool, ModelDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.matcher import Matcher
from flexspec_mq.models.load import load_text
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.text import decode
from schemas.messages import Identity, Sampling
from tests.drafting.asking import asked
from tests.models.tiny_packed import VOCABULARY, packed


class Recording(PackedModel):
    """A packed model that notes how many tokens each session feeds into each forward."""

    def __init__(self, model: PackedModel) -> None:
        super().__init__(model.model, model.shapes)
        self.fed: list[list[int]] = []

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        self.fed.append([len(model_input.tokens) for model_input in inputs])
        return super().forward(inputs)


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return packed("grouped", torch.float32)


def prompt(number: int, length: int) -> tuple[int, ...]:
    return tuple((number * 31 + i * i + 7 * i) % VOCABULARY for i in range(length))


def alone(model: PackedModel, context: Sequence[int], count: int) -> list[int]:
    """Reference text: greedy tokens after a context, with no other session in any forward."""
    kv = model.new_kv()
    written = [int(model.forward([ModelInput(kv, context)])[0].argmax())]
    while len(written) < count:
        written.append(int(model.forward([ModelInput(kv, written[-1:])])[0].argmax()))
    return written


def write(
    drafter: ModelDrafter, contexts: dict[int, tuple[int, ...]], count: int, device: str = ""
) -> dict[int, list[int]]:
    """So many tokens behind each context, all of them wanted at the same time."""
    written: dict[int, list[int]] = {session: [] for session in contexts}
    for _ in range(500):
        wanted = [
            asked(session, (*context, *written[session]), device=device)
            for session, context in contexts.items()
            if len(written[session]) < count
        ]
        if not wanted:
            return written
        for one, guesses in zip(wanted, drafter.draft(wanted), strict=True):
            written[one.session] += [guess.token for guess in guesses or ()]
    raise AssertionError("a session gets no token")


@settings(max_examples=12)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    prefill=st.integers(2, 64),
    beside=st.integers(2, 64),
)
def test_guesses_depend_on_nothing_but_the_context(
    model: PackedModel, lengths: list[int], prefill: int, beside: int
) -> None:
    drafter = ModelDrafter(model, max_context=512, prefill=prefill, beside=beside)
    contexts = {number: prompt(number, length) for number, length in enumerate(lengths)}
    written = write(drafter, contexts, 3)
    assert written == {number: alone(model, context, 3) for number, context in contexts.items()}


def test_a_long_prompt_holds_up_nobody(model: PackedModel) -> None:
    recording = Recording(model)
    drafter = ModelDrafter(recording, max_context=1024, prefill=256, beside=32)
    write(drafter, {1: prompt(1, 9)}, 1)
    writes: list[int] = list(alone(model, prompt(1, 9), 1))
    while True:
        recording.fed = []
        mine, long = drafter.draft([asked(1, (*prompt(1, 9), *writes)), asked(2, prompt(2, 200))])
        assert mine  # a token in every forward
        assert sum(recording.fed[0]) <= 1 + 32
        writes.append(mine[0].token)
        if long is not None:
            break
    assert len(writes) == 1 + -(-200 // 32)
    assert writes == alone(model, prompt(1, 9), len(writes))


def test_unread_prompts_share_a_forward_and_none_waits_for_ever(model: PackedModel) -> None:
    recording = Recording(model)
    drafter = ModelDrafter(recording, max_context=1024, prefill=64)
    drafter.draft([asked(number, prompt(number, 100)) for number in range(6)])
    assert recording.fed == [[16] * 4]
    drafter.draft([asked(number, prompt(number, 100)) for number in range(6)])
    assert recording.fed[1] == [16] * 4
    # Sessions that had no turn come first.
    kvs = [drafter._sessions[number].kv.length for number in range(6)]
    assert kvs == [32, 32, 16, 16, 16, 16]


def test_the_next_turn_reads_only_what_is_new(model: PackedModel) -> None:
    recording = Recording(model)
    drafter = ModelDrafter(recording, max_context=1024)
    first = prompt(1, 200)
    answer = write(drafter, {1: first}, 4)[1]
    drafter.free(1)
    recording.fed = []
    second = (*first, *answer, *prompt(9, 20))
    assert write(drafter, {2: second}, 3)[2] == alone(model, second, 3)
    assert sum(map(sum, recording.fed)) == 20 + 1 + 2  # the last token of the answer had not been read
    drafter.free(2)
    other = prompt(5, 200)
    recording.fed = []
    assert write(drafter, {3: other}, 1)[3] == alone(model, other, 1)
    assert sum(map(sum, recording.fed)) == 200


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(model: PackedModel) -> None:
    kept = DraftKVPool(most=256)
    for number in range(6):
        kv = model.new_kv()
        model.forward([ModelInput(kv, prompt(number, 100))])
        kept.put(kv)
        assert kept.tokens <= 256
    assert len(kept) == 2
    assert kept.take(prompt(0, 100)) is None
    found = kept.take((*prompt(5, 100), 1, 2))
    assert found is not None
    assert found.tokens == list(prompt(5, 100))
    assert kept.take(prompt(5, 100)) is None  # it is taken
    assert kept.take((*prompt(4, LEAST - 1), 127, 127)) is None, "too little in common"
    assert kept.take((*prompt(4, LEAST), 127, 127)) is not None


def test_what_is_unread_is_known_before_it_is_asked(model: PackedModel) -> None:
    drafter = ModelDrafter(model, max_context=512, prefill=20)
    text = prompt(1, 90)
    unread = []
    for _ in range(5):
        unread.append(drafter.unread(one := asked(1, text, device="mine")))
        drafter.draft([one])
    assert unread == [90, 70, 50, 30, 10]
    assert drafter.unread(one) == 1
    assert drafter.unread(asked(1, (*text[:80], 3, 4), device="mine")) == 2
    drafter.free(1)
    assert drafter.unread(asked(2, text, device="mine")) == 1
    assert drafter.unread(asked(2, text, device="another")) == 90
    assert drafter.draft([asked(2, text, device="mine")]) != [None]


TOKENS = st.integers(0, 2)


def common(one: list[int], other: list[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def expected(context: list[int], guesses: dict[tuple[int, ...], int]) -> int:
    """Length of the run of right guesses at a context's end; each guess is keyed by the text before it."""
    length = 0
    for place, token in enumerate(context):
        guess = guesses.get(tuple(context[:place]))
        if guess is not None:
            length = length + 1 if guess == token else 0
    return length


@given(text=st.lists(TOKENS, min_size=1, max_size=40), data=st.data())
def test_a_streak_is_that_of_the_guesses_made_after_this_very_text(
    text: list[int], data: st.DataObject
) -> None:
    streak, guesses, read = AcceptedRun(), dict[tuple[int, ...], int](), list[int]()
    committed = 1
    while committed < len(text):
        branch: list[int] = []
        for by_lookup in data.draw(st.lists(st.booleans(), max_size=5)):
            context = text[:committed] + branch
            token = data.draw(TOKENS)
            if not by_lookup:
                streak.keep(common(read, context[:-1]))
                read = context
                assert streak.length(context, committed) == expected(context, guesses)
                streak.proposed(len(context), token)
                guesses[tuple(context)] = token
                if data.draw(st.booleans()):
                    token = data.draw(TOKENS)  # a lookup was surer
            branch.append(token)
        right = common(branch, text[committed:])
        committed += right + 1


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
