"""A server with vLLM's wire over a real model, for tests of workers whose engine is somebody else's server.

    with EngineServer(tiny) as server:
        ...  # flexspec-cloud --engine vllm --engine-url {server.url}
        server.kill(), server.start()

A checkpoint's own logits decide; nothing is made up. Recorded answers of a real vLLM 0.32 are in
``cloud_worker/recorded/``, and ``cloud_worker/test_engine_server.py`` holds this one to it.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import numpy as np
import numpy.typing as npt
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from broker.launcher import free_port
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.head_files import read_lora
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.load import load_text
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.models.text import StreamDecoder, decode
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling

_KEPT = 8
"""Texts whose KV cache stays, as a server's prefix cache has them."""


@dataclass
class Faults:
    """Faults, by request.

    Attributes:
        errors: so many of the next requests for tokens are answered with 500.
        busy: Retry-After of the next requests for tokens, each answered with 429.
        slow: seconds that each forward takes longer.
        cut_after: streams end without a word behind so many events; None leaves them whole.
    """

    errors: int = 0
    busy: list[str] = field(default_factory=list)
    slow: float = 0.0
    cut_after: int | None = None


@dataclass
class Asked:
    """A prompt, and how tokens behind it are chosen."""

    prompt: list[int]
    most: int
    params: dict[str, Any]
    head: str = ""


@dataclass
class Token:
    token: int
    finish: str | None
    stop: int | None
    row: list[tuple[str, float]]
    """Names and log-probabilities, the token's own first; none if nobody wants any."""


