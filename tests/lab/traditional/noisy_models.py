"""Two small models of which one is sometimes right about the other."""

from pathlib import Path

import torch

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


def checkpoint(folder: Path, noise: float, **sizes: int) -> Path:
    """The same random model, with noise in its head: sometimes right about the other, sometimes wrong."""
    model = tiny_llama(max_position_embeddings=512, **sizes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        head = model.get_parameter("lm_head.weight")
        head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(5)), alpha=noise)
    return save(folder, model, byte_level_tokenizer())


def packed(folder: Path) -> PackedModel:
    return PackedModel(load_target(folder, dtype="float32", attn_implementation=register()).model)
