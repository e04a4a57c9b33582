"""Texts to ask for, and what the target alone makes of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.load import load_target
from flexspec_mq.models.text import Turn, decode, encode_turns
from flexspec_mq.models.tokenizer import Tokenizer
from lab.benchmarks.exact.grammars import Constraint, of_tools
from lab.benchmarks.exact.reference import ReferenceText, Text
from lab.benchmarks.exact.sampling import Params
from lab.testbed.process import running


@dataclass(slots=True)
class ReferencePool:
    """Reference processes that take texts in turn.

    Attributes:
        folder: checkpoint of the target, or a GGUF file that is run in 8-bit integers.
        dtype: number format of it.
        processes: how many, of one thread each.
        head: PEFT adapter directory that `reference` puts into the target; empty is none.
    """

    folder: str
    dtype: str
    processes: int
    head: str = ""
    _queue: asyncio.Queue[tuple[Text, asyncio.Future[ReferenceText]]] = field(default_factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start the processes."""
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self.processes)]

    async def write(self, text: Text) -> ReferenceText:
        """Have a text written; see `reference.Reference.write`. Any number may wait.

        Raises:
            FlexSpecError: the process ended.
        """
        answer: asyncio.Future[ReferenceText] = asyncio.get_running_loop().create_future()
        await self._queue.put((text, answer))
        return await answer

    async def end(self) -> None:
        """Kill them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _program(self) -> tuple[str, ...]:
        if Path(self.folder).is_file():
            return "lab.benchmarks.exact.one_row", self.folder
        return "lab.benchmarks.exact.reference", self.folder, self.dtype, *([self.head] if self.head else [])

    async def _serve(self) -> None:
        command = python(*self._program())
        env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        async with running("reference process", command, env=env) as process:
            while True:
                text, answer = await self._queue.get()
                try:
                    await process.send(asdict(text))
                    answer.set_result(ReferenceText(**await process.event(within=inf)))
                except FlexSpecError as error:
                    answer.set_exception(error)


_MOST_PROMPT = 160
_SAMPLINGS = ((0.0, 1.0), (0.7, 1.0), (1.0, 0.95))
"""Temperature and top-p, in turn."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of `/v1/completions`.

    Attributes:
        prompt: token ids.
        limit: tokens at most.
        constraint: texts that it allows; None are all.
    """

    prompt: tuple[int, ...]
    limit: int
    temperature: float
    top_p: float
    seed: int
    constraint: Constraint | None = None

    def body(self) -> dict[str, object]:
        """As the API takes it."""
        return {
            "prompt": list(self.prompt),
            "max_tokens": self.limit,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            **({} if self.constraint is None else self.constraint.fields),
        }


class Tokens:
    """The default model's tokenizer, and its ends of text."""

    def __init__(self) -> None:
        self.folder = str(default_model_path(lambda _line: None))
        loaded = load_target(self.folder)
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.eos = loaded.eos

    def questions(self, questions: Sequence[str], limit: int) -> list[Asked]:
        """A request for each question, with other sampling for each; every second has a tool's schema.

        Only the end is kept of long prompts.
        """
        found, constraints = [], of_tools()
        for number, question in enumerate(questions):
            temperature, top_p = _SAMPLINGS[number % len(_SAMPLINGS)]
            prompt = self.prompt(question)[-_MOST_PROMPT:]
            constraint = constraints[number // 2 % len(constraints)] if number % 2 else None
            found.append(Asked(prompt, limit, temperature, top_p, 1000 + number, constraint))
        return found

    def prompt(self, question: str) -> tuple[int, ...]:
        """Token ids of a conversation's first question."""
        return encode_turns(self.tokenizer, [Turn("user", question)], max_context=8192)

    def text(self, ids: Sequence[int]) -> str:
        """As the API shows it."""
        return decode(self.tokenizer, ids)


async def references(
    tokens: Tokens, asked: Sequence[Asked], processes: int, *, head: str = ""
) -> dict[Asked, str]:
    """Texts of the target alone: transformers' own model in processes of its own, one text at a time.

    Args:
        tokens: tokens of the target.
        asked: the texts.
        processes: how many.
        head: PEFT adapter directory, which peft puts into the target; empty is none.
    """
    pool = ReferencePool(tokens.folder, "bfloat16", processes, head=head)
    pool.start()
    try:
        different = list(dict.fromkeys(asked))
        written = await asyncio.gather(
            *(pool.write(_text(n, one, tokens)) for n, one in enumerate(different))
        )
    finally:
        await pool.end()
    return {one: tokens.text(found.tokens) for one, found in zip(different, written, strict=True)}


def _text(number: int, asked: Asked, tokens: Tokens) -> Text:
    sampling = Params(asked.temperature, 0, asked.top_p, asked.seed)
    grammar = "" if asked.constraint is None else asked.constraint.source
    return Text(number, asked.prompt, sampling, asked.limit, tokens.eos, grammar)
