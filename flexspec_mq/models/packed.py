"""One forward for many sessions of different lengths, through the model's own transformers code."""

from __future__ import annotations

import inspect
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from flexspec_mq.errors import ModelError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.compact.rack import compare_racks
from flexspec_mq.models.heads.head import LM_HEAD, NORM, FullHead, full_name
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.batch import Batch
from flexspec_mq.models.invariance.product_probe import Products
from flexspec_mq.models.invariance.proof_cache import Candidate, digest
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.packed_modules import Current, Linear, Norm, Rows
from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from flexspec_mq.models.heads.head import Delta, Head

IMPLEMENTATION = "flexspec_packed"


class PackedModel:
    """A causal language model that reads several sessions in one forward.

    The model must have been loaded with the attention implementation that `register` names.

    Attributes:
        model: of transformers; from now on its linear layers multiply as `shapes` says.
        vocab_size: width of the logits.
        heads: of its attention.
        products: with weights.
        shapes: of products.
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
        self.model = model
        self.vocab_size = int(config.vocab_size)
        self._layers = int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        self.heads = Heads(
            heads,
            int(getattr(config, "num_key_value_heads", None) or heads),
            int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        )
        self._like = torch.empty(0, dtype=model.dtype, device=model.device)
        self.products = Products.of_linear_layers(model)
        self.shapes = shapes or Shapes.for_products(self.products, self._like, self.heads.size)
        self._held: dict[str, Head] = {}
        self._current = Current(self.shapes)
        self._linears: dict[str, Linear] = {}
        self._norms: dict[str, Norm] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                self._linears[name] = Linear(module, self._current, self._like, last=name == "lm_head")
                module.forward = self._linears[name]  # type: ignore[method-assign, assignment]

    def new_kv(self) -> SessionKV:
        """Empty keys and values for a new session."""
        return SessionKV(self._layers, self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, vocabulary], input by input, on the model's device.

        Raises:
            HeadError: an input names a head that is not held.
        """
        if any(model_input.head for model_input in inputs):
            return self._mixed(inputs)
        batch = Batch.of(inputs, self.shapes)
        logits = self._logits(batch, batch.wanted)
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return logits[: batch.rows].float()

    def _logits(self, batch: Batch, wanted: list[int]) -> torch.Tensor:
        device = self._like.device
        output = self.model(
            input_ids=torch.tensor([batch.ids], device=device),
            position_ids=torch.tensor([batch.positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted or [0], device=device),
            flexspec=Packed(batch.segments, len(batch.ids), self.heads, self.shapes, self._like),
        )
        return cast("torch.Tensor", output.logits[0])

    def _mixed(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """A forward in which some rows have heads: those of one head lie together, those with own layers last."""
        names = ["", *self._held]
        for model_input in inputs:
            if model_input.head not in names:
                self._check(model_input.head)
        own = {name for name, head in self._held.items() if isinstance(head, FullHead)}
        order = sorted(
            range(len(inputs)), key=lambda place: (inputs[place].head in own, names.index(inputs[place].head))
        )
        sorted_inputs = [inputs[place] for place in order]
        counts = [
            len(list(same))
            for _, same in groupby(sorted_inputs, key=lambda one: one.head in own and one.head)
        ]
        batch = Batch.of(sorted_inputs, self.shapes, counts)
        segments = dict(zip(order, batch.segments, strict=True))
        body = [(inputs[place].head, segments[place].start, segments[place].count) for place in order]
        self._current.body = Rows.of(body, own, batch.lanes, self.shapes)
        # The LM head sees wanted rows only, and those that share one lie together.
        last = {name for name, head in self._held.items() if isinstance(head.lm_head, torch.Tensor)}
        ends = sorted(
            (place for place in order if inputs[place].rows),
            key=lambda place: (inputs[place].head in last, names.index(inputs[place].head)),
        )
        wanted: list[int] = []
        lanes: list[slice] = []
        answers: dict[int, range] = {}
        for _, same in groupby(ends, key=lambda place: inputs[place].head in last and inputs[place].head):
            begin = len(wanted)
            for place in same:
                end = segments[place].start + segments[place].count
                answers[place] = range(len(wanted), len(wanted) + inputs[place].rows)
                wanted += range(end - inputs[place].rows, end)
            wanted += wanted[begin : begin + 1] * (
                self.shapes.padded(len(wanted) - begin) - len(wanted) + begin
            )
            lanes.append(slice(begin, len(wanted)))
        tail = [(inputs[place].head, rows.start, len(rows)) for place, rows in answers.items()]
        self._current.last = Rows.of(tail, last, lanes, self.shapes) if tail else None
        try:
            logits = self._logits(batch, wanted)
        finally:
            self._current.body = self._current.last = None
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        kept = [row for place in sorted(answers) for row in answers[place]]
        return logits[torch.tensor(kept, dtype=torch.long, device=logits.device)].float()

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the heads that it holds."""
        return tuple(self._held)

    @torch.inference_mode()
    def hold(self, name: str, head: Head) -> None:
        """Take a head; what is held already keeps its bits.

        Args:
            name: that inputs give.
            head: that was read for this model.

        Raises:
            HeadError: the name is taken, or the model has no such layers.
        """
        if not name or name in self._held:
            raise HeadError(
                f"a head named {name!r} is held already", hint="drop it first, or take another name"
            )
        deltas, tensors = _apart(head)
        modules = dict(self.model.named_modules())
        for path in (*deltas, *(one.rpartition(".")[0] for one in tensors)):
            if path not in modules:
                raise HeadError(f"the model has no {path}", hint="the head was made for another base")
        for path, delta in deltas.items():
            self._linears[path].rack.hold(name, {0: delta})
        for path, same in groupby(sorted(tensors), key=lambda one: one.rpartition(".")[0]):
            weights = {one.rpartition(".")[2]: tensors[one].to(self._like, copy=True) for one in same}
            if path in self._linears:
                self._linears[path].others[name] = (weights["weight"], weights.get("bias"))
                continue
            if path not in self._norms:
                self._norms[path] = Norm(modules[path], self._current)
                modules[path].forward = self._norms[path]
            self._norms[path].hold(name, weights["weight"])
        self._held[name] = head if isinstance(head, FullHead) else head.without_layers()

    @torch.inference_mode()
    def drop(self, name: str) -> None:
        """Forget a head; no session may use it any more.

        Raises:
            HeadError: it is not held.
        """
        self._check(name)
        del self._held[name]
        for linear in self._linears.values():
            linear.others.pop(name, None)
            linear.rack.drop(name)
        for norm in self._norms.values():
            norm.drop(name)

    def compare_head(self, name: str) -> tuple[int, int]:
        """Compare its additions' products at all places, with sums that cancel.

        Returns:
            Rows compared, and rows with other bits.
        """
        self._check(name)
        racks = [linear.rack for linear in self._linears.values()]
        return compare_racks([rack for rack in racks if name in rack.owners], self.shapes)

    def _check(self, name: str) -> None:
        if name not in self._held:
            raise HeadError(f"no head named {name!r} is held", hint="hold it before sessions use it")


def candidate(network: PreTrainedModel) -> Candidate[PackedModel]:
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


def _apart(head: Head) -> tuple[dict[str, Delta], dict[str, torch.Tensor]]:
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
        scaling: of the scores; default head size to the power -0.5.
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
