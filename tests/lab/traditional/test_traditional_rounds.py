"""Traditional speculation in rounds of small, real models: texts, laws, repeats, and what its messages hold."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.choose import choose
from lab.traditional.device import Drafts, WriteOrder, Writer
from lab.traditional.messages import Guesses, RoundVerdict, Start, decode, encode
from lab.traditional.speculation import Halves, distribution, draw, rounded, verify
from lab.traditional.target import Verifier
from schemas.messages import Sampling
from tests.lab.traditional.noisy_models import checkpoint, packed

VOCAB = 300

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    return packed(checkpoint(tmp_path_factory.mktemp("target"), 0.0))


@pytest.fixture(scope="module")
def draft_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("draft"), 0.05)


@pytest.fixture(scope="module")
def loaded(draft_folder: Path) -> LoadedText:
    return load_text(draft_folder)


@pytest.fixture(scope="module")
def draft(draft_folder: Path) -> PackedModel:
    return packed(draft_folder)


@dataclass
class Near:
    """A channel to a target in this process, which answers while the device waits; every message comes twice."""

    verifier: Verifier
    tokens: list[int] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    def send(self, payload: bytes) -> None:
        for _ in range(2):
            verdict = self.verifier.take(decode(payload))
            if verdict is not None:
                self.answers.append(encode(verdict))
        if verdict is not None:
            self.tokens += verdict.tokens

    async def receive(self) -> bytes:
        return self.answers.pop(0)


@asynccontextmanager
async def bench(
    target: PackedModel, draft: PackedModel, loaded: LoadedText
) -> AsyncIterator[tuple[Writer, Near]]:
    channel = Near(Verifier(target, vocab_size=VOCAB, prefill=3))
    drafts = Drafts(draft, None, vocab_size=VOCAB, eos=loaded.eos)
    with ThreadPoolExecutor(1) as compute:
        yield Writer(loaded, drafts, channel, compute), channel


def order(scheme: str, **changes: object) -> WriteOrder:
    wanted: dict[str, object] = {
        "prompt": "Why is it so?",
        "tokens": 24,
        "guesses": 3,
        "sampling": Sampling(seed=5),
    }
    return WriteOrder(scheme=scheme, **(wanted | changes))  # type: ignore[arg-type]


def alone(target: PackedModel, loaded: LoadedText, params: Sampling, count: int) -> list[int]:
    """Reference text: tokens that the target alone writes with the session's noise."""
    prompt = encode_turns(loaded.tokenizer, [Turn("user", "Why is it so?")], max_context=400)
    context = [*prompt]
    while len(context) < len(prompt) + count and (
        len(context) == len(prompt) or context[-1] not in loaded.eos
    ):
        logits = to_numpy(target.forward([ModelInput(target.new_kv(), context)]))
        context.append(choose(logits[0], params, len(context)))
    return context[len(prompt) :]


@pytest.mark.parametrize(
    ("scheme", "sampling"),
    [
        ("traditional", Sampling(seed=5)),
        ("traditional-ids", Sampling(seed=5)),
        *(("traditional-ids", Sampling(0.8, 5, 1.0, seed)) for seed in range(4)),
    ],
)
async def test_a_text_is_the_targets_without_sampling_and_by_ids_with_it_too(
    scheme: str, sampling: Sampling, target: PackedModel, draft: PackedModel, loaded: LoadedText
) -> None:
    wanted = order(scheme, sampling=sampling)
    async with bench(target, draft, loaded) as (writer, channel):
        usage = (await writer.write(wanted))["usage"]
    assert channel.tokens == alone(target, loaded, sampling, 24)
    own = usage["flexspec"]
    assert usage["completion_tokens"] == len(channel.tokens) <= wanted.tokens
    # A round's verdict is what was accepted and one token more, unless an end of text was.
    assert own["accepted"] <= len(channel.tokens) <= own["accepted"] + own["rounds"]
    assert own["drafted"] <= wanted.guesses * own["rounds"]


