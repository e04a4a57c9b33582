"""Recording what a real server answers, for the tests' stand-in of it.

    python -m lab.engines.wire http://127.0.0.1:8000 --model smollm2 > tests/cloud_worker/recorded/vllm-0.32.json

The server runs the default target with room for 2,048 tokens, ``--max-logprobs 20`` and ``--enable-lora``.
`REQUESTS` are what workers send, and what they may do wrong.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from flexspec_mq.daemon.main import run_main

COMPLETIONS = "/v1/completions"
PROMPT = (1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198)
"""The question for the capital of France, as a turn of the user."""
TEXT = (504, 3575, 282, 4649, 314, 7042, 30, 2)
"""The capital of France is Paris.<|im_end|>, where margins are wide enough for any processor."""
_PATIENCE = 60.0


def _verified(**changes: Any) -> dict[str, Any]:
    """A draft of three tokens, of which the last is wrong, as prompts of one call."""
    draft = (*TEXT[:2], TEXT[3])
    prompts = [[*PROMPT, *draft[:count]] for count in range(len(draft) + 1)]
    asked = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "return_tokens_as_token_ids": True}
    return {"prompt": prompts, **asked, **changes}


def _streamed(**changes: Any) -> dict[str, Any]:
    ends = {"ignore_eos": True, "stop_token_ids": [TEXT[-1]]}
    return _verified(prompt=list(PROMPT), max_tokens=12, stream=True, **ends, **changes)


REQUESTS: Mapping[str, tuple[str, dict[str, Any] | None]] = {
    "models": ("/v1/models", None),
    "tokenize": ("/tokenize", {"prompt": "<|im_start|>The capital of France", "add_special_tokens": False}),
    "verify": (COMPLETIONS, _verified()),
    "verify with rows": (COMPLETIONS, _verified(logprobs=20)),
    "verify without rows": (COMPLETIONS, _verified(logprobs=0)),
    "verify, some ids": (COMPLETIONS, _verified(prompt=[list(PROMPT)], allowed_token_ids=[30, 4649])),
    "end": (COMPLETIONS, _verified(prompt=[[*PROMPT, *TEXT[:-1]], [*PROMPT, *TEXT]])),
    "stream": (COMPLETIONS, _streamed()),
    "stream stopped": (COMPLETIONS, _streamed() | {"stop_token_ids": [TEXT[2]]}),
    "stream of some tokens": (COMPLETIONS, _streamed() | {"max_tokens": 3, "logprobs": 2}),
    "write": (COMPLETIONS, _verified(prompt=list(PROMPT), max_tokens=12)),
    "sampled": (COMPLETIONS, _verified(temperature=0.7, top_k=20, top_p=0.9, seed=5)),
    "unknown model": (COMPLETIONS, _verified(model="other")),
    "no room": (COMPLETIONS, _verified(prompt=[[1] * 2048])),
    "too long": (COMPLETIONS, _verified(prompt=[[1] * 2060])),
    "too many rows": (COMPLETIONS, _verified(logprobs=21)),
    "no such token": (COMPLETIONS, _verified(prompt=[[1, 49152]])),
    "no allowed token": (COMPLETIONS, _verified(allowed_token_ids=[])),
    "negative temperature": (COMPLETIONS, _verified(temperature=-1)),
    "unknown path": ("/nothing", None),
    "wrong method": (COMPLETIONS, None),
    "adapter that is nowhere": ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nowhere"}),
    "no such adapter": ("/v1/unload_lora_adapter", {"lora_name": "x"}),
}
"""Path and body of each request by its name; GET without a body. ``model`` is added where it is missing."""


def record(url: str, model: str) -> dict[str, dict[str, Any]]:
    """Ask a server all of `REQUESTS`; status and answer of each, events of a stream as a list.

    Args:
        url: root of the server.
        model: name that it serves the default target by.
    """
    with httpx2.Client(base_url=url, timeout=_PATIENCE) as http:
        return {name: ask(http, model, *request) for name, request in REQUESTS.items()}


def ask(http: httpx2.Client, model: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Send one request; see `record`."""
    answer = http.get(path) if body is None else http.post(path, json={"model": model, **body})
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        return {"status": answer.status_code, "events": [_read(event) for event in events]}
    return {"status": answer.status_code, "answer": _read(answer.text)}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m lab.engines.wire", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("url", help="root of the server")
    parser.add_argument("--model", default="smollm2", help="name that it serves the default target by")
    options = parser.parse_args(argv)
    lines = (
        f"{json.dumps(name)}: {json.dumps(answer)}"
        for name, answer in record(options.url, options.model).items()
    )
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(_run, sys.argv[1:], extras="models,chat"))
