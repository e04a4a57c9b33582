"""Our devices' drafts against a real vLLM: whether texts are that server's own, and what drafts give.

    python -m lab.engines                            # makes and starts its own vLLM for CPUs, then kills it once
    python -m lab.engines --url http://127.0.0.1:8000 --model smollm2

A deployment as its operator makes it, with TLS and keys, on a real Mosquitto; its worker has no model, but
``--engine vllm``. Texts are written as the default policy plans, and with four drafted tokens each round; each is
followed along the server's own text, see `audit`. Forecasts are those of ``flexspec pair``, by what was measured.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from cloud_worker.engine.load import load_engine
from cloud_worker.pair import measure
from cloud_worker.pair.forecast import LENGTHS, Figures, forecast
from cloud_worker.pair.measure import PairText
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.links import LINKS
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.text import Turn, encode_turns
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.bench.questions import OWN, read_questions, spread
from lab.benchmarks._common import finish, parser, program, say, table
from lab.benchmarks.exact.sampling import Params
from lab.engines.audit import PATIENCE, Auditor, Tie
from lab.engines.vllm import NAME, VllmServer, serving
from lab.testbed.secured import secured_deployment
from schemas.messages import NOISE_VERSION, Identity, Sampling

DRAFTING = ("--policy", "fixed", "--draft-length", "4", "--ahead", "0")
GREEDY, SAMPLED = Params(0.0, 0, 1.0, 0), Params(0.7, 20, 1.0, 0)
_PATIENCE = 600
"""Seconds that a text waits for a server that starts anew."""
_AT_ONCE = 4
"""Texts that are written beside each other."""
_WITHIN = 8
"""Pieces of an answer behind which the server is killed."""
_TIMED = 8
"""Texts of which verifications are timed."""
_ANSWER = 100
"""Tokens of an answer whose seconds are forecast."""


@dataclass(slots=True)
class Written:
    """Texts of one deployment, compared.

    Attributes:
        name: how they were written.
        texts, same: texts, and how many of them are the server's token by token.
        tokens, rounds, drafted, accepted: sums of the API's figures.
        ties: places at which the others went another way.
    """

    name: str
    texts: int = 0
    same: int = 0
    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    ties: list[Tie] = field(default_factory=list)

    def add(self, usage: dict[str, Any], ties: Sequence[Tie]) -> None:
        """Count a text."""
        ours = usage["flexspec"]
        self.texts += 1
        self.same += not ties
        self.tokens += usage["completion_tokens"]
        self.rounds += ours["rounds"]
        self.drafted += ours["drafted"]
        self.accepted += ours["accepted"]
        self.ties += ties


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks an edge node, and compares with the server.

    Attributes:
        http: client for edge nodes.
        audit: follows texts along the server.
        limit: tokens of a text.
    """

    http: httpx2.AsyncClient
    audit: Auditor
    limit: int

    def prompt(self, question: str) -> tuple[int, ...]:
        """Token ids of a question, as the edge node makes them."""
        target = self.audit.target
        return encode_turns(target.tokenizer, [Turn("user", question)], max_context=target.max_context)

    def body(self, question: str, sampling: Params) -> dict[str, Any]:
        """Body of a request."""
        message = {"role": "user", "content": question}
        asked = {"model": "base", "max_tokens": self.limit, "wait": _PATIENCE, **asdict(sampling)}
        return {"messages": [message], **asked}

    async def judged(self, question: str, sampling: Params, answer: StreamedAnswer, into: Written) -> None:
        """Compare an answer.

        Raises:
            FlexSpecError: there is none, or it is not the server's.
        """
        if answer.error:
            raise FlexSpecError(f"{into.name}: {answer.error}")
        tokens = answer.usage["completion_tokens"]
        ties = await self.audit.ties(self.prompt(question), answer.text, tokens, sampling)
        into.add(answer.usage, ties)
        for tie in ties:
            say(f"{into.name}: {tie}")

    async def texts(self, edge: str, name: str, questions: Sequence[str], sampling: Params) -> Written:
        """Have a node write all texts, some at a time."""
        found, asked = Written(name), iter(enumerate(questions))

        async def write() -> None:
            for number, question in asked:
                own = replace(sampling, seed=number)
                await self.judged(question, own, await ask(self.http, edge, self.body(question, own)), found)

        await asyncio.gather(*(write() for _ in range(_AT_ONCE)))
        say(f"{name}: {found.same} of {found.texts} are the server's token by token, {len(found.ties)} ties")
        return found

    async def through_a_kill(self, edge: str, question: str, server: VllmServer) -> tuple[Written, float]:
        """Have the server killed and started again in the middle of an answer; seconds that it was away too."""
        found, away = Written("server killed in mid-answer"), 0.0
        answer = StreamedAnswer()
        asking = asyncio.create_task(ask(self.http, edge, self.body(question, GREEDY), answer=answer))
        while len(answer.times) < _WITHIN and not asking.done():  # noqa: ASYNC110  pieces come without a word
            await asyncio.sleep(0.005)
        assert not asking.done(), "the answer was over before the server could be killed"
        began = time.perf_counter()
        await server.kill()
        await server.start()
        away = time.perf_counter() - began
        await self.judged(question, GREEDY, await asking, found)
        return found, away


