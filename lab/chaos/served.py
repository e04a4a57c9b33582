"""Answers of a server of chat completions through kills of everything, and what came of each text.

    python -m lab.chaos.served --server "llama-server -m MODEL.gguf --host {host} --port {port}" --answers 500

A deployment as of `lab.chaos` over TLS with keys, its workers beside the server (``--engine openai``). Texts (greedy,
of a seed, a JSON schema, a tool that must be called) are asked for over HTTP and by MQTT while server, workers, broker
and devices are killed, one after the other, and one device is cut off for a minute. Whoever asks does so again under
the same key where that fails. Afterwards the server is asked itself for the same texts. It ends with code 1 if a text
is lost, came twice, changed while it was read, or is not of the form that was asked for.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shlex
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiomqtt
import httpx2

from broker.settings import Role
from lab.bench.client import unbounded
from lab.bench.questions import OWN, read_questions
from lab.bench.testbed import HOST, PORT
from lab.benchmarks import _common
from lab.chaos.schedule import EDGES, WORKERS, Fault, Sizes
from lab.chaos.site import Site, site
from lab.testbed.deployment import free_port
from lab.testbed.process import Process
from lab.testbed.secured import operator

_ASKER = "asker"
_AT_ONCE = 2
_LOST = 600.0
"""Seconds after which a text that nobody has answered is lost."""
_AGAIN = 1.0
_QUIET = 30.0
"""Longest wait for an answer between two faults, in seconds."""
_CITY: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks a city up.", "parameters": _CITY},
}
KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 0.8, "top_p": 0.95},
    "json": {
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": _CITY, "strict": True},
        },
    },
    "tool": {"temperature": 0, "tools": [_TOOL], "tool_choice": "required"},
}
"""Fields of a request by its kind."""


@dataclass(slots=True)
class Server:
    """The program, which is killed and started again."""

    command: Sequence[str]
    log: Path
    port: int = field(default_factory=free_port)
    model: str = ""
    _process: Process | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it lists a model."""
        told = [part.replace(HOST, "127.0.0.1").replace(PORT, str(self.port)) for part in self.command]
        self._process = await Process.start(
            "server", ("sh", "-c", 'exec "$@" >&2', "sh", *told), log=self.log
        )
        async with unbounded(kept=0) as http, asyncio.timeout(120.0):
            while not await self._lists(http):  # noqa: ASYNC110  the server has no event for it
                await asyncio.sleep(0.1)

    async def _lists(self, http: httpx2.AsyncClient) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            answer = await http.get(f"{self.url}/v1/models")
            if answer.status_code == 200:
                self.model = answer.json()["data"][0]["id"]
                return True
        return False

    async def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        await self._process.kill()


@dataclass(slots=True)
class Text:
    """A text that is asked for.

    Attributes:
        body: request.
        seen: characters that each attempt was shown, in their order, since the last that ended in words.
        ended: attempts that ended in words: code of the error. Whoever asks again after that asks for a new text.
        spliced: two attempts at one text that differ; empty if there are none.
        whole: each whole answer that came: content, calls, finish reason, how it was resumed.
        own: the server's answer to whoever asks it without us.
    """

    number: int
    kind: str
    edge: str
    by_mqtt: bool
    body: dict[str, Any]
    seen: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    spliced: str = ""
    whole: list[tuple[str, str, str, str]] = field(default_factory=list)
    own: tuple[str, str, str] | None = None

    def shown(self, content: str, error: str) -> None:
        """Take what an attempt was shown, and the code of its error: then the text is over, and begins anew."""
        if other := [
            seen for seen in self.seen if not (content.startswith(seen) or seen.startswith(content))
        ]:
            self.spliced = f"shown {other[0]!r:.200}, and then {content!r:.200}"
        self.seen.append(content)
        if error:
            self.ended.append(error)
            self.seen.clear()

    def wrong(self) -> str:
        """The error in whatever came of it; empty if there is none."""
        if len({one[:3] for one in self.whole}) != 1:
            return f"it came {len(self.whole)} times, as {self.whole!r:.300}" if self.whole else "lost"
        content, calls, reason, _ = self.whole[0]
        if self.spliced:
            return self.spliced
        try:
            if self.kind == "json" and reason == "stop" and sorted(json.loads(content)) != ["city", "people"]:
                return f"not of the schema: {content!r:.200}"
            if (
                self.kind == "tool"
                and reason == "tool_calls"
                and sorted(json.loads(calls)) != ["city", "people"]
            ):
                return f"not of the tool: {calls!r:.200}"
        except ValueError:
            return f"no JSON: {(content, calls)!r:.300}"
        return ""


