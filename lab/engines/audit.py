"""Whether a text is what a server writes by itself, token by token, by requests that the worker does not send.

A server's text is exact up to ties: forwards of another shape round otherwise, so that of two tokens with nearly the
same log-probability another one wins. Each place where a text goes its own way is told with both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np

from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.text import decode
from lab.benchmarks.exact.sampling import Params, choose, gumbel

MOST = 20
"""Likeliest tokens of a place, the server's ``--max-logprobs``."""
PATIENCE = 120.0


class Otherwise(FlexSpecError):
    """A text that the server does not write."""


@dataclass(frozen=True, slots=True)
class Tie:
    """A place where a text went another way than the server's next forward.

    Attributes:
        place: index in the answer.
        ours, theirs: token of the text, and the server's, as texts.
        logprobs: log-probability of each.
        margin: distance of their scores, in nats: noise included above temperature 0.
    """

    place: int
    ours: str
    theirs: str
    logprobs: tuple[float, float]
    margin: float

    def __str__(self) -> str:
        """Both tokens, for people."""
        ours, theirs = self.logprobs
        said = f"{self.ours!r} {ours:.3f} for {self.theirs!r} {theirs:.3f}"
        return f"token {self.place}, {said}, {self.margin:.3f} nats apart"


@dataclass(slots=True)
class Auditor:
    """Follows texts along a server.

    Attributes:
        http: client whose base is the server's address.
        model: name of the model there.
        target: tokenizer of the model, and all that is known of its texts.
    """

    http: httpx2.AsyncClient
    model: str
    target: LoadedText
    _calls: int = field(default=0, init=False)

    async def ties(self, prompt: Sequence[int], text: str, tokens: int, sampling: Params) -> list[Tie]:
        """Follow an answer; where it left the server's way, go on along the answer.

        Args:
            prompt: token ids before it.
            text: the answer.
            tokens: how many it has, an end included.
            sampling: how they were chosen.

        Raises:
            Otherwise: none of the server's likeliest tokens goes on like the answer.
        """
        ids: list[int] = []
        found: list[Tie] = []
        while len(ids) < tokens:
            context = [*prompt, *ids]
            written = await self.written(context, sampling, tokens - len(ids))
            fitting = next(
                (
                    count
                    for count in range(len(written))
                    if not self._fits([*ids, *written[: count + 1]], text)
                ),
                len(written),
            )
            ids += written[:fitting]
            if fitting < len(written):
                row = await self.row([*prompt, *ids])
                found.append(self._tie(row, ids, written[fitting], text, len(prompt) + len(ids), sampling))
                ids.append(self._goes_on(row, ids, text))
        if self._told(ids) != text:
            raise Otherwise(f"the server's {tokens} tokens are {self._told(ids)!r}, not {text!r}")
        return found

    async def written(self, context: list[int], sampling: Params, most: int) -> list[int]:
        """Tokens behind a context by the server alone: greedy ones at once, others one by one by our rule."""
        if sampling.temperature == 0.0:
            answer = await self._ask(context, most, 0)
            return [_id(name) for name in answer["tokens"]]
        row = await self.row(context)
        return [_chosen(row, len(context), sampling, self.target.vocab_size)]

    async def row(self, context: list[int]) -> dict[int, float]:
        """The likeliest tokens behind a context, with their log-probabilities."""
        (row,) = (await self._ask(context, 1, MOST))["top_logprobs"]
        return {_id(name): logprob for name, logprob in row.items()}

    async def _ask(self, context: list[int], most: int, count: int) -> dict[str, Any]:
        body = {
            "model": self.model,
            "prompt": context,
            "max_tokens": most,
            "temperature": 0,
            "logprobs": count,
        }
        answer = await self.http.post("/v1/completions", json={**body, "return_tokens_as_token_ids": True})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["choices"][0]["logprobs"]
        return found

    def _fits(self, ids: list[int], text: str) -> bool:
        if ids[-1] in self.target.eos:
            return self._told(ids) == text
        return text.startswith(decode(self.target.tokenizer, ids).rstrip("\ufffd"))

    def _told(self, ids: Sequence[int]) -> str:
        """Text of tokens as an answer has it: without an end, or a character that is not whole."""
        whole = ids[:-1] if ids and ids[-1] in self.target.eos else ids
        return decode(self.target.tokenizer, whole)

    def _goes_on(self, row: dict[int, float], ids: list[int], text: str) -> int:
        """The likeliest token that goes on like the text."""
        fitting = [token for token in row if self._fits([*ids, token], text)]
        if not fitting:
            raise Otherwise(f"none of the server's tokens goes on like {text!r} behind {self._told(ids)!r}")
        return max(fitting, key=lambda token: (len(self._told([*ids, token])), row[token]))

    def _tie(
        self, row: dict[int, float], ids: list[int], theirs: int, text: str, position: int, sampling: Params
    ) -> Tie:
        ours = self._goes_on(row, ids, text)
        scores = _scores(row, position, sampling, self.target.vocab_size)
        names = [decode(self.target.tokenizer, [token]) for token in (ours, theirs)]
        least = min(row.values())
        logprobs = (row[ours], row.get(theirs, least))
        return Tie(len(ids), names[0], names[1], logprobs, abs(scores.get(theirs, least) - scores[ours]))


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _whole(row: dict[int, float], vocabulary: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    logits = np.full(vocabulary, -np.inf, np.float32)
    logits[[*row]] = [*row.values()]
    return logits


def _chosen(row: dict[int, float], position: int, sampling: Params, vocabulary: int) -> int:
    return choose(_whole(row, vocabulary), sampling, position)


def _scores(row: dict[int, float], position: int, sampling: Params, vocabulary: int) -> dict[int, float]:
    """Log-probabilities, with noise above temperature 0, in nats."""
    if sampling.temperature == 0.0:
        return row
    noise = gumbel(sampling.seed, position, vocabulary)
    return {token: logprob + sampling.temperature * float(noise[token]) for token, logprob in row.items()}
