"""Requests to a server of models over HTTP: OpenAI's completions, as vLLM has them, with prompts of token ids."""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from cloud_worker.engine.servers.client import MOST_SAID, MOST_STREAM, ServerClient, ServerGone
from flexspec_mq.errors import ServerRefused, UsageError
from schemas.messages import Sampling, TokenId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    import numpy.typing as npt

GREEDY = Sampling()
_EVENT, _LIKELY = 1024, 64
"""Bytes of a stream's event at most, and those that each of the likeliest tokens adds."""
_TOKEN = re.compile(r"token_id:([0-9]{1,8})")
_MAX_SEED = 2**63 - 1
_NO_SEED = 2**64 - 1
"""Seed that vLLM, which takes them signed, has for none."""
_TEMPERATURES = (0.01, 2.0)
"""The lowest and the highest that vLLM samples at."""


@dataclass(frozen=True, slots=True)
class Row:
    """A token that the server chose, and the likeliest ones at its place.

    Attributes:
        token: token id.
        ids: token ids, int64 of shape [tokens].
        logprobs: Log-probabilities before temperature, float32 of shape [tokens].
    """

    token: int
    ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]

    @classmethod
    def of(cls, token: int, likeliest: Iterable[tuple[int, float]], most: int) -> Row:
        """Keep the `most` likeliest, the likeliest first: servers tell the chosen one beside them, however it ranks."""
        best = sorted(likeliest, key=lambda one: (-one[1], one[0]))[:most]
        ids = np.array([each for each, _ in best], np.int64)
        return cls(token, ids, np.array([logprob for _, logprob in best], np.float32))


class _Model(msgspec.Struct):
    id: Annotated[str, Meta(max_length=4096)]
    max_model_len: Annotated[int, Meta(ge=1)] | None = None
    parent: str | None = None
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model]


class _Tokens(msgspec.Struct):
    tokens: list[TokenId]


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


