"""A target and its draft, as a run of chaos has them: random ones, or real ones."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexspec_mq.models.load import find_model, load_text
from flexspec_mq.models.text import Turn, encode_turns
from lab.bench.questions import OWN, read_questions
from lab.benchmarks.exact.constraints import OF_WORDS, of_tools
from lab.benchmarks.exact.grammars import Constraint
from lab.chaos.models import tiny_pair, tiny_prompts

DTYPE = "bfloat16"
_KV_MB = "192"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target and its draft.

    Attributes:
        target: checkpoint of the target, also for the reference.
        draft: draft of the workers: a checkpoint, ``default`` or ``none``.
        graphs: draft of the devices.
        prompts: token ids.
        eos: ids that end a text.
        tokenizer: tokenizer of the target.
        constraints: constraints that half of the texts draw from.
    """

    target: str
    draft: str
    graphs: str
    prompts: Sequence[Sequence[int]]
    eos: tuple[int, ...]
    tokenizer: Any
    constraints: Sequence[Constraint]

    @property
    def at_workers(self) -> list[str]:
        """Flags of workers."""
        flags = ["--target", self.target, "--dtype", DTYPE, "--draft", self.draft]
        return [*flags, "--threads", "1", "--kv-mb", _KV_MB]

    @property
    def at_devices(self) -> list[str]:
        """Flags of devices."""
        return ["--draft", self.graphs, "--threads", "1"]


def tiny(scratch: Path) -> Pair:
    """A random target, written below a folder, and its draft."""
    target, draft, graphs = map(str, tiny_pair(scratch))
    text, prompts = load_text(target), tiny_prompts(random.Random(0), 64)
    return Pair(
        target=target, draft=draft, graphs=graphs,
        prompts=prompts, eos=text.eos, tokenizer=text.tokenizer, constraints=OF_WORDS,
    )  # fmt: skip


def real(name: str, draft: str, prompts: Path | None, say: Callable[[str], None]) -> Pair:
    """A target by its name or folder, asked what people ask.

    Args:
        name: folder of the target, or ``default``.
        draft: folder of its draft, or ``default``.
        prompts: file of questions; None takes our own.
        say: told of progress.
    """
    target = str(find_model(name, progress=say))
    text, questions = load_text(target), read_questions(prompts or OWN)
    turns = [[Turn("user", question.text)] for question in questions]
    return Pair(
        target=target, draft=draft, graphs=draft,
        prompts=[encode_turns(text.tokenizer, turn, max_context=2**20) for turn in turns],
        eos=text.eos, tokenizer=text.tokenizer, constraints=[*OF_WORDS, *of_tools()],
    )  # fmt: skip
