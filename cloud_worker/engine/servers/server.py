"""Requests to a server of models over HTTP: OpenAI's completions, as vLLM has them, with prompts of token ids."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec
import numpy as np

from flexspec_mq import waiting
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

    import numpy.typing as npt

T = TypeVar("T")
GREEDY = SamplingParams()
_MOST_SAID = 300
_MAX_SEED = 2**63 - 1
_NO_SEED = 2**64 - 1
"""Seed that vLLM, which takes them signed, has for none."""
_TEMPERATURES = (0.01, 2.0)
"""The lowest and the highest that vLLM samples at."""


class ServerGone(FlexSpecError):
    """The server cannot be reached, or failed: it may do when asked again."""


class ServerRefused(FlexSpecError):
    """The server will not do what it is asked, however often."""


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
    id: str
    max_model_len: int | None = None
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


class Server:
    """A server of models.

    All requests raise `ServerGone` and `ServerRefused`. Read in vLLM 0.33, run with 0.32.

    Args:
        url: address, without a path.
        key: bearer token; None without one.
        wanted: name of the model there; None takes the only one.

    Attributes:
        our_dice: whether its noise is that of `flexspec_mq.sampling`, as in vLLM's second model runner.
    """

    def __init__(self, url: str, key: str | None = None, wanted: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.wanted = wanted
        self.our_dice = False
        # The environment's proxies are for the web; this server is on loopback, or behind an address of its own.
        limits = httpx2.Limits(keepalive_expiry=waiting.SERVER_IDLE)
        self._http = httpx2.AsyncClient(
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(waiting.SERVER_SILENCE, connect=waiting.CONNECT),
            limits=limits,
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    def samples(self, params: SamplingParams) -> bool:
        """Whether its own choice is that of our rule, but for ties."""
        coldest, hottest = _TEMPERATURES
        ours = self.our_dice and coldest <= params.temperature <= hottest and params.seed != _NO_SEED
        return ours or params.temperature == 0.0

    async def adapters(self) -> set[str]:
        """Names of the adapters that the server holds."""
        return {one.id for one in (await self.ask("/v1/models", _Models)).data if one.parent is not None}

    async def models(self) -> tuple[str, int]:
        """Name of the model that the server is of, and its longest text in tokens.

        Raises:
            UsageError: it does not serve the model that is asked for.
        """
        listed = [one for one in (await self.ask("/v1/models", _Models)).data if one.parent is None]
        found = [one for one in listed if self.wanted in (None, one.id)]
        if len(found) != 1:
            names = ", ".join(one.id for one in listed) or "none"
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
        params: SamplingParams = GREEDY,
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
        rows = [row for choice in choices for row in _rows(choice, most)]
        if len(rows) != len(prefixes):
            raise ServerGone(f"{self.url} decided {len(rows)} tokens of {len(prefixes)}")
        return rows

    async def stream(
        self,
        model: str,
        context: Sequence[int],
        most: int,
        params: SamplingParams,
        length: int,
        stop: Sequence[int],
    ) -> AsyncGenerator[Row]:
        """Tokens that the server writes by itself, each as soon as it is there, up to and with one of `stop`."""
        body = _body(model, [*context], most, params, length)
        more = {"stream": True, "ignore_eos": True, "stop_token_ids": [*stop]}
        async for event in self.events("/v1/completions", _Completion, body | more):
            if event.error is not None:
                raise ServerGone(f"{self.url} broke a stream off: {event.error}")
            for choice in event.choices:
                for row in _rows(choice, most):
                    yield row

    async def load_adapter(self, name: str, path: str) -> None:
        """Have the server hold a LoRA adapter of a folder that it can read, under a name."""
        async with self._answer("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}):
            return

    async def drop_adapter(self, name: str) -> None:
        """Have the server let go of an adapter."""
        async with self._answer("/v1/unload_lora_adapter", {"lora_name": name}):
            return

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        """Ask for JSON; without a body by GET."""
        async with self._answer(path, body) as answer:
            return _read(await answer.aread(), kind)

    async def events(self, path: str, kind: type[T], body: Mapping[str, Any]) -> AsyncGenerator[T]:
        """Ask for a stream of JSON events, which ends by ``[DONE]``."""
        async with self._answer(path, body) as answer:
            async for line in answer.aiter_lines():
                event = line.removeprefix("data:").strip()
                if event == "[DONE]":
                    return
                if event and event != line:
                    yield _read(event.encode(), kind)
        raise ServerGone(f"{self.url} ended a stream in the middle")

    @asynccontextmanager
    async def _answer(self, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        content = None if body is None else msgspec.json.encode(body)
        method, headers = ("GET", {}) if body is None else ("POST", {"content-type": "application/json"})
        try:
            async with self._http.stream(method, self.url + path, content=content, headers=headers) as answer:
                if answer.status_code >= 400:
                    said = (await answer.aread()).decode(errors="replace")[:_MOST_SAID]
                    kind = (
                        ServerGone
                        if answer.status_code >= 500 or answer.status_code == 429
                        else ServerRefused
                    )
                    raise kind(f"{self.url}{path} answered {answer.status_code}: {said}")
                yield answer
        except (httpx2.TransportError, OSError) as error:
            raise ServerGone(f"{self.url}: {str(error) or type(error).__name__}") from error


def _read(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ServerRefused(f"the server's answer is none that is known: {error}") from error


def _body(
    model: str, prompt: Sequence[object], most: int, params: SamplingParams, length: int
) -> dict[str, Any]:
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
        body |= {"top_p": params.top_p, "top_k": params.top_k, "seed": seed}
    return body


def _rows(choice: _Choice, most: int) -> list[Row]:
    if choice.logprobs is None:
        return []
    tops = choice.logprobs.top_logprobs or [None] * len(choice.logprobs.tokens)
    return [
        Row.of(_id(token), ((_id(each), logprob) for each, logprob in (top or {}).items()), most)
        for token, top in zip(choice.logprobs.tokens, tops, strict=True)
    ]


def _id(token: str) -> int:
    name, _, number = token.partition(":")
    if name != "token_id" or not number.isdecimal():
        raise ServerRefused(f"the server tells a token as {token!r}, not by its id")
    return int(number)
