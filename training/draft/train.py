"""Training a draft: collect the teacher's states, distil blocks and norm, stop and resume at any step."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError
from training.draft.architecture import build_draft, lm_head_weight, run_head, trained_parameters
from training.draft.cache import StateCache, collect
from training.draft.losses import LMHead, distil, hybrid_weight, sampled_head
from training.draft.low_rank import LowRank
from training.draft.schedule import TrainConfig, pass_batches, row_order

log = logging.getLogger(__name__)

OVERLAP_MEMORY = 0.95
WEIGHT_DECAY, CLIP = 0.05, 1.0
"""Weight decay of matrices, not of norms; largest norm of the gradient."""
FULL_FROM, COLLECT_UNTIL = 0.9, 0.6
"""Shares of the budget: after the one the LM head is whole, after the other no more states are collected."""


class Stopped(Exception):
    """The user asked to stop; state is whole."""


@dataclass(slots=True)
class Progress:
    """Where the training is.

    Attributes:
        step: Optimizer steps done.
        seconds: Time used, collecting included, over all resumptions.
        tokens: Answer positions trained on, repeats included.
        pass_number: Passes done.
        batch: Batches done in this pass.
        overlap: Running mean of Σ min(p, q) over the last 20 steps or so, at the loss's temperatures.
        kl: Running mean of KL(p‖q), nats per position, at the same.
        collected: Tokens run through the teacher, prompts included.
        rows: Rows of the current pass.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    pass_number: int = 0
    batch: int = 0
    overlap: float = 0.0
    kl: float = 0.0
    collected: int = 0
    rows: int = 0