def test_with_distributions_the_law_is_the_targets() -> None:
    """Pairs of first tokens, where guesses are drawn from another distribution than the target's."""
    rng = np.random.default_rng(1)
    (p, q), (p_behind, q_behind) = rng.dirichlet(np.ones(4), 2), rng.dirichlet(np.ones(4), (2, 4))
    seen = np.zeros((4, 4))
    for _ in range(20_000):
        first = draw(q, rng)
        guesses = first, draw(q_behind[first], rng)
        tokens = verify((p, p_behind[first], p).__getitem__, (q, q_behind[first]), guesses, (), rng)
        # Behind a guess that was rejected the next round decides.
        seen[tokens[0], tokens[1] if tokens[1:] else draw(p_behind[tokens[0]], rng)] += 1
    due = 20_000 * p[:, None] * p_behind
    assert chisquare(seen.ravel(), due.ravel()).pvalue > 1e-6


class Counting:
    """Counts the tokens that a model reads."""

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        self.read: list[int] = []
        self.new_kv = model.new_kv

    def forward(self, inputs: Sequence[ModelInput]) -> object:
        self.read += [len(one.tokens) for one in inputs]
        return self.model.forward(inputs)


START = Start("a", 1, tuple(range(10, 20)), Sampling(), ())


def test_what_was_read_for_a_client_stays(target: PackedModel) -> None:
    model = Counting(target)
    verifier = Verifier(model, vocab_size=VOCAB, prefill=4)  # type: ignore[arg-type]
    verifier.take(START)
    assert model.read == [4, 4, 1]
    first = verifier.take(Guesses(1, 1, (7, 8)))
    assert model.read[3:] == [3]
    verifier.take(Start("a", 2, (*range(10, 18), 3, 4), Sampling(), ()))
    assert model.read[4:] == [1]
    verifier.take(Start("b", 3, START.prompt, Sampling(), ()))
    assert model.read[5:] == [4, 4, 1]
    assert verifier.take(Guesses(3, 1, (7, 8))) == RoundVerdict(3, 1, first.tokens if first else ())


def test_a_round_that_is_told_again_is_answered_again_and_an_earlier_one_passed_over(
    target: PackedModel,
) -> None:
    """Where its verdict came, and its acknowledgement did not before the connection was given up."""
    model = Counting(target)
    verifier = Verifier(model, vocab_size=VOCAB, prefill=64)  # type: ignore[arg-type]
    for _ in range(2):
        verifier.take(START)
    first, again, second = (verifier.take(Guesses(1, number, ())) for number in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert first == again
    assert sum(model.read) == len(START.prompt) + 1, "nothing is read twice"
    assert verifier.take(Guesses(1, 1, ())) is None
    assert verifier.take(Guesses(1, 2, ())) == second
    verifier.take(Start("a", 2, START.prompt, Sampling(), ()))
    assert verifier.take(Guesses(1, 2, ())) is None
    assert verifier.take(Guesses(2, 1, ())) == RoundVerdict(2, 1, first.tokens)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, list[int], list[Halves]]:
    """Size of a vocabulary, and guesses in it with distributions or without."""
    vocab_size = draw(st.sampled_from([3, 40, 70_000]))
    tokens = draw(st.lists(st.integers(0, vocab_size - 1), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sent = []
    for _ in tokens if draw(st.booleans()) else ():
        q = rng.dirichlet(np.full(min(vocab_size, 100), 0.1))
        sent.append(rounded(q, np.sort(rng.choice(vocab_size, len(q), replace=False)), vocab_size))
    return vocab_size, tokens, sent


@given(rounds())
def test_a_round_comes_out_as_it_went_in(one: tuple[int, list[int], list[Halves]]) -> None:
    vocab_size, tokens, sent = one
    found = decode(encode(Guesses.made(3, 4, tokens, sent)))
    assert isinstance(found, Guesses)
    assert (found.text, found.round, found.tokens) == (3, 4, tuple(tokens))
    arrived = found.distributions(vocab_size)
    assert len(arrived) == len(sent)
    for mine, theirs in zip(sent, arrived, strict=True):
        # To the bit: the target must compare with what the device draws from.
        assert np.array_equal(distribution(mine), distribution(theirs))


def test_what_is_sent_of_a_distribution() -> None:
    q, ids = np.array([0.5, 0.125, 0.375]), np.array([1, 4, 6])
    assert distribution(rounded(q, ids, 8)) == pytest.approx([0, 0.5, 0, 0, 0.125, 0, 0.375, 0])
    assert distribution(rounded(q, None, 3)) == pytest.approx(q)