class Run:
    """A run against a server."""

    def __init__(self, server: Server, texts: Sequence[Text], seed: int) -> None:
        self.server, self.texts = server, texts
        self.faults: Counter[str] = Counter()
        self.gaps: list[float] = []
        self._rng = random.Random(f"faults {seed}")
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._client: aiomqtt.Client | None = None

    async def happen(self, scratch: Path, seed: int) -> None:
        """Ask for all texts while things are killed."""
        worker = ("--engine", "openai", "--engine-url", self.server.url)
        sizes = Sizes(answers=len(self.texts), faults=0, least=1, most=1, most_prompt=1)
        async with site(scratch, sizes, worker, ("--draft", "none", "--mqtt-ask"), seed) as made:
            await operator("add-asker", str(made.deployment.directory), _ASKER)
            _common.say("all daemons serve; it begins")
            gates = {edge: asyncio.Semaphore(_AT_ONCE) for edge in EDGES}
            async with unbounded(kept=0) as http, asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(work)
                    for work in (made.watch(), self._kills(made), self._listens(made), self._progress())
                ]
                async with asyncio.TaskGroup() as all_of_it:
                    for text in self.texts:
                        all_of_it.create_task(self._until_answered(made, http, text, gates[text.edge]))
                for task in beside:
                    task.cancel()

    async def _kills(self, made: Site) -> None:
        """Kill one after the other, each anew when all have been; the first device is away for a minute as well.

        A next one follows only upon an answer: a text that is written anew after each fault would never end otherwise
        where a text takes longer than the time between two of them.
        """
        away = asyncio.create_task(made.inflict(Fault(0, "away", "away", EDGES[0], 0.0, 60.0)))
        self.faults["cut of 60 s"] += 1
        try:
            while True:
                for target in self._rng.sample(
                    ("server", "server", *WORKERS, "broker", *EDGES), 4 + len(EDGES) + 1
                ):
                    await asyncio.sleep(self._rng.uniform(2.0, 5.0))
                    answered = self._answered()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_QUIET):
                            while self._answered() == answered:  # noqa: ASYNC110  an answer comes on either of two ways
                                await asyncio.sleep(0.1)
                    down = self._rng.uniform(0.2, 3.0)
                    if target == "server":
                        await self.server.kill()
                        await asyncio.sleep(down)
                        await self.server.start()
                    else:
                        number = self.faults.total()
                        await made.inflict(Fault(number, target, "kill", target, 0.0, down))
                    self.faults[f"kill -9 of {target.rstrip('123')}"] += 1
        finally:
            away.cancel()

    def _answered(self) -> int:
        return sum(bool(text.whole) for text in self.texts)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(15.0)
            _common.say(f"{self._answered()} of {len(self.texts)} answers, {self.faults.total()} faults")

    async def _until_answered(
        self, made: Site, http: httpx2.AsyncClient, text: Text, gate: asyncio.Semaphore
    ) -> None:
        async with gate:
            ends = time.monotonic() + _LOST
            while not text.whole and time.monotonic() < ends:
                if text.by_mqtt:
                    await self._ask(text)
                else:
                    with contextlib.suppress(httpx2.TransportError, ValueError):
                        await self._read(http, made.daemons[text.edge].port, text)
                    await asyncio.sleep(0.0 if text.whole else _AGAIN)

    async def _read(self, http: httpx2.AsyncClient, port: int, text: Text) -> None:
        """An attempt over HTTP."""
        url, headers = (
            f"http://127.0.0.1:{port}/v1/chat/completions",
            {"Idempotency-Key": f"text-{text.number}"},
        )
        body = {**text.body, "stream": True, "stream_options": {"include_usage": True}, "wait": 120}
        content = calls = reason = ""
        error = ""
        usage: dict[str, Any] = {}
        async with http.stream("POST", url, json=body, headers=headers) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                error = (event.get("error") or {}).get("code") or error
                usage = event.get("usage") or usage
                for choice in event.get("choices", ()):
                    content += choice["delta"].get("content") or ""
                    for call in choice["delta"].get("tool_calls") or ():
                        calls += call["function"].get("arguments") or ""
                    reason = choice.get("finish_reason") or reason
        text.shown(content, error)
        if reason and usage and not error:
            text.whole.append((content, calls, reason, usage["flexspec"].get("resumed", "")))

    async def _ask(self, text: Text) -> None:
        """An attempt by MQTT, under the same id each time."""
        name = f"text-{text.number}"
        answer = self._answers.setdefault(name, asyncio.get_running_loop().create_future())
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            if self._client is None:
                await asyncio.sleep(_AGAIN)
                return
            payload = json.dumps({**text.body, "id": name, "wait": 120})
            await self._client.publish(f"f1/ask/{text.edge}/{_ASKER}", payload, qos=1)
            async with asyncio.timeout(30.0):
                came = await asyncio.shield(answer)
            if "error" in came:
                text.shown("", came["error"]["code"])
                del self._answers[name]
                await asyncio.sleep(_AGAIN)
                return
            calls = "".join(call["function"]["arguments"] for call in came.get("tool_calls") or ())
            resumed = came["usage"].get("resumed", "")
            text.whole.append((came.get("text") or "", calls, came["finish_reason"], resumed))

    async def _listens(self, made: Site) -> None:
        """Take answers by MQTT, whatever happens to the broker."""
        bundle = made.deployment.bundles.folder(Role.ASKER, _ASKER)
        password = (bundle / "password").read_text("utf-8").strip()
        context = ssl.create_default_context(cafile=str(bundle / "ca.crt"))
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", made.port, username=_ASKER, password=password, tls_context=context,
                    protocol=aiomqtt.ProtocolVersion.V5,
                ) as client:  # fmt: skip
                    await client.subscribe(f"f1/answer/{_ASKER}/#", qos=1)
                    self._client = client
                    async for message in client.messages:
                        came = json.loads(bytes(message.payload))
                        future = self._answers.get(str(came.get("id")))
                        if came.get("done") and future is not None and not future.done():
                            future.set_result(came)
            self._client = None
            await asyncio.sleep(_AGAIN)

    async def compare(self) -> Counter[str]:
        """Ask the server itself for all texts that came; what they are beside its own."""
        found: Counter[str] = Counter()
        async with unbounded() as http:
            for text in self.texts:
                if not text.whole:
                    continue
                told = {"logprobs": True, "top_logprobs": 2} if text.kind == "greedy" else {}
                body = {**text.body, **told, "model": self.server.model}
                answer = (await http.post(f"{self.server.url}/v1/chat/completions", json=body)).json()
                choice = answer["choices"][0]
                calls = "".join(
                    call["function"]["arguments"] for call in choice["message"].get("tool_calls") or ()
                )
                text.own = choice["message"].get("content") or "", calls, choice["finish_reason"]
                content, mine, reason, resumed = text.whole[0]
                same = "as the server's own" if (content, mine, reason) == text.own else "another"
                found[f"{text.kind}, {resumed or 'undisturbed'}: {same}"] += 1
                if text.kind == "greedy" and content != text.own[0]:
                    self.gaps.append(_gap(choice["logprobs"]["content"], content))
        return found


