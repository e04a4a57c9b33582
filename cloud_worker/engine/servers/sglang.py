"""Requests to SGLang: its ``/generate``, with token ids. Read in 0.5.23, run against a stand-in only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cloud_worker.engine.servers.client import MOST_SAID, ServerGone, ServerRefused
from cloud_worker.engine.servers.server import GREEDY, Row, Server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from flexspec_mq.sampling.params import SamplingParams

_MAX_SEED = 2**63 - 1
_TIES = 4
"""Likeliest tokens of a draft's row that are asked for at least: the first of equals is the one that is chosen."""
_AT_ONCE, _AT_ONCE_BARE = 64, 2048
"""Tokens of a stream with log-probabilities, and without: by default each event repeats all that came before it."""
_ALLOWED = 1000.0
"""Added to the logits of allowed tokens: more than two logits of a model are apart."""
_NONE = -3.4e38
"""Log-probability that is told as null, as JSON has no minus infinity."""

_Likeliest = list[tuple[float | None, int, str | None]] | None


class _Meta(msgspec.Struct, frozen=True):
    completion_tokens: int = 0
    finish_reason: dict[str, Any] | None = None
    input_top_logprobs: tuple[_Likeliest, ...] = ()
    output_top_logprobs: tuple[_Likeliest, ...] = ()


class _Generated(msgspec.Struct):
    output_ids: tuple[int, ...] = ()
    meta_info: _Meta = _Meta()
    error: Any = None


class SglangServer(Server):
    """See `Server`; models and tokenizer are told as by vLLM."""

    _base = ""

    async def models(self) -> tuple[str, int]:
        """See `Server`."""
        found = await super().models()
        self._base = found[0]
        return found

    async def rows(
        self,
        model: str,
        context: Sequence[int],
        draft: Sequence[int] = (),
        most: int = 0,
        params: SamplingParams = GREEDY,
        allowed: Sequence[int] | None = None,
    ) -> list[Row]:
        """See `Server`; rows of a draft are computed, whatever the server has cached."""
        wanted: dict[str, Any] = {"max_new_tokens": 1}
        if allowed is not None:
            wanted["logit_bias"] = {str(token): _ALLOWED for token in allowed}
        told = max(most, _TIES) if draft else most
        body = self._body(model, [*context, *draft], told, params, wanted)
        if draft:
            body["logprob_start_len"] = len(context) - 1
        answer = await self.ask("/generate", _Generated, body)
        # The first entry is of the context's last token, before which nothing was asked.
        rows = [self._told(None, likeliest, most) for likeliest in answer.meta_info.input_top_logprobs[1:]]
        rows += self._newest(answer, len(answer.output_ids), most)
        if len(rows) != len(draft) + 1:
            raise ServerRefused(f"{self.url} tells {len(rows)} rows of {len(draft) + 1}")
        return rows

    async def _written(
        self,
        model: str,
        prefix: Sequence[int],
        most: int,
        params: SamplingParams,
        length: int,
        stop: Sequence[int],
    ) -> AsyncGenerator[Row]:
        """See `stream`; it may end before `length`: at the end of a text as the server knows it, or for being long."""
        wanted = {
            "max_new_tokens": min(length, _AT_ONCE if most else _AT_ONCE_BARE),
            "stop_token_ids": [*stop],
            "ignore_eos": not stop,  # with it `stop` would be ignored too
        }
        body = {**self._body(model, prefix, most, params, wanted), "stream": True}
        count = 0
        async for event in self.events("/generate", _Generated, body):
            reason, before = event.meta_info.finish_reason or {}, count
            if event.error is not None or reason.get("type") == "abort":
                raise ServerGone(f"{self.url} broke a stream off: {str(event.error or reason)[:MOST_SAID]}")
            count = event.meta_info.completion_tokens
            for row in self._newest(event, count - before, most):
                yield row

    async def load_adapter(self, name: str, path: str) -> None:
        """See `Server`."""
        await self.ask("/load_lora_adapter", Any, {"lora_name": name, "lora_path": path})

    async def drop_adapter(self, name: str) -> None:
        """See `Server`."""
        await self.ask("/unload_lora_adapter", Any, {"lora_name": name})

    def _body(
        self, model: str, ids: Sequence[int], most: int, params: SamplingParams, wanted: dict[str, Any]
    ) -> dict[str, Any]:
        sampling = {**wanted, "temperature": params.temperature}
        if params.temperature > 0.0:  # seeds count with --enable-deterministic-inference only
            sampling |= {
                "top_p": params.top_p,
                "top_k": params.top_k or -1,
                "sampling_seed": params.seed & _MAX_SEED,
            }
        body: dict[str, Any] = {"input_ids": [*ids], "sampling_params": sampling}
        if most:
            body |= {"return_logprob": True, "top_logprobs_num": most}
        return body if model == self._base else {**body, "lora_path": model}

    def _newest(self, answer: _Generated, new: int, most: int) -> list[Row]:
        """Rows of the newest tokens: an event tells all of the text, or with a flag of the server's what is new."""
        if not new:
            return []
        tokens, tops = answer.output_ids[-new:], answer.meta_info.output_top_logprobs[-new:]
        if not most:
            tops = (None,) * len(tokens)
        if not len(tokens) == len(tops) == new:
            raise ServerRefused("the server tells no log-probabilities of what it writes")
        return [self._told(token, likeliest, most) for token, likeliest in zip(tokens, tops, strict=True)]

    def _told(self, token: int | None, likeliest: _Likeliest, most: int) -> Row:
        pairs = [(each, _NONE if logprob is None else logprob) for logprob, each, _ in likeliest or ()]
        if token is None:
            if not pairs:
                raise ServerRefused("the server tells no log-probabilities of a draft")
            token = min((-logprob, each) for each, logprob in pairs)[1]
        return self.row(token, pairs, most)
