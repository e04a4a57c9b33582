"""LoRA of a draft for one version of its base, which workers of that version merge into the draft.

After each step the draft's weights are W + scale · B · A, rounded as a worker rounds them. No model of peft runs here,
but the folder that is written is one of its adapters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from flexspec_mq.models.cache import whole_folder
from flexspec_mq.models.head import LM_HEAD, LoraDelta
from flexspec_mq.models.head_files import ADAPTER, CONFIG, PREFIX

SCALE = 2
"""Scale of B · A, which is LoRA's alpha over the rank."""


class LowRank:
    """Additions B · A to matrices; B is zero at first.

    Args:
        live: matrices of the model, which `publish` writes; their names end in ``.weight``.
        rank: rows of A.
        seed: seed of the first A.

    Attributes:
        pairs: A, [rank, inputs], and B, [outputs, rank], float32, by the matrix' name.
    """

    def __init__(self, live: Mapping[str, torch.Tensor], rank: int, seed: int) -> None:
        self.rank, self._live = rank, live
        generator = torch.Generator().manual_seed(seed)
        self.pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, weight in live.items():
            down = torch.empty(rank, weight.shape[1]).uniform_(-1, 1, generator=generator)
            down *= weight.shape[1] ** -0.5
            up = torch.zeros(weight.shape[0], rank)
            self.pairs[name] = (down.to(weight.device), up.to(weight.device))
        self.begin()

    def begin(self) -> None:
        """Take the model's weights as those that are added to."""
        self._start = {name: weight.detach().float().clone() for name, weight in self._live.items()}

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All A and B, named as peft names them."""
        for name, (down, up) in self.pairs.items():
            yield _named(name, "A"), down
            yield _named(name, "B"), up

    def backward(self) -> None:
        """Gradients of A and B from those of the model's weights."""
        for name, (down, up) in self.pairs.items():
            live = self._live[name].grad
            if live is not None:
                gradient = SCALE * live.float()
                down.grad, up.grad = up.T @ gradient, gradient @ down.T

    @torch.no_grad()
    def publish(self) -> None:
        """Write the sums into the model."""
        for name, (down, up) in self.pairs.items():
            self._live[name].copy_(self._start[name] + SCALE * (up @ down))


def write_adapter(
    out: Path, lora: LowRank, lm_head: LoraDelta | torch.Tensor | None, name: str, fingerprint: str
) -> None:
    """Write a PEFT adapter directory; one that is there is replaced.

    Args:
        out: the folder to write.
        lora: trained additions.
        lm_head: the version's own LM head, which the draft takes over; None is the base's.
        name: name of the base, for people.
        fingerprint: fingerprint of the draft's weights, by which a worker tells whose adapter it is.
    """
    from safetensors.torch import save_file

    tensors = {key: tensor.detach().bfloat16() for key, tensor in lora.parameters()}
    ranks = {}
    if isinstance(lm_head, LoraDelta):
        ranks = {"lm_head": lm_head.rank}
        tensors[_named(LM_HEAD, "A")] = lm_head.down
        # All additions have one alpha.
        tensors[_named(LM_HEAD, "B")] = lm_head.up * (lm_head.scale * lm_head.rank / (SCALE * lora.rank))
    elif lm_head is not None:
        tensors[PREFIX + LM_HEAD] = lm_head
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": fingerprint,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": SCALE * lora.rank,
        "rank_pattern": ranks,
        "modules_to_save": ["lm_head"] if PREFIX + LM_HEAD in tensors else None,
        "target_modules": sorted({each.removesuffix(".weight") for each in [*lora.pairs, *ranks]}),
    }
    with whole_folder(out, replace=True) as part:
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        plain = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        save_file(plain, part / ADAPTER, metadata={"format": "pt"})
        (part / ADAPTER).chmod(0o644)


def _named(matrix: str, half: str) -> str:
    return f"{PREFIX}{matrix.removesuffix('weight')}lora_{half}.weight"
