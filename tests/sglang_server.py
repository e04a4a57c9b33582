"""A server with SGLang's wire over a real model, as its wheel 0.5.23 was read; nobody has run a real one here."""

from collections.abc import Callable, Iterator
from typing import Any

from starlette.responses import JSONResponse, Response

from tests.engine_server import Asked, EngineServer, Refused, Token, row_of

Body = dict[str, Any]


class SglangEngineServer(EngineServer):
    """The server; see `EngineServer`.

    Attributes:
        incremental: as ``--incremental-streaming-output``: events tell what is new, not all that there is.
    """

    kind = "sglang"
    incremental = False

    def answers(self) -> dict[str, Callable[[Body], Response]]:
        """See `EngineServer`."""
        return {
            "/tokenize": self._tokenize,
            "/generate": self._generate,
            "/load_lora_adapter": self._load_adapter,
            "/unload_lora_adapter": self._unload_adapter,
        }

    def _generate(self, body: Body) -> Response:
        self._asks(body)
        asked, written = self._asked_of(body), list[Token]()

        def told(since: int) -> Body:
            new, end = written[since:], written[-1].finish
            meta: Body = {"prompt_tokens": len(asked.prompt), "completion_tokens": len(written)}
            meta["finish_reason"] = None if end is None else {"type": end}
            if top := asked.params["logprobs"]:
                meta["output_top_logprobs"] = [_likeliest(token.row, top) for token in new]
                rows = [_likeliest(row_of(logits, 0, top), top) for logits in asked.before]
                meta["input_top_logprobs"] = [None, *rows] if "logprob_start_len" in body else []
            return {"output_ids": [token.token for token in new], "meta_info": meta}

        def events() -> Iterator[Body]:
            for token in self._write(asked):
                written.append(token)
                yield told(len(written) - 1 if self.incremental else 0)

        if body.get("stream"):
            return self._stream(events())
        written += self._write(asked)
        return JSONResponse(told(0))

    def _asked_of(self, body: Body) -> Asked:
        """Read a request, with what its fields are where they are left out."""
        wanted: Body = body["sampling_params"]
        prompt, name = body["input_ids"], body.get("lora_path") or ""
        if name and name not in self.adapters:
            raise Refused(400, f"Got LoRA adapter that has never been loaded: {name}")
        room = self.max_context - len(prompt)
        if room < 1:
            raise Refused(400, f"The input ({len(prompt)} tokens) is longer than the model's context length")
        ignores, temperature = wanted.get("ignore_eos", False), wanted.get("temperature", 1.0)
        top = body.get("top_logprobs_num", 0) if body.get("return_logprob") else 0
        assert not top or temperature == 0.0, "rows at a temperature are tempered, which nobody here wants"
        params = {
            "temperature": temperature,
            "top_k": wanted.get("top_k", -1),
            "top_p": wanted.get("top_p", 1.0),
            "seed": wanted.get("sampling_seed", 42),
            "logit_bias": wanted.get("logit_bias"),
            "logprobs": top,
            "ignore_eos": ignores,
            "stop_token_ids": [] if ignores else wanted.get("stop_token_ids"),  # one check is for both
        }
        rows = len(prompt) - body.get("logprob_start_len", len(prompt) - 1)
        return Asked(prompt, min(wanted.get("max_new_tokens", 128), room), params, name, rows=rows)


def _likeliest(row: list[tuple[str, float]], top: int) -> list[tuple[float, int, None]]:
    best = sorted(row, key=lambda one: -one[1])[:top]
    return [(logprob, int(name.removeprefix("token_id:")), None) for name, logprob in best]
