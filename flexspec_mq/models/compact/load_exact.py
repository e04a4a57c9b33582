"""From a checkpoint folder to a target that verifies: what this machine's kernels need, then one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flexspec_mq.errors import UsageError
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.compact import few_bits
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.compact.tensors import (
    EMBEDDING,
    HEAD,
    MATRICES,
    NORM,
    check_names,
    joining_room,
    layer_prefix,
    read_exact_layer,
)
from flexspec_mq.models.head import full_name, module_shapes
from flexspec_mq.models.invariance.product_probe import Kind, Products, row_range, same_bits
from flexspec_mq.models.invariance.proof_cache import Candidate
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.matrices import Matrix, Plain, Reordered
from flexspec_mq.models.shape import Shape, refused
from flexspec_mq.models.weights import WEIGHTS as WEIGHTS_FILE
from flexspec_mq.models.weights import Tensors

if TYPE_CHECKING:
    from flexspec_mq.models.load import LoadedText

    Prepare = Callable[[torch.Tensor, torch.Tensor | None], Matrix]

CPU = torch.device("cpu")
WEIGHTS = ("native", "int8", "int4")
"""Kinds of a target's weights; ``native`` is as the dtype says, ``int4`` has 4 bits in MLPs and 8 elsewhere."""


class Checkpoint:
    """A folder whose model this engine can run, its weights not yet read.

    Args:
        folder: an ordinary checkpoint, config.json and safetensors.
        text: configuration and tokenizer.
        dtype: dtype that it is computed in.
        weights: kind of the weights, one of `WEIGHTS`. In few bits it is another target, with texts of its own.
        device: device that it is computed on; few bits are for a CPU.

    Raises:
        UnknownModel: a model that is not built like Llama.
        ModelError: damaged weights.
    """

    def __init__(
        self,
        folder: Path,
        text: LoadedText,
        dtype: torch.dtype,
        weights: str = "native",
        device: torch.device = CPU,
    ) -> None:
        self.shape = Shape.from_config(text.config)
        self.dtype = dtype
        self.weights = weights
        self.device = device
        if weights != "native":
            _check_few_bits(weights, dtype, device)
        present = any((folder / name).exists() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json"))
        if not present and any(folder.glob("*.bin")):
            raise refused(f"weights in another form than {WEIGHTS_FILE}")
        self._tensors = Tensors(folder)
        check_names(self._tensors, self.shape)

    def candidate(self) -> Candidate:
        """The model, to be proved."""
        library = "" if self.weights == "native" else f" openvino {metadata.version('openvino')}"
        return Candidate(
            build=self.load,
            weights=self._tensors.fingerprint(),
            architecture=f"{self.shape} {self.dtype} {self.weights}{library}",
            device=self.device,
        )

    def load(self, shapes: Shapes | None = None) -> ExactModel:
        """Read the weights.

        Args:
            shapes: shapes of products; by default what this machine needs.

        Raises:
            ModelError: a tensor is missing, of another shape, or unreadable.
        """
        shape, tensors, dtype = self.shape, self._tensors, self.dtype
        like = torch.empty(0, dtype=dtype, device=self.device)
        kinds = self._kinds()
        reordered = False
        if self.weights == "native" and self.device == CPU:
            reordered = _may_reorder(kinds, like) if shapes is None else shapes.reordered
        prepare = self._prepare(reordered=reordered)
        products = Products(kinds, prepare)
        shapes = shapes or Shapes.for_products(products, like, shape.head, reordered=reordered)

        def make(weight: torch.Tensor, bias: torch.Tensor | None) -> Matrix:
            return prepare(weight.to(like), None if bias is None else bias.to(like))

        whole = (shape.vocab_size, shape.width)
        # First, while there is little else: its pages are in memory beside what is made of them. And a mapping of its
        # own, though it be the embedding: these pages go with it.
        last = tensors.read(EMBEDDING if shape.tied else HEAD, whole)
        # Plain weights are multiplied where they lie, and a file's pages begin at any byte of a line.
        lm_head = make(last.to(like, copy=prepare is Plain), None)
        del last
        room = None if prepare is Plain else joining_room(shape, like)
        layers = [read_exact_layer(tensors, index, shape, make, like, room) for index in range(shape.layers)]
        # On a CPU only the rows of the embedding's mapping that are looked up take room.
        embedding = tensors.read(EMBEDDING, whole).to(like)
        norm = tensors.read(NORM, (shape.width,)).to(like, copy=True)

        return ExactModel(
            shape, layers, embedding, norm, lm_head, products, shapes, make, self._tensors.names
        )

    def _prepare(self, *, reordered: bool) -> Prepare:
        if self.weights == "native":
            return Reordered if reordered else Plain
        sizes = module_shapes(self.shape)
        outputs, width = sizes["gate"]
        four = {(2 * outputs, width), sizes["down"]} if self.weights == "int4" else set()
        return lambda weight, bias: few_bits.FewBits(4 if tuple(weight.shape) in four else 8, weight, bias)

    def _kinds(self) -> tuple[Kind, ...]:
        sizes = module_shapes(self.shape)
        kinds = {
            (
                sizes[parts[0]][1],
                sum(sizes[part][0] for part in parts),
                any(f"{layer_prefix(0)}{full_name(part)}.bias" in self._tensors for part in parts),
            )
            for parts in MATRICES.values()
        }
        return tuple(sorted({*kinds, (self.shape.width, self.shape.vocab_size, False)}))


def _check_few_bits(weights: str, dtype: torch.dtype, device: torch.device) -> None:
    if device != CPU:
        raise UsageError(f"{weights} weights are for a CPU, not for {device}", hint="--weights native")
    if dtype != torch.bfloat16:
        raise UsageError(
            f"{weights} weights are multiplied in bfloat16, not in {dtype}", hint="--dtype bfloat16"
        )
    need_libraries(f"{weights} weights, which OpenVINO multiplies by,", "few-bits", ("openvino",))


def _may_reorder(kinds: tuple[Kind, ...], like: torch.Tensor) -> bool:
    """Whether reordered weights give the bits of plain ones, for all numbers of rows that both are right for."""
    plain, reordered = Products(kinds, Plain), Products(kinds, Reordered)
    try:
        ranges = [row_range(products, like) for products in (plain, reordered)]
        known = [pair for pair in ranges if pair is not None]
        if len(known) < 2:
            return False
        most = min((end for _, end in known if end is not None), default=None)
        return same_bits(plain, reordered, like, max(first for first, _ in known), most)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # another processor, or a torch without oneDNN