async def verifications(
    http: httpx2.AsyncClient, model: str, texts: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Median milliseconds at the end of some contexts: a token of a stream, and verifications of K drafts.

    ``K`` is a request for the prefixes of each draft, as the worker sends it.

    Args:
        http: client of the server.
        model: name of the model there.
        texts: prompts with answers of at least 24 tokens.
    """
    took: dict[str, list[float]] = {}
    greedy = {"temperature": 0, "logprobs": 0, "return_tokens_as_token_ids": True}

    async def timed(name: str, **body: Any) -> None:
        began = time.perf_counter()
        (await http.post("/v1/completions", json={"model": model, **greedy, **body})).raise_for_status()
        took.setdefault(name, []).append(1000 * (time.perf_counter() - began))

    for text in texts:
        for place, length in enumerate(LENGTHS):
            at = len(text) - 20 + 2 * place
            context, draft = [*text[:at]], text[at : at + length]
            prefixes = [[*context, *draft[:count]] for count in range(length + 1)]
            for most in (1, 9):
                await timed(f"{most} streamed", prompt=context, max_tokens=most)
            await timed(f"{length}", prompt=prefixes, max_tokens=1)
    found = {name: median(times) for name, times in took.items()}
    found["token"] = (found.pop("9 streamed") - found.pop("1 streamed")) / 8
    return found


def pair(
    url: str, model: str, target: LoadedText, prompts: Sequence[tuple[int, ...]], limit: int
) -> tuple[Figures, list[PairText]]:
    """Figures of the server with the default draft, by the worker's own engine, and the texts that they are of."""
    settings = WorkerSettings(engine="vllm", engine_url=url, engine_model=model)
    engine = load_engine(settings, say)
    draft = measure.drafter_for(str(target.source), replace(EdgeSettings(edge="lab"), lookup=False), say)
    identity = Identity(NOISE_VERSION, target.fingerprint, Sampling(), target.eos, False, limit)
    texts = measure.write(engine, [PairText(prompt, identity) for prompt in prompts], say)
    assert draft.drafter is not None
    figures = measure.measure(engine, draft.drafter, texts, say)
    engine.close()
    return figures, texts


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print all of it; the results."""
    limit, count = (24, 2) if options.quick else (48, options.texts)
    target = load_text(default_model_path())
    questions = [question.text for question in spread(read_questions(OWN), count)]
    async with AsyncExitStack() as stack:
        own = None
        if options.url is None:
            own = await stack.enter_async_context(serving(options.home, default_model_path()))
        url, model = (options.url, options.model) if own is None else (own.url, NAME)
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=PATIENCE))
        asker = Asker(await stack.enter_async_context(unbounded()), Auditor(http, model, target), limit)
        prompts = [asker.prompt(question.text) for question in spread(read_questions(OWN), _TIMED)]
        figures, texts = await asyncio.to_thread(pair, url, model, target, prompts, limit)
        took = await verifications(http, model, [text.prompt + text.answer for text in texts])
        forwards = {0: took["token"], **{length: took[f"{length}"] for length in LENGTHS}}
        figures = replace(figures, forwards={rows: ms / 1000 for rows, ms in forwards.items()})
        tell_figures(figures, took)
        written, away = [], 0.0
        worker = ("--engine", "vllm", "--engine-url", url, "--engine-model", model)
        for how, flags in (("as planned", ()), ("K=4", DRAFTING)) if questions else ():
            async with secured_deployment(["d1"], worker_flags=worker, edge_flags=flags) as made:
                edge = made.edges[0].url
                for name, sampling in (("greedy", GREEDY), ("T=0.7, top-k 20", SAMPLED)):
                    written.append(await asker.texts(edge, f"{name}, {how}", questions, sampling))
                if own is not None and flags:
                    killed, away = await asker.through_a_kill(edge, questions[0], own)
                    written.append(killed)
    tell_texts(written)
    forecasts = {name: asdict(forecast(figures, link, _ANSWER)) for name, link in LINKS.items()}
    return {"ms": took, "texts": [asdict(each) for each in written], "forecasts": forecasts, "away_s": away}


def tell_figures(figures: Figures, took: Mapping[str, float]) -> None:
    """Print what verification takes, and seconds of an answer by that."""
    rows: list[list[Any]] = []
    for length in LENGTHS:
        ms = took[f"{length}"]
        rows.append([f"K={length}", figures.tokens_per_round(length), ms / took["token"], ms])
    print(f"{took['token']:.1f} ms a token of a stream, {1000 * figures.token:.1f} ms of the draft")
    print(table(["", "tokens a round", "tokens' time", "ms"], rows), "\n")
    even = replace(figures, forwards=dict.fromkeys(figures.forwards, figures.forwards[0]))
    told = []
    for name, link in LINKS.items():
        here, there = forecast(figures, link, _ANSWER), forecast(even, link, _ANSWER)
        ratios = here.device / here.streamed, there.device / there.streamed
        told.append([name, here.streamed, ratios[0], here.device_plan, ratios[1], there.device_plan])
    print(f"an answer of {_ANSWER} tokens; behind the dash where a verification takes no longer than a token")
    print(table(["link", "streamed s", "drafts", "plan", "- drafts", "- plan"], told), "\n")


def tell_texts(written: Sequence[Written]) -> None:
    """Print how many texts are the server's, and each tie."""
    rows = [
        [it.name, it.texts, it.same, len(it.ties), it.tokens / max(1, it.rounds), it.accepted, it.drafted]
        for it in written
    ]
    print(table(["texts", "all", "same", "ties", "tokens a round", "right", "drafted"], rows))
    print(f"{max((tie.margin for it in written for tie in it.ties), default=0.0):.3f} nats at most")


@program(extras="models,serve,chat")
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    made = parser((__doc__ or "").partition("\n")[0])
    made.add_argument("--url", help="a vLLM that runs, instead of one of its own; none is killed then")
    made.add_argument("--model", default=NAME, help="name by which that serves the default target")
    made.add_argument("--texts", type=int, default=20, help="texts of each kind; 0 times only")
    made.add_argument(
        "--home",
        type=Path,
        default=Path("~/.cache/flexspec-vllm").expanduser(),
        help="folder of its environment",
    )
    options = made.parse_args(argv)
    finish("engines", asyncio.run(run(options)), quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