class Refused(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        kinds = {400: "BadRequestError", 404: "NotFoundError"}
        error = {"message": message, "type": kinds.get(status, "InternalServerError"), "param": param}
        self.answer = JSONResponse({"error": {**error, "code": status}}, status)


def _wrong(message: str, param: str, value: object) -> Refused:
    return Refused(400, f"{message} (parameter={param}, value={value})", param)


class EngineServer:
    """The server, in a thread of this process.

    Args:
        folder: checkpoint.
        name: name of the served model.
        max_logprobs: as ``--max-logprobs``.
        max_context: as ``--max-model-len``; the model's own by default.
        dtype: dtype of the weights.

    Attributes:
        url: address, which stays the same between `kill` and `start`.
        asked: bodies of the requests for tokens, in order.
        second_runner: whether it draws noise as vLLM does on GPUs: by seed and place, not as requests come.
        owner: whose server it says that it is.
    """

    second_runner = False
    owner = "vllm"

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "served",
        max_logprobs: int = 20,
        max_context: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.text = load_text(folder)
        self.name, self.max_logprobs = name, max_logprobs
        self.max_context = max_context or self.text.max_context
        assert isinstance(self.text.source, Path)
        checkpoint = Checkpoint(self.text.source, self.text, dtype, "native", torch.device("cpu"))
        self._shape = checkpoint.shape
        self._model = checkpoint.load()
        self._computes = threading.Lock()
        self._kept: list[SessionKV] = []
        self.faults = Faults()
        self.adapters: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Serve, at first or again after `kill`; nothing of before is in the prefix cache."""
        self._kept.clear()
        config = uvicorn.Config(self._app(), "127.0.0.1", self.port, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.002)

    def kill(self) -> None:
        """End as a process that is killed: connections break wherever they are."""
        self._server.force_exit = self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            self._loop.call_soon_threadsafe(connection.transport.abort)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve()

    def _app(self) -> Starlette:
        def asks(path: str, answer: Callable[[dict[str, Any]], Response]) -> Route:
            async def endpoint(request: Request) -> Response:
                body = await request.json()
                try:
                    return await asyncio.to_thread(answer, body)
                except Refused as refused:
                    return refused.answer

            return Route(path, endpoint, methods=["POST"])

        routes = [
            Route("/v1/models", lambda _: self._models()),
            asks("/tokenize", self._tokenize),
            asks("/v1/completions", self._completions),
            asks("/v1/chat/completions", self._chat),
            asks("/v1/embeddings", self._embeddings),
            asks("/v1/load_lora_adapter", self._load_adapter),
            asks("/v1/unload_lora_adapter", self._unload_adapter),
        ]
        unknown = {404: "Not Found", 405: "Method Not Allowed"}
        handlers = {
            status: lambda *_, status=status, detail=detail: JSONResponse({"detail": detail}, status)
            for status, detail in unknown.items()
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    def _models(self) -> Response:
        def model(name: str, root: str, parent: str | None) -> dict[str, Any]:
            length = None if parent else self.max_context
            facts = {"object": "model", "created": int(time.time()), "owned_by": self.owner, "root": root}
            return {"id": name, **facts, "parent": parent, "max_model_len": length, "permission": []}

        adapters = [model(name, path, self.name) for name, path in self.adapters.items()]
        base = model(self.name, str(self.text.source), None)
        return JSONResponse({"object": "list", "data": [base, *adapters]})

    def _tokenize(self, body: dict[str, Any]) -> Response:
        tokenizer: Any = self.text.tokenizer
        ids = tokenizer.encode(body["prompt"], add_special_tokens=body.get("add_special_tokens", True))
        return JSONResponse(
            {"count": len(ids), "max_model_len": self.max_context, "tokens": ids, "token_strs": None}
        )

    def _load_adapter(self, body: dict[str, Any]) -> Response:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            raise Refused(
                400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True."
            )  # fmt: skip
        try:
            with self._computes:
                self._model.hold(name, read_lora(Path(path), self._shape, 0))
        except (FlexSpecError, OSError) as error:
            raise Refused(404, f"Loading lora {name} failed: No adapter found for {path}") from error
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    def _unload_adapter(self, body: dict[str, Any]) -> Response:
        name = body["lora_name"]
        if name not in self.adapters:
            raise Refused(404, f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        with self._computes:
            self._kept = [kv for kv in self._kept if kv.head != name]
            self._model.drop(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _asks(self, body: dict[str, Any]) -> None:
        self.asked.append(body)
        if self.faults.busy:
            refused = Refused(429, "too many requests")
            refused.answer.headers["retry-after"] = self.faults.busy.pop(0)
            raise refused
        if self.faults.errors:
            self.faults.errors -= 1
            raise Refused(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")

    def _completions(self, body: dict[str, Any]) -> Response:
        self._asks(body)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        several = [self._check(body, prompt) for prompt in prompts]
        head: dict[str, Any] = {"id": f"cmpl-{len(self.asked):016x}", "object": "text_completion"}
        head |= {"created": int(time.time()), "model": body["model"]}

        def choice(index: int, tokens: Sequence[Token]) -> dict[str, Any]:
            seen = [token.token for token in tokens if token.finish != "stop"]
            ended = {"finish_reason": tokens[-1].finish, "stop_reason": tokens[-1].stop}
            logprobs = None if body.get("logprobs") is None else _logprobs(tokens)
            return {"index": index, "text": decode(self.text.tokenizer, seen), "logprobs": logprobs, **ended}

        if body.get("stream"):
            return self._stream(
                {**head, "choices": [choice(index, [token])]}
                for index, asked in enumerate(several)
                for token in self._write(asked)
            )
        written = [list(self._write(asked)) for asked in several]
        choices = [choice(index, tokens) for index, tokens in enumerate(written)]
        read, wrote = sum(len(asked.prompt) for asked in several), sum(map(len, written))
        usage = {"prompt_tokens": read, "total_tokens": read + wrote, "completion_tokens": wrote}
        return JSONResponse({**head, "choices": choices, "usage": usage})

    def _chat(self, body: dict[str, Any]) -> Response:
        self._asks(body)
        says = [f"{message['role']}: {message['content']}" for message in body["messages"]]
        goes_on = body.get("continue_final_message", False)
        assert goes_on != body.get("add_generation_prompt", True)
        prompt = "\n".join(says if goes_on else [*says, "assistant: "])
        tokenizer: Any = self.text.tokenizer
        asked = self._check({"max_tokens": 2**31, **body}, tokenizer.encode(prompt))
        head: dict[str, Any] = {"id": f"chatcmpl-{len(self.asked):016x}", "object": "chat.completion.chunk"}

        def events() -> Iterator[dict[str, Any]]:
            decoder, count = StreamDecoder(tokenizer), 0
            for token in self._write(asked):
                piece = decoder.push([token.token]) + (decoder.finish() if token.finish else "")
                choice = {"index": 0, "delta": {"content": piece}, "finish_reason": token.finish}
                count += 1
                yield {**head, "choices": [choice]}
            usage = {"prompt_tokens": len(asked.prompt), "completion_tokens": count}
            yield {**head, "choices": [], "usage": usage}

        return self._stream(events())

    def _embeddings(self, body: dict[str, Any]) -> Response:
        """Vectors are the logits behind the texts."""
        self._asks(body)
        tokenizer: Any = self.text.tokenizer
        several = [self._check(body, tokenizer.encode(text)) for text in body["input"]]
        with self._computes:
            vectors = [self._read(asked)[1][: body.get("dimensions")].tolist() for asked in several]
        data = [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(vectors)]
        read = sum(len(asked.prompt) for asked in several)
        return JSONResponse({"object": "list", "data": data[::-1], "usage": {"prompt_tokens": read}})

    def vectors(self, *inputs: str, **more: Any) -> list[list[float]]:
        """The vectors that it makes by itself."""
        body = {"model": self.name, "input": inputs, **more}
        said = httpx2.post(f"{self.url}/v1/embeddings", json=body, timeout=60).raise_for_status().json()
        return [each["embedding"] for each in said["data"][::-1]]

    def chat(self, content: str, **more: Any) -> str:
        """The text that it writes by itself to a question."""
        body = {"model": self.name, "messages": [{"role": "user", "content": content}], **more}
        said = httpx2.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
        lines = (line.removeprefix("data: ") for line in said.raise_for_status().text.splitlines() if line)
        choices = [choice for line in lines if line != "[DONE]" for choice in json.loads(line)["choices"]]
        return "".join(choice["delta"]["content"] for choice in choices)

    def _check(self, body: dict[str, Any], prompt: list[int]) -> Asked:
        """Refuse what vLLM refuses, in its words."""
        name, longest, count = body["model"], self.max_context, body.get("logprobs") or 0
        temperature, allowed = float(body.get("temperature", 1.0)), body.get("allowed_token_ids")
        if name != self.name and name not in self.adapters:
            aliases = ", ".join((self.name, *self.adapters))
            raise Refused(404, f"The model `{name}` does not exist. Valid aliases: {aliases}.", "model")
        if len(prompt) > longest:
            raise _wrong(
                f"This model's maximum context length is {longest} tokens. However, your prompt contains "
                f"{len(prompt)} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                "the length of the input prompt.",
                "input_tokens",
                len(prompt),
            )
        most = min(body.get("max_tokens", 16), longest - len(prompt))
        if most < 1:
            raise _wrong(f"max_tokens must be at least 1, got {most}.", "max_tokens", most)
        if temperature < 0:
            raise _wrong(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
        if count > self.max_logprobs:
            told = f"Requested sample logprobs of {count}, which is greater than max allowed: {self.max_logprobs}"
            raise _wrong(told, "logprobs", count)
        if allowed == []:
            raise _wrong("allowed_token_ids is not None and empty!", "allowed_token_ids", allowed)
        if (beyond := max(prompt)) >= self.text.vocab_size:
            raise Refused(400, f"Token id {beyond} is out of vocabulary")
        head = "" if name == self.name else name
        return Asked(prompt, most, body, head)

    def _write(self, asked: Asked) -> Iterator[Token]:
        """Tokens behind a prompt, one a forward."""
        params = asked.params
        temperature, seed = params.get("temperature", 1.0), params.get("seed")
        seed = None if seed is None else seed % 2**64
        behind = len(asked.prompt) if self.second_runner else 0
        if seed is None or not behind:
            seed = int(np.random.default_rng(seed).integers(2**63))
        sampling = Sampling(
            temperature,
            max(0, params.get("top_k", 0)),
            params.get("top_p", 1.0),
            0 if temperature == 0 else seed,
            params.get("min_p", 0.0),
        )
        ends = set() if params.get("ignore_eos") else set(self.text.eos)
        stops = set(params.get("stop_token_ids") or ())
        text: list[int] = []
        kv: SessionKV | None = None
        while True:
            with self._computes:
                time.sleep(self.faults.slow)
                if kv is None:
                    kv, logits = self._read(asked)
                else:
                    logits = self._forward(kv, text[-1:], asked.head)
            mask = None
            if (allowed := params.get("allowed_token_ids")) is not None:
                mask = np.isin(np.arange(len(logits)), allowed)
            token = choose(logits, sampling, behind + len(text), mask)
            text.append(token)
            stopped = token in ends or token in stops
            finish = "stop" if stopped else "length" if len(text) == asked.most else None
            stop = token if token in stops and token not in ends else None
            yield Token(token, finish, stop, row_of(logits, token, params.get("logprobs")))
            if finish:
                with self._computes:
                    self._kept = [*self._kept[1 - _KEPT :], kv]
                return

    def _read(self, asked: Asked) -> tuple[SessionKV, npt.NDArray[np.float32]]:
        """Read a prompt behind what the cache has of it; logits of its last place."""
        kv = self._model.new_kv()
        near = [kept for kept in self._kept if kept.head == asked.head and kept.tokens]
        if near:
            best = max(near, key=lambda kept: _common(kept.tokens, asked.prompt))
            kv = best.branch(min(_common(best.tokens, asked.prompt), len(asked.prompt) - 1))
        logits = self._forward(kv, asked.prompt[kv.length :], asked.head)
        return kv, logits

    def _forward(self, kv: SessionKV, tokens: Sequence[int], head: str) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = to_numpy(self._model.forward([ModelInput(kv, tokens, 1, head)]))[0]
        return logits

    def _stream(self, events: Iterator[dict[str, Any]]) -> Response:
        async def lines() -> AsyncIterator[str]:
            sent = 0
            async for event in iterate_in_threadpool(events):
                if sent == self.faults.cut_after:
                    raise ConnectionAbortedError("cut, as asked for")
                yield f"data: {json.dumps(event)}\n\n"
                sent += 1
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")


def row_of(logits: npt.NDArray[np.float32], token: int, count: int | None) -> list[tuple[str, float]]:
    """A chosen token and the likeliest ones, with their log-probabilities; a token is not told twice."""
    if count is None:
        return []
    scores = logits.astype(np.float64)
    scores -= np.logaddexp.reduce(scores)
    # Equals are in no order that anybody may build on; vLLM's top-k often has the higher ids first.
    likeliest = np.lexsort((-np.arange(len(scores)), -scores))[:count]
    return [
        (f"token_id:{id_}", max(float(scores[id_]), -9999.0))
        for id_ in dict.fromkeys([token, *likeliest.tolist()])
    ]


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "text_offset": [0] * len(tokens),
        "token_logprobs": [token.row[0][1] for token in tokens],
        "tokens": [token.row[0][0] for token in tokens],
        "top_logprobs": [dict(token.row) for token in tokens],
    }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    least = min(len(one), len(other))
    return next((place for place in range(least) if one[place] != other[place]), least)
