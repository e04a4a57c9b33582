"""Forwards for many sessions of different lengths, through the model's own transformers code, without heads."""

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from flexspec_mq.errors import ModelError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.head import Head
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.lora_bank import LoraBank
from flexspec_mq.models.invariance.product_probe import Products
from flexspec_mq.models.invariance.proof_cache import Candidate, digest
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.invariance.target import RowBatch, TargetModel
from flexspec_mq.models.matrices import Plain

IMPLEMENTATION = "flexspec_packed"


class PackedModel(TargetModel):
    """A `TargetModel` of transformers' own modules.

    The model must have been loaded with the attention implementation that `register` names.

    Attributes:
        model: a model as transformers loads it; from now on its linear layers multiply as `shapes` says.
    """

    def __init__(self, model: PreTrainedModel, shapes: Shapes | None = None) -> None:
        """Wrap a loaded model.

        Args:
            model: from transformers, in evaluation mode.
            shapes: padding that keeps kernels the same; by default what the model's products need on this machine.

        Raises:
            ModelError: the model's attention cannot be packed.
        """
        config = model.config.get_text_config()
        if config._attn_implementation != IMPLEMENTATION:  # noqa: SLF001  transformers has no public name for it
            raise ModelError(f"the model was loaded with attention {config._attn_implementation!r}")  # noqa: SLF001
        if not hasattr(config, "num_attention_heads"):
            raise ModelError(
                f"{type(model).__name__} has no attention heads", hint="only attention models can be packed"
            )
        like = torch.empty(0, dtype=model.dtype, device=model.device)
        queries = int(config.num_attention_heads)
        heads = Heads(
            queries,
            int(getattr(config, "num_key_value_heads", None) or queries),
            int(getattr(config, "head_dim", None) or config.hidden_size // queries),
        )
        products = Products.of_linear_layers(model)
        shapes = shapes or Shapes.for_products(products, like, heads.size)
        layers, vocab_size = int(config.num_hidden_layers), int(config.vocab_size)
        super().__init__(layers, vocab_size, heads, products, shapes, like, Plain)
        self.model = model
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.forward = partial(self._multiply, module)  # type: ignore[method-assign]

    def _logits(self, batch: RowBatch) -> torch.Tensor:
        device = self._like.device
        output = self.model(
            input_ids=torch.tensor([batch.ids], device=device),
            position_ids=torch.tensor([batch.positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(batch.wanted or [0], device=device),
            flexspec=Packed(batch.segments, len(batch.ids), self.heads, self.shapes, self._like),
        )
        return cast("torch.Tensor", output.logits[0])

    def _multiply(self, module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """Multiply [1, rows, width of the input] in products of as many rows as keep their bits."""
        product = partial(functional.linear, weight=module.weight, bias=module.bias)
        return self.shapes.multiply(product, x.flatten(0, -2)).view(*x.shape[:-1], -1)

    def _take(self, name: str, head: Head) -> None:
        del name, head
        raise HeadError(
            "a target that transformers runs holds no heads",
            hint="those of the compact engine do: leave out --engine transformers",
        )

    def _banks(self) -> tuple[LoraBank, ...]:
        return ()


def candidate(network: PreTrainedModel) -> Candidate:
    """A loaded model to be proved.

    Args:
        network: on its device, loaded with the attention that `register` names.
    """
    return Candidate(
        build=partial(PackedModel, network),
        weights=digest(_tensors(network)),
        architecture=f"{type(network).__qualname__} transformers {transformers.__version__} "
        f"{network.config.to_json_string(use_diff=False)}",
        source=Path(inspect.getfile(type(network))),
        device=network.device,
    )


def _tensors(network: torch.nn.Module) -> Iterator[Any]:
    """Name, dtype and shape of each parameter and buffer, and its bytes."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    flexspec: Packed,
    sliding_window: int | None = None,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form that transformers calls.

    Args:
        module: the attention module; gives the layer's index.
        query: [1, heads, rows, head size], after the position embedding.
        key: [1, kv heads, rows, head size].
        value: as key.
        scaling: scaling of the scores; default head size to the power -0.5.
        flexspec: the segments, passed through the model's keyword arguments.
        sliding_window: positions that a query sees, itself included.

    Returns:
        [1, rows, heads, head size], and None for the weights.
    """
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    mixed = flexspec.attend(layer, query[0].transpose(0, 1), torch.cat((key, value)), scale, sliding_window)
    return mixed.view(1, query.shape[2], query.shape[1], query.shape[3]), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Each segment brings its own mask, so the model builds none."""
    return


def register() -> str:
    """Make the implementation known to transformers and return its name."""
    AttentionInterface.register(IMPLEMENTATION, packed_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
    return IMPLEMENTATION
