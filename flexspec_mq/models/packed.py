"""Forwards for many sessions of different lengths, through the model's own transformers code.

`Linear` and `Norm` take the places of its modules whose rows may have heads.
"""

from __future__ import annotations

import inspect
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from flexspec_mq.errors import ModelError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.head import LM_HEAD, NORM, FullHead, full_name
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.lora_bank import LoraBank
from flexspec_mq.models.invariance.product_probe import Products
from flexspec_mq.models.invariance.proof_cache import Candidate, digest
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.invariance.target import TargetModel, joined
from flexspec_mq.models.matrices import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    from flexspec_mq.models.head import Head, LoraDelta
    from flexspec_mq.models.invariance.target import RowBatch, Rows

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
        self._current = Current(self.shapes)
        self._linears: dict[str, Linear] = {}
        self._norms: dict[str, Norm] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                self._linears[name] = Linear(module, self._current, self._like, last=name == "lm_head")
                module.forward = self._linears[name]  # type: ignore[method-assign, assignment]

    def _logits(self, batch: RowBatch) -> torch.Tensor:
        device = self._like.device
        self._current.body, self._current.last = batch.body, batch.last
        try:
            output = self.model(
                input_ids=torch.tensor([batch.ids], device=device),
                position_ids=torch.tensor([batch.positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(batch.wanted or [0], device=device),
                flexspec=Packed(batch.segments, len(batch.ids), self.heads, self.shapes, self._like),
            )
        finally:
            self._current.body = self._current.last = None
        return cast("torch.Tensor", output.logits[0])

    def _take(self, name: str, head: Head) -> None:
        deltas, tensors = _apart(head)
        modules = dict(self.model.named_modules())
        for path in (*deltas, *(path.rpartition(".")[0] for path in tensors)):
            if path not in modules:
                raise HeadError(f"the model has no {path}", hint="the head was made for another base")
        for path, delta in deltas.items():
            self._linears[path].bank.hold(name, {0: delta})
        for path, same in groupby(sorted(tensors), key=lambda path: path.rpartition(".")[0]):
            weights = {each.rpartition(".")[2]: tensors[each].to(self._like, copy=True) for each in same}
            if path in self._linears:
                self._linears[path].others[name] = (weights["weight"], weights.get("bias"))
                continue
            if path not in self._norms:
                self._norms[path] = Norm(modules[path], self._current)
                modules[path].forward = self._norms[path]
            self._norms[path].hold(name, weights["weight"])

    def _banks(self) -> Iterator[LoraBank]:
        return (linear.bank for linear in self._linears.values())

    def _forget(self, name: str) -> None:
        super()._forget(name)
        for linear in self._linears.values():
            linear.others.pop(name, None)
        for norm in self._norms.values():
            norm.drop(name)


@dataclass(slots=True)
class Current:
    """The forward that is being computed.

    Attributes:
        shapes: shapes of products.
        body: whose its rows are; None where all are the base's.
        last: the same of the rows that the LM head sees.
    """

    shapes: Shapes
    body: Rows | None = None
    last: Rows | None = None


class Linear:
    """A linear layer in products of as many rows as keep their bits, with what heads add or put in its place.

    Attributes:
        bank: low-rank additions of heads.
        others: weights and biases of heads that have their own.
    """

    def __init__(self, module: torch.nn.Linear, current: Current, like: torch.Tensor, *, last: bool) -> None:
        self._module = module
        self._current = current
        self._last = last
        self.bank = LoraBank(module.in_features, (module.out_features,), Plain, like)
        self.others: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[1, rows, width of the input] → [1, rows, width of the output]."""
        flat = x.flatten(0, -2)
        rows = self._current.last if self._last else self._current.body
        if rows is None:
            return self._multiply(flat, "").view(*x.shape[:-1], -1)
        out = joined([self._multiply(flat[lane], name) for lane, name in rows.lanes])
        if rows.owners is not None:
            self.bank.add(out, flat, rows.owners)
        return out.view(*x.shape[:-1], -1)

    def _multiply(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.others.get(name, (self._module.weight, self._module.bias))
        return self._current.shapes.multiply(lambda piece: functional.linear(piece, weight, bias), x)


class Norm:
    """A norm whose weights are other ones for some heads' rows."""

    def __init__(self, module: torch.nn.Module, current: Current) -> None:
        self._base: Callable[[torch.Tensor], torch.Tensor] = module.forward
        self._module = module
        self._current = current
        self._others: dict[str, torch.nn.Module] = {}

    def hold(self, name: str, weight: torch.Tensor) -> None:
        """Take a head's weights."""
        other = copy(self._module)
        other.__dict__.pop("forward", None)
        other._parameters = dict(self._module._parameters)  # noqa: SLF001  a copy shares its module's
        other.weight = torch.nn.Parameter(weight, requires_grad=False)
        self._others[name] = other

    def drop(self, name: str) -> None:
        """Forget a head; it need not be known."""
        self._others.pop(name, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[1, rows, …] → the same shape."""
        rows = self._current.body
        if rows is None or not any(name in self._others for _, name in rows.spans):
            return self._base(x)
        parts = [self._others.get(name, self._base)(x[:, span]) for span, name in rows.spans]
        return torch.cat(parts, dim=1)


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


def _apart(head: Head) -> tuple[dict[str, LoraDelta], dict[str, torch.Tensor]]:
    """Additions by the path of their matrix, and whole tensors by name."""
    if isinstance(head, FullHead):
        return {}, dict(head.tensors)
    deltas = {
        f"model.layers.{index}.{full_name(module)}": delta
        for index, modules in head.layers.items()
        for module, delta in modules.items()
    }
    tensors = {} if head.norm is None else {NORM: head.norm}
    if isinstance(head.lm_head, torch.Tensor):
        tensors[LM_HEAD] = head.lm_head
    elif head.lm_head is not None:
        deltas["lm_head"] = head.lm_head
    return deltas, tensors


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
