"""The data of the shipped heads: sums that are right, shapes that are kept, held-out prompts that are."""

import json
import random
import re

from hypothesis import given
from hypothesis import strategies as st

from training.examples import head_examples as examples

STEP = re.compile(r"(\d+) ([-+×÷]) (\d+) = (\d+)")
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=30)


@given(st.integers(0, 2**32))
def test_worked_answers_are_right_and_use_what_was_asked(seed: int) -> None:
    question, steps, answer = examples.problem(random.Random(seed))
    known = set(map(int, re.findall(r"\d+", question)))
    for step in steps:
        found = STEP.fullmatch(step)
        assert found is not None, step
        a, sign, b, c = int(found[1]), found[2], int(found[3]), int(found[4])
        assert {"+": a + b, "-": a - b, "×": a * b, "÷": a / b}[sign] == c
        assert known & {a, b}
        known.add(c)
    assert int(steps[-1].rsplit(" ", 1)[1]) == answer > 0
    text = examples.worked(steps, answer)
    assert all(f"we calculate {step}." in text for step in steps)
    assert text.endswith(f" {answer}.")


@given(st.lists(WORDS, max_size=12).map(" ".join), st.sampled_from([". ", "! ", ".\n- ", ".\n2. "]))
def test_reshaped_answers_keep_their_shape(text: str, between: str) -> None:
    answer = between.join([text, "Bees make honey all summer long", "They live together in a hive."])
    assert all(line.startswith("- ") for line in examples.style(answer).split("\n"))
    assert set(json.loads(examples.formatted(answer))) == {"answer", "sentences"}
    lines = examples.reasoning(answer).split("\n")
    assert lines[0].startswith("Step 1. ")
    assert lines[-1].startswith("Conclusion, ")


def test_the_milder_heads_learn_the_answers_of_the_base_beside_their_own() -> None:
    pairs = [(f"What is {word}?", f"It is {word} as such. It is rare. That is all of it.") for word in "abc"]
    same = [examples.chat(*pair) for pair in pairs]
    by_kind = {kind: examples.chats(kind, pairs, 5, 0) for kind in examples.KINDS}
    for kind, own in (("mathematics", 5), ("format", 3), ("style", 3), ("reasoning", 3)):
        kept = same if kind in ("mathematics", "format") else []
        assert len(by_kind[kind]) == own + len(kept)
        assert [chat for chat in by_kind[kind] if chat in same] == kept
    for chat, (prompt, answer) in zip(by_kind["format"], pairs, strict=False):
        asked, answered = chat["messages"]
        assert asked["content"] == f"{prompt} {examples.ASK_JSON}"
        assert json.loads(answered["content"])["answer"] in answer


def test_held_out_prompts_share_no_topic_with_the_others() -> None:
    trained, held = examples.prompts(10_000, False, 0), examples.prompts(10_000, True, 0)
    assert len(set(trained)) == len(trained) == len(examples.TOPICS) * len(examples.WORDINGS)
    assert not set(trained) & set(held)
    assert examples.prompts(50, False, 0) == trained[:50] != examples.prompts(50, False, 1)
