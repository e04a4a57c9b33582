"""Tuning what a head may touch, by LoRA or in whole, stopped and resumed at any step."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.checkpoint import quiet_transformers
from training.draft.architecture import check_llama_like
from training.draft.schedule import pass_batches
from training.draft.train import Stopped
from training.head.chats import ChatRow

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
WARMUP = 0.06
FINAL_RATE = 0.05
CLIP = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """How to tune a head.

    Attributes:
        kind: ``lora``, or ``full``: all weights of the layers from `floor` on.
        floor: the lowest layer that is touched.
        rank: rank of LoRA's matrices.
        alpha: LoRA's scaling is this over `rank`.
        modules: projections of each layer that LoRA is put on.
        norm: whether the final norm is tuned, in whole.
        lm_head: whether the LM head is tuned, by LoRA or with ``full`` in whole.
        steps: steps of the optimizer.
        step_tokens: tokens of a step at most, prompts included.
        learning_rate: peak of AdamW's rate.
        seed: seed of LoRA's first matrices and of the order of rows.
    """

    kind: Literal["lora", "full"] = "lora"
    floor: int = 6
    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    norm: bool = False
    lm_head: bool = False
    steps: int = 200
    step_tokens: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: says what would do.
        """
        unknown = set(self.modules) - {*ATTENTION, *MLP}
        if unknown or not self.modules:
            raise UsageError(
                f"LoRA cannot be put on {', '.join(sorted(unknown)) or 'nothing'}",
                hint=f"choose from {', '.join((*ATTENTION, *MLP))}",
            )
        if min(self.rank, self.alpha, self.steps, self.step_tokens) < 1 or not self.learning_rate > 0:
            raise UsageError("rank, alpha, steps, tokens and learning rate are above 0")

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then a cosine."""
        share = step / self.steps
        cosine = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate * min(1.0, (step + 1) / max(1.0, WARMUP * self.steps)) * cosine


class Tuner:
    """Tunes a base on rows of tokens; the loss is on answers only.

    Tuned weights are kept in float32; products are computed in the base's dtype. The outcome is a pure function of
    base, rows and configuration, however often it is stopped and resumed.

    Args:
        model: the base, as `load_target` gives it: for LoRA in the dtype that it is served in, else in float32.
        dtype: dtype that products are computed in.
        rows: rows to train on.
        config: how to train.

    Raises:
        ModelError: the base is not built like Llama, or has no layers above the floor.
    """

    def __init__(self, model: Any, dtype: torch.dtype, rows: Sequence[ChatRow], config: TuneConfig) -> None:
        check_llama_like(model)
        depth = len(model.model.layers)
        if not 0 <= config.floor < depth:
            raise ModelError(
                f"a base of {depth} layers has none from layer {config.floor} on",
                hint=f"give a floor of 0 to {depth - 1}",
            )
        self.rows, self.config, self.dtype = rows, config, dtype
        self.peft: Any = None
        self.model = model
        torch.manual_seed(config.seed)
        if config.kind == "lora":
            self.peft = _with_lora(model, config, depth)
        else:
            _unfreeze(model, config)
        self.tuned = {name: p for name, p in sorted(model.named_parameters()) if p.requires_grad}
        for parameter in self.tuned.values():
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(self.tuned.values(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.step = 0
        self.seconds = 0.0
        self.loss = math.nan

    def run(self, on_step: Callable[[], None], should_stop: Callable[[], bool]) -> None:
        """Train to the end.

        Raises:
            Stopped: ``should_stop`` said so, between two steps.
        """
        plan = self._plan()
        while self.step < self.config.steps:
            if should_stop():
                raise Stopped
            started = time.monotonic()
            loss = self._train(plan[self.step])
            self.loss = loss if self.step == 0 else 0.9 * self.loss + 0.1 * loss
            self.step += 1
            self.seconds += time.monotonic() - started
            on_step()

    def save(self, path: Path, key: str) -> None:
        """Write all that is needed to resume; replaces the file atomically.

        Args:
            path: path of the file.
            key: key of base and data; only a training with the same one goes on.
        """
        state = {
            "key": key,
            "config": asdict(self.config),
            "progress": (self.step, self.seconds, self.loss),
            "tuned": {name: p.detach() for name, p in self.tuned.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        with whole(path) as part:
            torch.save(state, part)

    def resume(self, path: Path, key: str) -> None:
        """Go on from a file of `save`.

        Raises:
            UsageError: it is of another base, other data or another configuration.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["key"] != key or state["config"] != asdict(self.config):
            raise UsageError(
                f"{path} is of a training with another base, other data or other settings",
                hint="give the same command as then, or remove the file to start anew",
            )
        with torch.no_grad():
            for name, parameter in self.tuned.items():
                parameter.copy_(state["tuned"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.loss = state["progress"]

    def _plan(self) -> list[list[int]]:
        """Rows of each step: passes over all rows, each in an order of its own."""
        lengths = np.array([len(row.ids) for row in self.rows])
        plan: list[list[int]] = []
        for number in itertools.count():
            if len(plan) >= self.config.steps:
                break
            key = (self.config.seed, number)
            plan += pass_batches(range(len(lengths)), lengths, lengths, self.config.step_tokens, key)
        return plan

    def _train(self, chosen: Sequence[int]) -> float:
        rows = [self.rows[row] for row in chosen]
        longest = max(len(row.ids) for row in rows)
        device = self.model.device
        # Padding on the right reaches no token: attention is causal.
        ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=device)
        answers = torch.tensor(
            [[row.prompt <= place < len(row.ids) for place in range(1, longest)] for row in rows],
            device=device,
        )
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            states = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = self.model.lm_head(states[:, :-1][answers])
        loss = cross_entropy(logits.float(), ids[:, 1:][answers])
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.tuned.values(), CLIP)
        self.optimizer.step()
        return float(loss.detach())


def _with_lora(model: Any, config: TuneConfig, depth: int) -> Any:
    """Put LoRA into the model, and give peft's view of it."""
    from peft import LoraConfig, get_peft_model

    layers = "|".join(map(str, range(config.floor, depth)))
    targets = rf"model\.layers\.(?:{layers})\.(?:self_attn|mlp)\.(?:{'|'.join(config.modules)})"
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=f"{targets}|lm_head" if config.lm_head else targets,
        # The name `norm` alone would match the norms of all layers.
        modules_to_save=["model.norm"] if config.norm else None,
    )
    with quiet_transformers():
        return get_peft_model(model, lora)


def _unfreeze(model: Any, config: TuneConfig) -> None:
    if config.lm_head and model.lm_head.weight is model.model.embed_tokens.weight:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    for part in (*model.model.layers[config.floor :], model.model.norm, model.lm_head):
        wanted = {model.model.norm: config.norm, model.lm_head: config.lm_head}.get(part, True)
        cast("nn.Module", part).requires_grad_(wanted)
