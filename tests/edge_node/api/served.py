"""An edge node with its API, over a real broker and real HTTP; the target is a pure function of seed and prefix."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

import httpx2
import msgspec
from msgspec import structs
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from broker.launcher import PrivateBroker
from cloud_worker.engine.interface import Facts
from edge_node.api.app import create_app
from edge_node.api.response_store import ResponseStore
from edge_node.api.server import serve
from edge_node.api.serving import Api
from edge_node.api.settings import ApiSettings
from edge_node.energy import energy_meter
from edge_node.fleet.catalogue import FamilyCatalogue
from edge_node.fleet.target_texts import TargetTexts
from edge_node.limits import DailyData
from edge_node.node import EdgeNode
from edge_node.outbox.journal import Journal
from edge_node.settings import EdgeSettings
from edge_node.text.machine import End, Text
from edge_node.text.spec import IdempotencyKey, TextRequest
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.memory import AnswerMemory
from flexspec_mq.models.fingerprint import TokenizerContents
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.target_text import target_text
from flexspec_mq.models.text import decode
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import LinkFactory
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import EOS, FINGERPRINT, VOCAB, salted
from schemas.messages import Identity, PartialSampling, Sampling
from tests.daemons import PATIENCE, TARGET, Daemon, FakeDrafter, FakeEngine, until, worker_at

T = TypeVar("T")
CONTEXT = 50_000
UNKNOWN, END = "<unk>", "</s>"
PLAN = Plan(draft_length=4, in_flight=2, qos=1)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + '.' + m['content'] + ',' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant.' }}{% endif %}"
)
_numbers = itertools.count()


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """As many tokens as the fake target has: characters, words, and bytes that are characters only together."""
    broken = list("Ã©âĤ¬ð")  # the bytes of é and €, and the first one of any emoji
    words = ["ab", "the", "in", "er", "Ġa", "st"]
    known = [UNKNOWN, *"abcdefghijklmnopqrstuvwxyz", "Ġ", ".", ",", "Ċ", "!", "?", *broken, *words]
    known += [*"1234567890"[: EOS - len(known)], END]
    assert len(known) == VOCAB
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(known)}, merges=[], unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token=UNKNOWN, eos_token=END
    )
    made.chat_template = TEMPLATE
    return made


def speech(max_context: int = CONTEXT, known: PreTrainedTokenizerFast | None = None) -> LoadedText:
    """A draft without weights, with a tokenizer of its own or with ours."""
    spoken = known or tokenizer()
    return LoadedText(
        source="speech",
        config={},
        generation={},
        tokenizer=spoken,
        fingerprint=FINGERPRINT,
        tokenizer_status=TokenizerContents.from_tokenizer(spoken).status((EOS,)),
        eos=(EOS,),
        vocab_size=VOCAB,
        max_context=max_context,
        name="a model without weights",
    )


def ids_of(prompt: str) -> tuple[int, ...]:
    """Token ids of a chat with one turn of the user."""
    return tuple(tokenizer().encode(f"user.{prompt},assistant."))


def expected(
    prompt: Sequence[int], seed: int, limit: int, *, ignore_eos: bool = False
) -> tuple[tuple[int, ...], str]:
    """Tokens that the target alone writes, and whether they end by ``eos`` or ``length``."""
    identity = Identity(2, FINGERPRINT, Sampling(seed=seed), (EOS,), ignore_eos, limit)
    return TARGET.text(SessionRequest(session=1, version="base", identity=identity, prompt=tuple(prompt)))


def alone(prompt: str, seed: int, limit: int, *, ignore_eos: bool = False) -> str:
    """The text that the target alone writes to a chat with one turn of the user."""
    return shown(expected(ids_of(prompt), seed, limit, ignore_eos=ignore_eos)[0])


def content(answer: httpx2.Response) -> str:
    """The text of an answer to a chat."""
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


def said(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which has all of OpenAI's fields."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


def waiting_engine() -> FakeEngine:
    """An engine whose first step waits until its gate is set."""
    engine = FakeEngine()
    engine.gate.clear()
    return engine


def shown(tokens: Sequence[int]) -> str:
    """The text of generated tokens, without an unfinished character at its end."""
    return decode(tokenizer(), tokens).rstrip("\N{REPLACEMENT CHARACTER}")


def keyed(name: str) -> dict[str, str]:
    """Headers of a request with an idempotency key."""
    return {"idempotency-key": name}


def streamed(stream: str) -> str:
    """The text of a chat's stream, of which the end may be missing."""
    told = events(stream.rpartition("\n")[0])
    return "".join(one["choices"][0]["delta"].get("content", "") for one in told)