class Trainer:
    """Trains the blocks and the norm of a draft.

    The weights are kept in float32 and cast to the base's dtype for every step. With a budget in steps, the
    outcome is a pure function of base, text and configuration, however often it is stopped and resumed.

    Args:
        base: Model that the draft is made of.
        cache: The teacher's states.
        config: How to train.
        on_progress: Called after each step and each teacher forward.
        should_stop: Asked between steps and teacher forwards.
        teacher: Another version of the base, from which the draft learns; None is the base.

    Attributes:
        teacher_lm_head: Shape ``(vocabulary, width)``, if it is not the draft's; else None.
        lora: LoRA that is trained instead of the weights, where the configuration has a rank; the draft then has the
            teacher's LM head.

    Raises:
        ModelError: There are no rows to train on.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        cache: StateCache,
        config: TrainConfig,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        teacher: PreTrainedModel | None = None,
    ) -> None:
        self.teacher, self.cache, self.config = teacher or base, cache, config
        self.on_progress, self.should_stop = on_progress, should_stop
        self.draft = build_draft(base, config.n, config.start)
        self.train_rows, self.held_out = row_order(cache.text, config.seed)
        if not self.train_rows:
            raise ModelError("no rows to train on", hint="the text needs more prompts")
        self.progress = Progress()
        theirs = lm_head_weight(self.teacher)
        if config.rank:
            self.draft.lm_head.weight = torch.nn.Parameter(theirs, requires_grad=False)
        self._weight = lm_head_weight(self.draft)
        self.teacher_lm_head = None if torch.equal(theirs, self._weight) else theirs
        self._common = common_ids(cache, config.common_ids)
        self._live = dict(trained_parameters(self.draft, config.n))
        self.lora: LowRank | None = None
        self.master = {name: p.detach().float().clone().requires_grad_() for name, p in self._live.items()}
        if config.rank:
            adapted = {name: p for name, p in self._live.items() if p.ndim > 1}
            self.lora = LowRank(adapted, config.rank, config.seed)
            self.master = dict(self.lora.parameters())
        matrices = [p for p in self.master.values() if p.ndim > 1]
        vectors = [p for p in self.master.values() if p.ndim <= 1]
        decay = {"params": matrices, "weight_decay": WEIGHT_DECAY}
        groups = [decay, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))

    def run(self) -> None:
        """Train until the budget is used.

        Raises:
            Stopped: ``should_stop`` said so.
        """
        while self._share() < 1:
            rows = self._rows_of_pass()
            self.progress.rows = len(rows)
            key = (self.config.seed, self.progress.pass_number)
            text = self.cache.text
            plan = pass_batches(rows, text.length, text.answer_len, self.config.step_tokens, key)
            while self.progress.batch < len(plan) and self._share() < 1:
                if self.should_stop():
                    raise Stopped
                started = time.monotonic()
                self._step(plan[self.progress.batch])
                self.progress.seconds += time.monotonic() - started
                self.on_progress(self.progress)
            if self.progress.batch >= len(plan):
                self.progress.pass_number += 1
                self.progress.batch = 0

    def collect(self, rows: list[int]) -> None:
        """Fill the cache for rows.

        Raises:
            Stopped: ``should_stop`` said so; what was collected stays.
        """
        last = time.monotonic()

        def on_rows(_rows: int, tokens: int) -> None:
            nonlocal last
            now = time.monotonic()
            self.progress.collected += tokens
            self.progress.seconds += now - last
            last = now
            self.on_progress(self.progress)
            if self.should_stop():
                raise Stopped

        collect(self.cache, self.teacher, rows, on_rows)

    def begin(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Start from trained weights instead of copies of the base's, where there are any.

        Args:
            tensors: Named as in the draft.

        Raises:
            ModelError: The draft has no such blocks.
        """
        with torch.no_grad():
            for name, tensor in tensors.items():
                if name not in self._live or self._live[name].shape != tensor.shape:
                    raise ModelError(f"the earlier draft's {name} has no place in this one")
                self._live[name].copy_(tensor)
                if self.lora is None:
                    self.master[name].copy_(tensor)
        if self.lora is not None:
            self.lora.begin()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Trained tensors on the host, float32: blocks and norm named as in the draft, or LoRA's A and B."""
        return {name: p.detach().cpu() for name, p in self.master.items()}

    def save(self, path: Path) -> None:
        """Write all that is needed to resume; replaces the file atomically."""
        state = {"config": asdict(self.config), "progress": asdict(self.progress), "master": self.tensors()}
        with whole(path) as part:
            torch.save({**state, "optimizer": self.optimizer.state_dict()}, part)

    def resume(self, path: Path) -> None:
        """Go on from a file of ``save``.

        Raises:
            ModelError: It was trained in another shape.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        before = state["config"]
        shape = before["n"], tuple(before.get("start", ())), before.get("rank", 0)
        if shape != (self.config.n, self.config.start, self.config.rank):
            raise ModelError(f"{path} was trained with other layers", hint="remove it to start anew")
        if before["seed"] != self.config.seed:
            raise ModelError(f"{path} was trained with another seed", hint="remove it to start anew")
        with torch.no_grad():
            for name, tensor in state["master"].items():
                self.master[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._publish()

    def _share(self) -> float:
        return self.config.progress(self.progress.step, self.progress.seconds)

    def _rows_of_pass(self) -> list[int]:
        wanted = self.train_rows[: self.config.first_rows << min(self.progress.pass_number, 32)]
        if self._share() < COLLECT_UNTIL:
            self.collect(wanted)
        missing = set(self.cache.missing(wanted))
        rows = [row for row in wanted if row not in missing]
        if not rows:
            raise ModelError("no states were collected within the budget", hint="give it more time")
        return rows

    def _step(self, rows: list[int]) -> None:
        config, done = self.config, self.progress
        share = self._share()
        kl_share = hybrid_weight(done.overlap) if share >= config.hybrid_from else 1.0
        self.draft.zero_grad()
        student, teacher = self._final_states(rows)
        gradient, sums = distil(student.detach(), teacher, self._head(share), kl_share)
        student.backward(gradient / len(student))  # type: ignore[no-untyped-call]
        if self.lora is not None:
            self.lora.backward()
        else:
            for name, parameter in self.master.items():
                live = self._live[name].grad
                parameter.grad = None if live is None else live.float()
        torch.nn.utils.clip_grad_norm_(self.master.values(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(done.step, share)
        self.optimizer.step()
        self._publish()
        keep = min(OVERLAP_MEMORY, done.step / (done.step + 1))
        done.overlap = keep * done.overlap + (1 - keep) * sums.overlap / sums.positions
        done.kl = keep * done.kl + (1 - keep) * sums.kl / sums.positions
        done.step += 1
        done.batch += 1
        done.tokens += sums.positions

    def _final_states(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Final states of student and teacher at the answers of rows, each ``(positions, width)``."""
        text = self.cache.text
        length = [int(text.length[row]) for row in rows]
        wanted = torch.zeros(len(rows), max(length), dtype=torch.bool)
        first = [int(text.prompt_len[row]) - 1 for row in rows]
        for i in range(len(rows)):
            wanted[i, first[i] : length[i] - 1] = True
        states = torch.zeros(len(rows), max(length), self.cache.width, dtype=torch.bfloat16)
        for i, row in enumerate(rows):
            states[i, : length[i]] = self.cache.backbone(row)
        student = run_head(self.draft, self.config.n, states.to(self._weight))[wanted]
        teacher = torch.cat(
            [self.cache.final(row, position) for row, position in zip(rows, first, strict=True)]
        )
        return student, teacher.to(student)

    def _head(self, share: float) -> LMHead:
        temperatures = self.config.temperatures
        temperature = temperatures[self.progress.step % len(temperatures)]
        if not len(self._common) or share >= FULL_FROM:
            return LMHead(self._weight, temperature=temperature, teacher=self.teacher_lm_head)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.progress.step)
        return sampled_head(
            self._weight, self._common, self.config.extra_ids, generator, temperature, self.teacher_lm_head
        )

    @torch.no_grad()
    def _publish(self) -> None:
        if self.lora is not None:
            self.lora.publish()
            return
        for name, parameter in self.master.items():
            self._live[name].copy_(parameter)


def common_ids(cache: StateCache, count: int) -> torch.Tensor:
    """The most frequent ids of the text, shape ``(count,)`` or fewer."""
    ids, times = np.unique(np.asarray(cache.text.ids), return_counts=True)
    order = np.argsort(-times, kind="stable")[:count]
    return torch.from_numpy(ids[order].astype(np.int64))
