"""transformers' own assisted generation, counted round by round through hooks that everybody may use.

Nothing of the project runs in it: transformers loads both checkpoints, drafts, verifies and samples. A forward
pre-hook of the target sees the candidates of each round, a streamer what the round committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.models.log_silencing import quiet_transformers
from lab.benchmarks.parts.rounds import Job, Tally


@dataclass(slots=True)
class _Watch:
    """A streamer, as transformers calls them, that sees one text being written.

    Attributes:
        prompt: token ids.
        tokens: committed so far.
        tally: of its rounds.
    """

    prompt: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    _drafted: list[int] | None = None
    _asked: bool = False

    def reads(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        """Before a forward of the target: its input is what is committed and not read yet, then the candidates."""
        ids: list[int] = kwargs["input_ids"][0].tolist()
        unread = [*self.prompt, *self.tokens] if not self.tally.rounds else self.tokens[-1:]
        if self._drafted is not None or ids[: len(unread)] != unread:
            raise RuntimeError("a forward of the target is no round of assisted generation as we know it")
        self._drafted = ids[len(unread) :]

    def put(self, value: torch.Tensor) -> None:
        """The prompt, then what each round committed."""
        committed: list[int] = value.reshape(-1).tolist()
        if not self._asked:
            self._asked = True
            return
        if self._drafted is None:
            raise RuntimeError("tokens were committed without a forward of the target")
        self.tally.count([DraftToken(token) for token in self._drafted], committed)
        self.tokens += committed
        self._drafted = None

    def end(self) -> None:
        """The text has ended."""
        self.tally.texts = 1


class AssistedRounds:
    """As `lab.benchmarks.parts.rounds.Rounds`, by ``generate(assistant_model=…)``.

    Args:
        target: checkpoint folder.
        draft: checkpoint folder of the assistant.
        k: candidates per round; neither a schedule nor the assistant's confidence changes that.
        dtype: of both models, as torch names it.
        attention: transformers' implementation.
    """

    def __init__(self, target: Path, draft: Path, *, k: int, dtype: str, attention: str = "sdpa") -> None:
        self._target = _load(target, dtype, attention)
        self._draft = _load(draft, dtype, attention)
        self._draft.generation_config.num_assistant_tokens = k
        self._draft.generation_config.num_assistant_tokens_schedule = "constant"
        self._draft.generation_config.assistant_confidence_threshold = 0.0

    def run(self, jobs: Sequence[Sequence[Job]], done: Callable[[Job, tuple[int, ...], Tally], None]) -> None:
        """Write all texts, one by one: assisted generation knows no batches."""
        for series in jobs:
            for job in series:
                watch = self._write(job)
                done(job, tuple(watch.tokens), watch.tally)

    def _write(self, job: Job) -> _Watch:
        identity = job.identity
        # All that checkpoints may set by themselves is said, or theirs would be taken.
        chosen: dict[str, Any] = {"do_sample": False}
        if identity.temperature > 0.0:
            chosen = {
                "do_sample": True,
                "temperature": identity.temperature,
                "top_k": identity.top_k,
                "top_p": identity.top_p,
            }
        made: Any = transformers.GenerationConfig  # has no types
        config = made(
            max_new_tokens=identity.limit,
            eos_token_id=list(identity.eos),
            pad_token_id=identity.eos[0] if identity.eos else 0,
            repetition_penalty=1.0,
            **chosen,
        )
        watch = _Watch(job.prompt)
        ids = torch.tensor([job.prompt])
        torch.manual_seed(identity.seed)
        hook = self._target.register_forward_pre_hook(watch.reads, with_kwargs=True)
        try:
            with torch.inference_mode(), quiet_transformers():
                self._target.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    assistant_model=self._draft,
                    generation_config=config,
                    streamer=watch,
                )
        finally:
            hook.remove()
        return watch


def _load(folder: Path, dtype: str, attention: str) -> Any:
    with quiet_transformers():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
        )
    return model.eval()
