"""The second turn of a conversation: what it sends and how long it takes, against the same prompt from nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.bench.testbed.client import Answer, ask, unbounded
from lab.benchmarks.serve.daemons import QUICK_STATUS, with_broker


@dataclass(frozen=True, slots=True)
class Turn:
    """One second turn, both ways.

    Attributes:
        tokens: of its prompt, history included.
        cold, warm: asked of an edge node that names nothing, and of the one that had the first turn.
    """

    tokens: int
    cold: Answer
    warm: Answer


async def second_turns(
    questions: Sequence[str], history: int, rounds: int, seed: int, say: Callable[[str], None]
) -> list[Turn]:
    """Conversations with a long first question, whose second turn asks for a single token.

    A single token takes one open and one close, so that the bytes are those of the prompt and the time is that of
    reading it. Each conversation is asked cold and warm, in random order, at one worker.

    Args:
        questions: joined in random order until a first question is long enough.
        history: tokens that the second turn's prompt shall have, about.
        rounds: conversations.
        seed: of the order.
        say: told what happens.
    """
    rng = random.Random(seed)
    found = []
    async with with_broker() as here, unbounded() as http:
        _, warm, cold = await asyncio.gather(
            here.worker("w1", *QUICK_STATUS), here.edge("warm"), here.edge("cold", "--no-reuse")
        )
        for number in range(rounds):
            said = _long_question(questions, history, rng, number)
            first = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 24}
            answer = await ask(http, warm.url, first)
            turns = [
                {"role": "user", "content": said},
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": "Say the same in one sentence."},
            ]
            second = {"messages": turns, "temperature": 0, "max_tokens": 1}
            answers = {}
            for edge in rng.sample((warm, cold), 2):
                answers[edge.name] = await ask(http, edge.url, second)
            for one in (answer, *answers.values()):
                if one.error:
                    raise SystemExit(f"a turn failed: {one.error}")
            if answers["warm"].text != answers["cold"].text:
                raise SystemExit("the second turn has another text when its beginning is named")
            tokens = answers["warm"].usage["prompt_tokens"]
            say(f"conversation {number + 1}: {tokens} tokens")
            found.append(Turn(tokens, answers["cold"], answers["warm"]))
    return found


def _long_question(questions: Sequence[str], tokens: int, rng: random.Random, number: int) -> str:
    """Questions in a row, about four characters a token; no two conversations begin alike."""
    said = f"Conversation {number}. "
    while len(said) < 4 * tokens:
        said += rng.choice(questions) + " "
    return said
