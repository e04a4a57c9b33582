"""A target and its draft, as a run of chaos has them: random ones, or real ones."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cloud_worker.engine.target import in_few_bits
from flexspec_mq.models.load import find_model, load_text
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.models.text import Turn, decode, encode_turns
from lab.bench.questions import OWN, read_questions
from lab.benchmarks.exact.grammars import OF_WORDS, Constraint, of_tools
from lab.benchmarks.exact.reference import ReferenceText, Text
from lab.benchmarks.exact.texts import ReferencePool
from lab.chaos.history import Wanted
from lab.chaos.schedule import Ask

_SPECIAL = ("<unk>", "<s>", "</s>")
_LETTERS = "aeiou", "bdgklmnprst", "aeiou"
_CONTEXT = 2048
_NOISE = 0.04
_SPREAD = 0.2
"""Standard deviation of weights, as if it were trained: with the usual one all words are about as likely."""


def tiny_pair(folder: Path) -> tuple[Path, Path, Path]:
    """Write a target, its draft, and the draft as a device runs it."""
    target, draft = _checkpoint(folder / "target", 0.0), _checkpoint(folder / "draft", _NOISE)
    return target, draft, write_onnx(draft, folder / "graphs", "float32", 0)


def tiny_prompts(rng: random.Random, many: int) -> list[list[int]]:
    """Random words."""
    last = len(_SPECIAL) + len(list(product(*_LETTERS))) - 1
    return [[rng.randint(len(_SPECIAL), last) for _ in range(rng.choice((3, 20, 60)))] for _ in range(many)]


def _checkpoint(folder: Path, noise: float) -> Path:
    words = ["Ġ" + "".join(letters) for letters in product(*_LETTERS)]
    tokens = [*_SPECIAL, *words, "Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    bounds = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **bounds)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=_CONTEXT,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _SPREAD)
        head = model.get_parameter("lm_head.weight")
        head.add_(torch.randn(head.shape, generator=generator), alpha=noise)
        head[:2] = 0.0
        head[len(_SPECIAL) + len(words) :] *= 0.1
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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

    async def written(
        self, pool: ReferencePool, ask: Ask, prompt: tuple[int, ...]
    ) -> tuple[ReferenceText, Wanted]:
        """Text of the target alone behind a prompt, and what the history says of it; errors as of the pool."""
        eos = () if ask.ignores_eos else self.eos
        grammar = "" if ask.constraint is None else ask.constraint.source
        found = await pool.write(Text(ask.number, prompt, ask.sampling, ask.limit, eos, grammar))
        shown = decode(self.tokenizer, found.tokens).rstrip("\N{REPLACEMENT CHARACTER}")
        reason = "length" if found.reason == "length" else "stop"
        told = tuple(found.tokens), shown, reason
        return found, Wanted(time.monotonic(), ask.number, ask.sampling.seed, ask.edge, *told)


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
        name: folder of the target, a GGUF file, which workers run in integers if it has few bits, or ``default``.
        draft: folder of its draft, or ``default``.
        prompts: file of questions; None takes our own.
        say: told of progress.
    """
    text, questions = load_text(name, progress=say), read_questions(prompts or OWN)
    target = name if in_few_bits(Path(name), text) else str(find_model(name, progress=say))
    turns = [[Turn("user", question.text)] for question in questions]
    return Pair(
        target=target, draft=draft, graphs=draft,
        prompts=[encode_turns(text.tokenizer, turn, max_context=2**20) for turn in turns],
        eos=text.eos, tokenizer=text.tokenizer, constraints=[*OF_WORDS, *of_tools()],
    )  # fmt: skip