def events(stream: str) -> list[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    return [json.loads(line[6:]) for line in stream.split("\n") if line.startswith("data: {")]


async def never() -> Any:
    """Wait for ever, as the end of a client that stays."""
    await asyncio.Event().wait()


@dataclass
class Served:
    """A node that serves its API, with its workers in `daemons`; cancel the task `run` to stop the server."""

    url: str
    node: EdgeNode
    api: Api
    app: Starlette
    daemons: list[Daemon]
    run: asyncio.Task[None]
    http: httpx2.AsyncClient

    @property
    def client(self) -> AsyncOpenAI:
        """The official client. It does not retry unless told."""
        return AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.api.settings.api_key or "none",
            max_retries=0,
            http_client=self.http,
        )

    @property
    def version(self) -> str:
        return self.node.models.default

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        return await self.http.get(f"{self.url}{path}", headers=headers)

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.http.post(
            f"{self.url}{path}", json=body, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    async def chat(
        self, prompt: str = "hello", headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        body = {"model": self.version, "messages": [{"role": "user", "content": prompt}], **more}
        return await self.post("/v1/chat/completions", body, **(headers or {}))

    async def leave(self, prompt: str, key: str, **more: Any) -> str:
        """Ask for a stream with a key, and go away when it is acknowledged; the id of its text."""
        turns = [{"role": "user", "content": prompt}]
        body = {"model": self.version, "messages": turns, "stream": True, **more}
        path = f"{self.url}/v1/chat/completions"
        async with self.http.stream("POST", path, json=body, headers=keyed(key)) as answer:
            assert answer.status_code == 200
            return answer.headers["x-flexspec-outbox"]

    async def answers(self, status: int, path: str = "/v1/chat/completions") -> float:
        """Number of answers of a path with a status."""
        return await self.metric(f'flexspec_edge:http_requests_total{{endpoint="{path}",status="{status}"}}')

    async def metric(self, line: str) -> float:
        """The value of one line of the metrics' page; 0 if it is not there."""
        page = (await self.get("/metrics", self.key)).text
        values = [one.rpartition(" ")[2] for one in page.splitlines() if one.rpartition(" ")[0] == line]
        return float(values[0]) if values else 0.0

    async def figures(self) -> dict[str, float]:
        """Figures of the node's own version, by name and the value of a further label; those of buckets aside."""
        page = (await self.get("/metrics", self.key)).text
        assert "_created" not in page
        found = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                labels = dict(sample.labels)
                if labels.pop("model_name", "") == self.version and "le" not in labels:
                    name = sample.name.removeprefix("flexspec_edge:")
                    found["/".join([name, *labels.values()])] = sample.value
        return found

    async def ended(self, reason: str) -> float:
        """Texts of the node's own version that ended for a reason."""
        labels = f'{{finished_reason="{reason}",model_name="{self.version}"}}'
        return await self.metric(f"flexspec_edge:request_success_total{labels}")

    @property
    def key(self) -> dict[str, str]:
        key = self.api.settings.api_key
        return {} if key is None else {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def served(
    broker: PrivateBroker | None,
    *,
    workers: int = 1,
    engine: FakeEngine | None = None,
    wait: float = 0.0,
    plan: Plan = PLAN,
    max_context: int = CONTEXT,
    worker: dict[str, Any] | None = None,
    through: int | None = None,
    family: FamilyCatalogue | None = None,
    energy: str = "none",
    policy: Callable[[], Policy] | None = None,
    edge: dict[str, Any] | None = None,
    drafter: Drafter | None = None,
    memory: AnswerMemory | None = None,
    at: LinkSettings | None = None,
    journal: Journal | None = None,
    data: DailyData | None = None,
    local: DraftModel | None = None,
    known: bool = True,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve the API of a new edge node, with workers of a version of its own; it connects to port `through`. Unless the
    target's tokenizer is `known`, a worker has to give that.

    A node that connects `at` another broker has the workers that the test starts. With a family, `version` is that of
    its workers, and the family is asked for.
    """
    number = next(_numbers)
    version = settings.pop("version", f"api{number}")
    api_settings = ApiSettings(**{"api_port": 0, "grace": 2.0, **settings})

    def link_to(name: str) -> LinkSettings:
        if at is not None:
            return at
        assert broker is not None
        return LinkSettings(port=through or broker.port, client_id=name, backoff=0.02, backoff_max=0.1)

    async with AsyncExitStack() as stack:
        daemons = []
        for each in range(workers):
            assert broker is not None
            factory: LinkFactory = links_to(broker)
            daemons.append(
                await stack.enter_async_context(
                    worker_at(factory, f"aw{number}-{each}", engine, version=version, **(worker or {}))
                )
            )
        asked: dict[str, Any] = {"edge": f"ae{number}", "version": version, "energy": energy, **(edge or {})}
        device = EdgeSettings(wait=wait, **asked)
        own = speech(max_context) if known else None
        node = EdgeNode(
            device,
            drafter or FakeDrafter(),
            FINGERPRINT,
            (EOS,),
            family=family,
            energy=energy_meter(device),
            memory=memory,
            data=data,
            texts=TargetTexts(DraftModel(own, None)),
            local=local,
        )
        await stack.enter_async_context(node.running(mqtt_link, link_to(f"e-ae{number}")))
        policy = policy or partial(FixedPolicy, plan)
        app = create_app(node, own, policy=policy, settings=api_settings, journal=journal)
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        run = asyncio.create_task(serve(app, port.set_result))
        stack.push_async_callback(_stop, run)
        await asyncio.wait_for(port, PATIENCE)
        await until(lambda: not workers or version in node.directory.versions())
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=PATIENCE, trust_env=False))
        yield Served(f"http://127.0.0.1:{port.result()}", node, app.state.api, app, daemons, run, http)


RESPONSES = ResponseStore(ApiSettings())


def text_of(wanted: TextRequest, key: IdempotencyKey | None = None) -> Text:
    """A request's text, which is being written."""
    text = Text(structs.replace(wanted.spec, version="base"), key, name=secrets.token_hex(12))
    text.begin()
    return text


def finish(text: Text, end: End) -> None:
    """End a text, as the disk lets it."""
    text.ended(end, 0.0)
    text.persisted()


async def _stop(run: asyncio.Task[None]) -> None:
    run.cancel()
    done, _ = await asyncio.wait([run], timeout=PATIENCE)
    assert done, "the server does not end"
    if not run.cancelled() and (error := run.exception()) is not None:
        logging.getLogger(__name__).warning("the server ended with %r", error)


def links_to(broker: PrivateBroker, **known: Any) -> LinkFactory:
    """Links to this broker, whatever port the settings name, and with these other settings."""

    @asynccontextmanager
    async def connect(settings: LinkSettings) -> AsyncIterator[Any]:
        async with mqtt_link(replace(settings, port=broker.port, **known)) as link:
            yield link

    return connect


class Opinionated(FakeEngine):
    """A target whose makers recommend a sampling, and that draws other tokens at each temperature.

    Attributes:
        asked: sampling of each step's items, but for the seed.
    """

    def __init__(self, recommended: PartialSampling) -> None:
        super().__init__(self._note)
        self._recommended = recommended
        self.asked: set[Sampling] = set()

    def decide(self, item: WorkItem) -> tuple[int, ...]:
        return TARGET.forward(replace(item, identity=_drawn(item.identity)))

    def _note(self, items: Sequence[WorkItem]) -> None:
        self.asked |= {msgspec.structs.replace(i.identity.sampling, seed=0) for i in items}

    @property
    def facts(self) -> Facts:
        return replace(super().facts, recommended=self._recommended)


def _drawn(identity: Identity) -> Identity:
    return salted(identity, round(1000 * identity.sampling.temperature))


def text_at(temperature: float, seed: int, limit: int, prompt: str = "hello") -> str:
    """The text that an `Opinionated` target alone writes to a chat, without an end before the limit."""
    identity = _drawn(Identity(2, FINGERPRINT, Sampling(temperature, 0, 1.0, seed), (EOS,), True, limit))
    asked = SessionRequest(session=1, version="base", identity=identity, prompt=ids_of(prompt))
    return shown(TARGET.text(asked)[0])


def another(template: str, word: str = "er") -> Facts:
    """A target with another template and maybe another word, which also ends texts with id 3, and tells all that."""
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str().replace('"er"', f'"{word}"'))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNKNOWN, eos_token=END)  # type: ignore[no-untyped-call]
    made.chat_template = template
    contents = TokenizerContents.from_tokenizer(made)
    stated = contents.status((3, EOS), VOCAB)
    told = target_text(speech(known=made))
    return replace(FakeEngine().facts, fingerprint=contents.digest(), tokenizer=stated, text=told)