def _gap(tokens: Sequence[Mapping[str, Any]], other: str) -> float:
    """How much likelier than the next one a text's first token is that another text has not, in nats."""
    text = b""
    for token in tokens:
        text += bytes(token["bytes"])
        if not other.encode().startswith(text):
            first, second = token["top_logprobs"]
            return float(first["logprob"] - second["logprob"])
    return 0.0


def texts(count: int, seed: int) -> list[Text]:
    """Texts that are asked for, a fifth of them by MQTT."""
    rng = random.Random(f"texts {seed}")
    questions = [question.text for question in read_questions(OWN)]
    found = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        asked = (
            f"({number}) {rng.choice(questions)}"
            if kind in ("greedy", "seeded")
            else f"Tell of city {number}."
        )
        body = {
            "messages": [{"role": "user", "content": asked}], "max_tokens": rng.randint(32, 96),
            "seed": rng.getrandbits(31), **KINDS[kind],
        }  # fmt: skip
        found.append(Text(number, kind, rng.choice(EDGES), rng.random() < 0.2, body))
    return found


@_common.program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    made = _common.parser(__doc__ or "")
    made.add_argument("--server", required=True, help="command of the server, as of `flexspec bench`")
    made.add_argument("--answers", type=int, default=500)
    made.add_argument("--out", type=Path, help="file for texts and answers, as JSON")
    args: argparse.Namespace = made.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="flexspec-served-") as folder:
        scratch = Path(folder)
        server = Server(shlex.split(args.server), scratch / "server.log")
        run = Run(server, texts(20 if args.quick else args.answers, args.seed), args.seed)

        async def whole() -> Counter[str]:
            await server.start()
            try:
                await run.happen(scratch / "site", args.seed)
                _common.say("the server is asked itself")
                return await run.compare()
            finally:
                await server.kill()

        (scratch / "site").mkdir()
        found = asyncio.run(whole())
    wrong = [f"text {text.number} ({text.kind}): {why}" for text in run.texts if (why := text.wrong())]
    if args.out:
        args.out.write_text(
            json.dumps([[t.kind, t.by_mqtt, t.seen, t.ended, t.whole, t.own] for t in run.texts], indent=1)
        )
    by_mqtt = sum(text.by_mqtt for text in run.texts)
    rows = [("answers", sum(bool(text.whole) for text in run.texts)), ("of these by MQTT", by_mqtt)]
    ends = Counter(f"ended in words, then asked again: {code}" for text in run.texts for code in text.ended)
    rows += [
        *sorted(run.faults.items()),
        *sorted(found.items()),
        *sorted(ends.items()),
        ("wrong", len(wrong)),
    ]
    print(_common.table(("figure", "value"), rows))
    print(
        "nats between the two likeliest tokens where greedy texts part:",
        *sorted(round(gap, 3) for gap in run.gaps),
    )
    for one in wrong[:20]:
        print(f"BROKEN: {one}")
    _common.finish("served", {**dict(rows)}, quick=args.quick)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
