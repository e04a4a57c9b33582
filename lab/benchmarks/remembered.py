"""Gain by remembered answers: ``python -m lab.benchmarks.acceptance --memory``.

The target writes 48 answers of each version: questions of the head's kind and mixed ones in turn.
Then the device's draft replays them one after the other, as it ships without a memory and with one, by the product's
own lookups and fusion.
"""

from __future__ import annotations

import random
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass, field
from itertools import accumulate, chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import flexspec_mq.heads
from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.pair.measure import Text, write
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter, DraftRequest
from flexspec_mq.drafting.memory import AnswerMemory, Answers
from flexspec_mq.errors import UsageError
from flexspec_mq.heads.manifest import read_head
from flexspec_mq.models.head_files import read_weights
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape
from flexspec_mq.models.text import Turn, encode_turns
from lab.bench.questions import OWN, read_questions
from lab.benchmarks._common import finish, say, table
from schemas.messages import PROTOCOL_VERSION, Identity

if TYPE_CHECKING:
    from collections.abc import Sequence

QUESTIONS = 48
SETTLED = 20
"""Answers beyond which no prefix may lose."""
HEADS = Path(flexspec_mq.heads.__file__).with_name("examples")
BASE, SQL = "base", "SQL"


def questions(count: int, seed: int) -> dict[str, list[str]]:
    """By version: questions of its kind and mixed ones in turn; of the base mixed ones only.

    Raises:
        UsageError: the distribution that makes prompts of a head's kind is not installed.
    """
    try:
        from training.examples import head_examples as examples
    except ImportError as error:
        raise UsageError(
            "prompts of the heads' kinds come with training/", hint="pip install -e . -e training"
        ) from error
    rng = random.Random(seed)
    general = examples.prompts(4 * count, held_out=True, seed=seed)
    mixed = [*(question.text for question in read_questions(OWN)), *general[count:]]
    mixed = rng.sample(mixed[:count], count)
    kinds = {
        "style": general,
        "mathematics": [examples.problem(rng)[0] for _ in range(count)],
        "format": [examples.asking_json(prompt) for prompt in general],
        "reasoning": general,
        SQL: [examples.sql(rng)[0] for _ in range(count)],
    }
    halves = {name: list(chain(*zip(own, mixed, strict=False)))[:count] for name, own in kinds.items()}
    return {BASE: mixed, **halves}


def put_head(engine: ModelEngine, target: cloud_target.Target, folder: Path) -> None:
    """Have the engine write as the version of a head.

    Raises:
        HeadError: the head is damaged.
    """
    manifest = read_head(folder)
    shape = Shape.from_config(target.loaded.config, (*FAMILIES, *HEAD_NORMS))
    target.model.hold(folder.name, read_weights(folder, manifest.kind, shape, manifest.floor))
    engine.hold(BASE, folder.name)


@dataclass(slots=True)
class Replay:
    """Rounds of the device's drafter over texts that are known, with one batch in flight.

    Args:
        drafter: drafter of a device, by model and lookup.
        answers: memory of the device; None without one.

    Attributes:
        rounds: verifications of each text.
        seconds: time of drafting.
        tokens: drafted tokens.
    """

    drafter: Drafter
    answers: Answers | None
    rounds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    def add(self, text: Text, k: int) -> None:
        """Draft a text, up to `k` tokens a round, and remember it."""
        number, place = len(self.rounds), 0
        self.rounds.append(0)
        while place < len(text.answer):
            draft = self._draft(number, text, place, min(k, text.identity.limit - place - 1))
            right = (ours == theirs for ours, theirs in zip(draft, text.answer[place:], strict=False))
            place += sum(takewhile(bool, right)) + 1
            self.rounds[-1] += 1
        self.drafter.free(number)
        if self.answers is not None:
            self.answers.add(text.prompt, text.answer)

    def _draft(self, number: int, text: Text, place: int, most: int) -> list[int]:
        draft: list[int] = []
        context = text.prompt + text.answer[:place]
        recall = None if self.answers is None else self.answers.recall
        while len(draft) < most and not (draft and draft[-1] in text.identity.eos):
            request = DraftRequest(
                number,
                (*context, *draft),
                text.identity,
                len(context),
                len(text.prompt),
                most=most - len(draft),
                answers=recall,
            )
            began = time.perf_counter()
            (proposals,) = self.drafter.draft([request])
            self.seconds += time.perf_counter() - began
            if proposals is None:
                continue
            if not proposals:
                break
            draft += [proposal.token for proposal in proposals][: most - len(draft)]
        self.tokens += len(draft)
        return draft


def replay(texts: Sequence[Text], fingerprint: bytes, device: EdgeSettings, k: int) -> list[float | None]:
    """Figures of a version's texts.

    Returns:
        Tokens a round without and with a memory, the share of the former that the latter is, for all texts, for those
        of the version's kind and the least of a prefix, and ms a drafted token of both.
    """
    with tempfile.TemporaryDirectory() as place:
        answers = AnswerMemory(Path(place), "bench").of("version", "", b"", fingerprint)
        ships, remembers = (
            Replay(cast("Drafter", draft_model.load(device, say).drafter), each) for each in (None, answers)
        )
        for one in texts:  # in turns, so that whatever else runs slows both
            ships.add(one, k)
            remembers.add(one, k)
    share = [a / b for a, b in zip(accumulate(ships.rounds), accumulate(remembers.rounds), strict=True)]
    tokens = sum(len(one.answer) for one in texts)
    return [
        *(tokens / sum(each.rounds) for each in (ships, remembers)),
        share[-1],
        sum(ships.rounds[::2]) / sum(remembers.rounds[::2]),
        min(share[SETTLED:], default=None),
        *(1e3 * each.seconds / max(1, each.tokens) for each in (ships, remembers)),
    ]


def measure_memory(options: Namespace) -> int:
    """Measure and print."""
    worker = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(worker, say)
    engine, text = ModelEngine(target.model), target.loaded
    device = EdgeSettings(edge="bench", threads=options.threads)
    rows: list[list[Any]] = []
    for name, asked in questions(options.questions or QUESTIONS, options.seed).items():
        folder = {BASE: None, SQL: options.head}.get(name, HEADS / name)
        if folder is None:
            engine.drop(BASE)
        else:
            put_head(engine, target, folder)
        most = text.max_context - options.tokens
        prompts = [encode_turns(text.tokenizer, [Turn("user", one)], max_context=most) for one in asked]
        for temperature in options.temperatures:
            identities = [
                Identity(
                    PROTOCOL_VERSION, text.fingerprint, temperature, 0, 1.0, seed, text.eos, False, options.tokens
                )
                for seed in range(options.seed, options.seed + len(prompts))
            ]  # fmt: skip
            texts = write(engine, list(map(Text, prompts, identities)), say)
            rows.append([name, temperature, *replay(texts, text.fingerprint, device, options.k)])
            say(" ".join(map(str, rows[-1])))
    headers = (
        "version",
        "T",
        "ships",
        "memory",
        "share",
        "of its kind",
        f"least beyond {SETTLED}",
        "ms/token",
        "ms/token, memory",
    )
    print(table(headers, rows))
    results = {"k": options.k, "versions": [dict(zip(headers, row, strict=True)) for row in rows]}
    finish("memory", results, quick=options.quick)
    return 0