class Server(ServerClient):
    """A server of models.

    All requests raise `ServerGone` and `ServerRefused`, whatever it tells. Read in vLLM 0.33, run with 0.32.

    Args:
        url: address, without a path.
        vocab_size: token ids are below this.
        key: bearer token; None without one.
        wanted: name of the model there; None takes the only one.

    Attributes:
        our_noise: whether its noise is that of `flexspec_mq.sampling`, as in vLLM's second model runner.
    """

    def __init__(self, url: str, vocab_size: int, key: str | None = None, wanted: str | None = None) -> None:
        super().__init__(url, key)
        self.vocab_size, self.wanted = vocab_size, wanted
        self.our_noise = False

    def samples(self, params: Sampling) -> bool:
        """Whether its own choice is that of our rule, but for ties."""
        coldest, hottest = _TEMPERATURES
        ours = self.our_noise and coldest <= params.temperature <= hottest and params.seed != _NO_SEED
        return ours or params.temperature == 0.0

    async def adapters(self) -> set[str]:
        """Names of the adapters that the server holds."""
        return {one.id for one in (await self.ask("/v1/models", _Models)).data if one.parent is not None}

    async def models(self) -> tuple[str, int]:
        """Name of the model that the server is of, and its longest text in tokens.

        Raises:
            UsageError: it does not serve the model that is asked for, or is llama.cpp's.
        """
        listed = [one for one in (await self.ask("/v1/models", _Models)).data if one.parent is None]
        if any(one.owned_by == "llamacpp" for one in listed):
            raise UsageError(
                f"{self.url} is llama.cpp's server, which takes and tells no token ids as vLLM does",
                hint="leave out --engine and --engine-url: a worker runs its GGUF file itself, --target FILE.gguf; "
                "or serve the model by vLLM",
            )
        found = [one for one in listed if self.wanted in (None, one.id)]
        if len(found) != 1:
            names = ", ".join(one.id for one in listed)[:MOST_SAID] or "none"
            raise UsageError(
                f"{self.url} serves {names}" + (f", not {self.wanted}" if self.wanted else ""),
                hint="name one of them: --engine-model",
            )
        return found[0].id, found[0].max_model_len or 2**31

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Token ids of a text, special ones in it included, none added."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return (await self.ask("/tokenize", _Tokens, body)).tokens

    async def rows(
        self,
        model: str,
        context: Sequence[int],
        draft: Sequence[int] = (),
        most: int = 0,
        params: Sampling = GREEDY,
        allowed: Sequence[int] | None = None,
    ) -> list[Row]:
        """Rows behind a context and each token of a draft, in one request.

        Prefixes of one prompt differ by their last tokens, which a server computes beside each other; what precedes
        them is in its cache.

        Args:
            model: the server's name.
            context: token ids.
            draft: token ids behind it.
            most: Likeliest tokens that are told of each row.
            params: how the server chooses itself.
            allowed: ids among which it does; None allows all.
        """
        prefixes = [[*context, *draft[:count]] for count in range(len(draft) + 1)]
        body = _body(model, prefixes, most, params, 1)
        if allowed is not None:
            body["allowed_token_ids"] = [*allowed]
        answer = await self.ask("/v1/completions", _Completion, body)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        rows = [row for choice in choices for row in self._rows(choice, most)]
        if len(rows) != len(prefixes):
            raise ServerRefused(f"{self.url} decided {len(rows)} tokens of {len(prefixes)}")
        return rows

    async def stream(
        self,
        model: str,
        context: Sequence[int],
        most: int,
        params: Sampling,
        length: int,
        stop: Sequence[int],
    ) -> AsyncGenerator[Row]:
        """Tokens that the server writes by itself, each as soon as it is there, up to and with one of `stop`.

        It may end before `length`, though not before the first token.
        """
        length, count = min(length, MOST_STREAM // (_EVENT + _LIKELY * most)), 0
        body = _body(model, [*context], most, params, length)
        body |= {"stream": True, "ignore_eos": True, "stop_token_ids": [*stop]}
        async with aclosing(self._written(body, most)) as written:
            while True:
                async with self._patience():
                    row = await anext(written, None)
                if row is None and count:
                    return
                if row is None or count == length:
                    wrote = "nothing" if row is None else "more"
                    raise ServerRefused(f"{self.url} wrote {wrote} where it was asked for {length} tokens")
                count += 1
                yield row

    async def _written(self, body: dict[str, Any], most: int) -> AsyncGenerator[Row]:
        async for event in self.events("/v1/completions", _Completion, body):
            if event.error is not None:
                raise ServerGone(f"{self.url} broke a stream off: {str(event.error)[:MOST_SAID]}")
            for choice in event.choices:
                for row in self._rows(choice, most):
                    yield row

    async def load_adapter(self, name: str, path: str) -> None:
        """Have the server hold a LoRA adapter of a folder that it can read, under a name."""
        await self._whole("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def drop_adapter(self, name: str) -> None:
        """Have the server let go of an adapter."""
        await self._whole("/v1/unload_lora_adapter", {"lora_name": name})

    def _rows(self, choice: _Choice, most: int) -> list[Row]:
        if choice.logprobs is None:
            return []
        tokens = choice.logprobs.tokens
        tops = choice.logprobs.top_logprobs or [None] * len(tokens)
        if len(tops) != len(tokens):
            raise ServerRefused(
                f"{self.url} tells the likeliest of {len(tops)} tokens, and {len(tokens)} tokens"
            )
        return [
            self.row(
                self._id(token), [(self._id(each), logprob) for each, logprob in (top or {}).items()], most
            )
            for token, top in zip(tokens, tops, strict=True)
        ]

    def _id(self, token: str) -> int:
        if (told := _TOKEN.fullmatch(token)) is None:
            raise ServerRefused(f"{self.url} tells a token as {token[:MOST_SAID]!r}, not by its id")
        return int(told[1])

    def row(self, token: int, likeliest: Sequence[tuple[int, float]], most: int) -> Row:
        """Take what the server tells of a token, if that and the likeliest ones are of the vocabulary."""
        for each in (token, *(one for one, _ in likeliest)):
            if not 0 <= each < self.vocab_size:
                raise ServerRefused(f"{self.url} tells token {each} of a vocabulary of {self.vocab_size}")
        return Row.of(token, likeliest, most)


def _body(model: str, prompt: Sequence[object], most: int, params: Sampling, length: int) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": length,
        "logprobs": most,
        "return_tokens_as_token_ids": True,
        "temperature": params.temperature,
    }
    if params.temperature > 0.0:
        seed = params.seed & _MAX_SEED if params.seed == _NO_SEED else params.seed - (params.seed >> 63 << 64)
        body |= {"top_p": params.top_p, "top_k": params.top_k, "min_p": params.min_p, "seed": seed}
    return body
