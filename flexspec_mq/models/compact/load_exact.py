"""From a checkpoint folder to a target that verifies: what this machine's kernels need, then one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.errors import UsageError
from flexspec_mq.models.cache import Progress, models_cache
from flexspec_mq.models.compact.exact import Embed, ExactModel
from flexspec_mq.models.compact.int8_file import VERSION as INT8_VERSION
from flexspec_mq.models.compact.int8_file import int8_file
from flexspec_mq.models.compact.integers import Integers, check_integers
from flexspec_mq.models.compact.tensors import (
    EMBEDDING,
    HEAD,
    MATRICES,
    NORM,
    Source,
    check_names,
    has_bias,
    joining_room,
    read_exact_layer,
)
from flexspec_mq.models.gguf.convert import gguf_folder, gguf_tensors
from flexspec_mq.models.head import module_shapes
from flexspec_mq.models.invariance.product_probe import Kind, Products, row_range, same_bits
from flexspec_mq.models.invariance.proof_cache import Candidate
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.matrices import Matrix, Plain, Reordered
from flexspec_mq.models.shape import Shape, refused
from flexspec_mq.models.weights import WEIGHTS as WEIGHTS_FILE
from flexspec_mq.models.weights import Tensors

if TYPE_CHECKING:
    from flexspec_mq.models.load import LoadedText

CPU = torch.device("cpu")
WEIGHTS = ("native", "int8")
"""Kinds of a target's weights; ``native`` is as the dtype says."""


class Checkpoint:
    """A model that this engine can run, its weights not yet read.

    Args:
        source: an ordinary checkpoint folder, config.json and safetensors; or, for weights in few bits, a GGUF file.
        text: configuration and tokenizer.
        dtype: dtype that it is computed in.
        weights: kind of the weights, one of `WEIGHTS`. In few bits it is another target, with texts of its own.
        device: device that it is computed on; few bits are for a CPU.
        say: told, in a few words, what takes longer than a second.

    Raises:
        UnknownModel: a model that is not built like Llama.
        ModelError: damaged weights, or a processor that cannot compute with few bits.
    """

    def __init__(
        self,
        source: Path,
        text: LoadedText,
        dtype: torch.dtype,
        weights: str = "native",
        device: torch.device = CPU,
        say: Progress = lambda _: None,
    ) -> None:
        self.shape = Shape.from_config(text.config)
        self.dtype = dtype
        self.weights = weights
        self.device = device
        self._source = source
        if weights != "native":
            check_few_bits(dtype, device)
        if source.is_file():
            read: Callable[[], Source] = partial(gguf_tensors, source)
            place = partial(gguf_folder, source, version=INT8_VERSION)
        else:
            present = any((source / name).exists() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json"))
            if not present and any(source.glob("*.bin")):
                raise refused(f"weights in another form than {WEIGHTS_FILE}")
            self._tensors = Tensors(source)
            check_names(self._tensors, self.shape)
            self._fingerprint = self._tensors.fingerprint()
            if weights == "native":
                return
            read = partial(Tensors, source)
            place = partial(_int8_folder, self._fingerprint)
        self._int8 = int8_file(read, self.shape, lambda order: place(f"-int8-{order}"), text.name, say)
        self._fingerprint = self._int8.folder.name

    def candidate(self) -> Candidate:
        """The model, to be proved."""
        return Candidate(
            build=self.load,
            weights=self._fingerprint,
            architecture=f"{self.shape} {self.dtype} {self.weights}",
            device=self.device,
            kind=self.weights,
        )

    def load(self, shapes: Shapes | None = None) -> ExactModel:
        """Read the weights.

        Args:
            shapes: shapes of products; by default what this machine needs.

        Raises:
            ModelError: a tensor is missing, of another shape, or unreadable.
        """
        if self.weights == "native":
            return self._native(shapes)
        shape, file, like = self.shape, self._int8, torch.empty(0, dtype=self.dtype)
        states = like.float()
        kinds = self._kinds(lambda matrix, _: file.has_bias(matrix))
        products = Products(kinds, Integers.rounded)
        shapes = shapes or Shapes.for_products(products, like, shape.head)
        layers, norm, lm_head = file.read(states)
        if file.embedding is None:
            lookup = self._embedding(self._tensors, torch.empty(0, dtype=torch.bfloat16))
        else:
            rows = file.embedding.reader(self._source)

            def lookup(ids: list[int]) -> torch.Tensor:
                return torch.from_numpy(rows(ids))

        return ExactModel(
            shape, layers, lambda ids: lookup(ids).float(), norm, lm_head, products, shapes,
            Integers.rounded, file.names, like,
        )  # fmt: skip

    def _native(self, shapes: Shapes | None) -> ExactModel:
        shape, tensors = self.shape, self._tensors
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        kinds = self._kinds(lambda _, parts: has_bias(tensors, 0, parts))
        reordered = False
        if self.device == CPU:
            reordered = _may_reorder(kinds, like) if shapes is None else shapes.reordered
        prepare = Reordered if reordered else Plain
        products = Products(kinds, prepare)
        shapes = shapes or Shapes.for_products(products, like, shape.head, reordered=reordered)

        def make(weight: torch.Tensor, bias: torch.Tensor | None) -> Matrix:
            return prepare(weight.to(like), None if bias is None else bias.to(like))

        # First, while there is little else: its pages are in memory beside what is made of them. And a mapping of its
        # own, though it be the embedding: these pages go with it.
        last = tensors.read(EMBEDDING if shape.tied else HEAD, (shape.vocab_size, shape.width))
        # Plain weights are multiplied where they lie, and a file's pages begin at any byte of a line.
        lm_head = make(last.to(like, copy=prepare is Plain), None)
        del last
        room = None if prepare is Plain else joining_room(shape, like)
        layers = [read_exact_layer(tensors, index, shape, make, like, room) for index in range(shape.layers)]
        embed = self._embedding(tensors, like)
        norm = tensors.read(NORM, (shape.width,)).to(like, copy=True)
        return ExactModel(shape, layers, embed, norm, lm_head, products, shapes, make, tensors.names)

    def _embedding(self, tensors: Tensors, like: torch.Tensor) -> Embed:
        """Look up rows; on a CPU only those of the mapping that are looked up take room."""
        table = tensors.read(EMBEDDING, (self.shape.vocab_size, self.shape.width)).to(like)
        return lambda ids: functional.embedding(torch.tensor(ids, device=like.device), table)

    def _kinds(self, biased: Callable[[str, tuple[str, ...]], bool]) -> tuple[Kind, ...]:
        sizes = module_shapes(self.shape)
        kinds = {
            (sizes[parts[0]][1], sum(sizes[part][0] for part in parts), biased(matrix, parts))
            for matrix, parts in MATRICES.items()
        }
        return tuple(sorted({*kinds, (self.shape.width, self.shape.vocab_size, False)}))


def _int8_folder(fingerprint: str, kind: str) -> Path:
    return models_cache() / f"{fingerprint}{kind}-c{INT8_VERSION}"


def check_few_bits(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what cannot be computed in 8-bit integers.

    Raises:
        UsageError: another device than a CPU, or another dtype than bfloat16.
        ModelError: a processor that cannot.
    """
    if device != CPU:
        raise UsageError(f"int8 weights are for a CPU, not for {device}", hint="--weights native")
    if dtype != torch.bfloat16:
        raise UsageError(f"beside int8 weights all is bfloat16, not {dtype}", hint="--dtype bfloat16")
    check_integers()


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
