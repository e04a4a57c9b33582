"""Runs a draft's graphs as a `DraftRunner`, with numpy's arrays instead of torch's."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from itertools import count, groupby
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError
from flexspec_mq.models.kv import ReadTokens
from flexspec_mq.models.onnx.folder import BACKBONE, EMBEDDING, HEAD, IDS, OnnxManifest, Rotary, read_manifest
from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding

    Floats = npt.NDArray[np.float32]

GRAIN = 64
"""The KV cache's capacity grows in multiples of this many tokens."""
PIECE = 128
"""Tokens of a prompt in one run: its products are as quick as for more, and what it needs for scores stays small."""
_TABLE = 1024
"""Positions by which the table of rotary factors grows."""


def load_onnx(folder: Path, threads: int = 1) -> OnnxModel:
    """Load a draft for the CPU.

    Weights are read from the folder's files once and packed for the processor; the embedding stays in its file.

    Args:
        folder: as `write.write_onnx` makes it.
        threads: threads that a product may take.

    Raises:
        ModelError: the folder is damaged or of another format.
    """
    import onnxruntime

    manifest = read_manifest(folder)
    try:
        sessions = [_session(onnxruntime, folder / name, threads) for name in (BACKBONE, HEAD)]
        embedding = Embedding(folder / EMBEDDING, manifest.width)
        ids = np.load(folder / IDS, allow_pickle=False).astype(np.int64) if IDS in manifest.files else None
    except Exception as error:
        # ONNX Runtime has no base class for its errors: each status of its own derives from Exception.
        if type(error).__module__.split(".")[0] not in {"onnxruntime", "builtins"}:
            raise
        raise _damaged(folder, str(error).strip().split("\n", 1)[0]) from error
    columns = manifest.vocab_size if ids is None else len(ids)
    if manifest.files.get(EMBEDDING) != manifest.vocab_size * manifest.width * 2:
        raise _damaged(
            folder, f"{EMBEDDING} is not of {manifest.vocab_size} rows of {manifest.width} numbers"
        )
    if columns != manifest.columns or sessions[1].get_outputs()[0].shape[-1] != columns:
        raise _damaged(folder, f"{IDS} has {columns} ids, which is not what {HEAD} has")
    return OnnxModel(manifest, sessions[0], sessions[1], embedding, ids)


def _session(onnxruntime: Any, path: Path, threads: int) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # What a long prompt took goes back to the system behind it.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # A thread that waits for the next token turning round would take the core from the rest of the device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: InferenceSession = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return session


def _damaged(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"cannot load the graphs of {folder}: {why}",
        hint="a file may be damaged or belong to another export: copy the whole folder again",
    )


class KVSlots:
    """KV caches of all sessions of a draft, each in a slot, so that neighbours can share a run.

    The array is float32 [layers, 2, slots, kv heads, capacity, head size]. The graph writes behind what is held, into
    the array itself. Pages that nobody has written take no room.

    Args:
        shape: layers, heads of keys, width of a head.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._layers, self._heads, self._size = shape
        self._held: dict[int, weakref.ref[OnnxKV]] = {}
        self._pages, self.array = self._allocate(1, GRAIN)

    @property
    def _capacity(self) -> int:
        return int(self.array.shape[4])

    def take(self, kv: OnnxKV) -> int:
        """The lowest slot that is free, until `kv` is."""
        slot = next(slot for slot in count() if slot not in self._held)
        if slot >= self.array.shape[2]:
            self._grow(2 * slot, self._capacity)
        self._held[slot] = weakref.ref(kv)
        weakref.finalize(kv, self._give_back, slot).atexit = False
        return slot

    def reserve(self, length: int) -> None:
        """Make room for texts of `length` tokens."""
        if length > self._capacity:
            wanted = -(-length // GRAIN) * GRAIN
            usual = min(2 * self._capacity, self._capacity + 512)
            self._grow(self.array.shape[2], max(wanted, usual))

    def _grow(self, slots: int, capacity: int) -> None:
        pages, grown = self._allocate(slots, capacity)
        for slot, reference in self._held.items():
            if (kv := reference()) is not None:
                grown[:, :, slot, :, : kv.length] = self.array[:, :, slot, :, : kv.length]
        self._pages, self.array = pages, grown

    def _allocate(self, slots: int, capacity: int) -> tuple[mmap, Floats]:
        shape = (self._layers, 2, slots, self._heads, capacity, self._size)
        pages = mmap(-1, 4 * math.prod(shape), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        return pages, np.frombuffer(pages, dtype=np.float32).reshape(shape)

    def _give_back(self, slot: int) -> None:
        """Free a slot, and give its pages back to the system."""
        bytes_ = self.array[0, 0, 0].nbytes
        for part in range(2 * self._layers):
            begin = (part * self.array.shape[2] + slot) * bytes_
            if not begin % PAGESIZE:
                self._pages.madvise(MADV_DONTNEED, begin, bytes_)
        del self._held[slot]


class OnnxKV(ReadTokens):
    """KV cache of the tokens that a draft has read in one session.

    Memory beyond `length` is never read, so rolling back is forgetting tokens.

    Attributes:
        slot: place in the memory.
        capacity: tokens that take room there.
    """

    def __init__(self, memory: KVSlots) -> None:
        super().__init__()
        self.capacity = 0
        self.slot = memory.take(self)


class Embedding:
    """Rows of a file of bfloat16, read as they are looked up.

    Mapped into memory instead, each row would bring its whole neighbourhood along: 40 MB after a short text.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._width = width

    def rows(self, tokens: Sequence[int]) -> Floats:
        """Rows of some tokens, float32 [tokens, width]."""
        size = 2 * self._width
        read = b"".join(os.pread(self._file, size, token * size) for token in tokens)
        halves = np.frombuffer(read, dtype=np.uint16)
        array: Floats = (halves.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(-1, self._width)


class OnnxModel:
    """A draft's backbone, from embeddings to the last hidden state, and its LM head, apart from it.

    Sessions that read one token each share a run where their slots are neighbours: eight of them take little more than
    twice as long as one. Others are read one behind the other. The KV cache is float32, and rows of logits may
    differ by rounding with the pieces that a text was read in and with what shares a run.

    Attributes:
        manifest: sizes, and the kind of the weights.
        ids: token id of each column of the logits, ascending; None when they are all ids.
    """

    def __init__(
        self,
        manifest: OnnxManifest,
        backbone: InferenceSession,
        head: InferenceSession,
        embedding: Embedding,
        ids: npt.NDArray[np.int64] | None,
    ) -> None:
        self.manifest = manifest
        self.ids = ids
        self._backbone = backbone
        self._head = head
        self._embedding = embedding
        self._names = [
            (f"{part}.{layer}", f"{part}.{layer}.out") for layer in range(manifest.layers) for part in "kv"
        ]
        self._memory = KVSlots((manifest.layers, manifest.keys, manifest.head))
        self._bindings: dict[tuple[int, int], tuple[Floats, IOBinding]] = {}
        self._positions = 0
        self._turns: dict[str, Floats] = {}

    @property
    def columns(self) -> int:
        """Width of the logits."""
        return self.manifest.columns

    def new_kv(self) -> OnnxKV:
        """Empty KV cache for a new session."""
        return OnnxKV(self._memory)

    def forward(self, inputs: Sequence[ModelInput[OnnxKV]]) -> Floats:
        """Read the tokens of all inputs, as `DraftRunner` says; `ids` are the columns."""
        together = self._together([each for each in inputs if len(each.tokens) == 1])
        states = [
            state
            for each in inputs
            if (state := together.get(each.kv.slot) if len(each.tokens) == 1 else self.states(each))
            is not None
            and each.rows
        ]
        if not states:
            return np.empty((0, self.columns), dtype=np.float32)
        return self.logits(states[0] if len(states) == 1 else np.concatenate(states))

    def _together(self, inputs: Sequence[ModelInput[OnnxKV]]) -> dict[int, Floats]:
        """Read one token of each input; the hidden state, [1, width], by slot."""
        found: dict[int, Floats] = {}
        ordered = sorted(inputs, key=lambda each: each.kv.slot)
        # The distance to the place in the order is the same for neighbours.
        for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1].kv.slot - pair[0]):
            neighbours = [each for _, each in run]
            kvs = [each.kv for each in neighbours]
            read = self._read(kvs, [token for each in neighbours for token in each.tokens])
            for each, state in zip(neighbours, read, strict=True):
                each.kv.tokens += each.tokens
                found[each.kv.slot] = state
        return found

    def states(self, model_input: ModelInput[OnnxKV]) -> Floats | None:
        """Read the tokens of one input.

        Returns:
            The last hidden state, normed, of its last `rows` tokens: float32 [rows, width]; None for no rows.
        """
        tokens, kv = model_input.tokens, model_input.kv
        state = None
        kept: list[Floats] = []
        for begin in range(0, len(tokens), PIECE):
            piece = tokens[begin : begin + PIECE]
            state = self._read([kv], piece)[0]
            kv.tokens += piece
            if model_input.rows > len(tokens) - begin - len(piece):
                kept.append(state)
        if state is None or not model_input.rows:
            return None
        return (state if len(kept) == 1 else np.concatenate(kept))[-model_input.rows :]

    def logits(self, states: Floats) -> Floats:
        """From last hidden states [rows, width] to logits [rows, columns]."""
        array: Floats = self._head.run(None, {"state": states})[0]
        return array

    def _read(self, kvs: Sequence[OnnxKV], tokens: Sequence[int]) -> Floats:
        """Keys and values of tokens behind those that are held, and their last hidden state.

        Args:
            kvs: KV cache of one session, or those of some in neighbouring slots.
            tokens: ids of the one, or one id of each.

        Returns:
            float32 [sessions, tokens of each, width].
        """
        each = len(tokens) // len(kvs)
        lengths = [kv.length + each for kv in kvs]
        total = max(lengths)
        if total > self._positions:
            self._positions = -(-total // _TABLE) * _TABLE
            self._turns = _turns(self.manifest.rotary, self._positions)
        self._memory.reserve(total)
        for kv, length in zip(kvs, lengths, strict=True):
            kv.capacity = max(kv.capacity, -(-length // GRAIN) * GRAIN)
        sizes = (len(kvs), each, self.manifest.width)
        embedded = self._embedding.rows(tokens).reshape(sizes) * np.float32(self.manifest.embedding_scale)
        state = np.empty(sizes, dtype=np.float32)
        binding = self._binding(kvs[0].slot, kvs[-1].slot + 1)
        # These arrays outlive the run, which reads and writes them where they are.
        last, longest = np.array(lengths, dtype=np.int32) - 1, np.array(total, dtype=np.int32)
        binding.bind_cpu_input("embedded", embedded)
        binding.bind_cpu_input("last", last)
        binding.bind_cpu_input("total", longest)
        for name, table in self._turns.items():
            binding.bind_cpu_input(name, table)
        binding.bind_output("state", "cpu", 0, np.float32, state.shape, state.ctypes.data)
        self._backbone.run_with_iobinding(binding)
        return state

    def _binding(self, begin: int, end: int) -> IOBinding:
        """A binding whose keys and values are read from, and written to, some slots of the memory."""
        memory = self._memory.array
        known = self._bindings.get((begin, end))
        if known is not None and known[0] is memory:
            return known[1]
        binding = self._backbone.io_binding()
        views = (layer[part, begin:end] for layer in memory for part in (0, 1))
        for (name, out), view in zip(self._names, views, strict=True):
            binding.bind_cpu_input(name, view)
            binding.bind_output(out, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        # Those of an earlier memory would keep it.
        self._bindings = {span: held for span, held in self._bindings.items() if held[0] is memory}
        self._bindings[begin, end] = memory, binding
        return binding


def _turns(kinds: Sequence[Rotary], positions: int) -> dict[str, Floats]:
    """Cosines and sines of each kind of rotary positions, by the names of the backbone's inputs."""
    found = {}
    for index, rotary in enumerate(kinds):
        angles = np.arange(positions, dtype=np.float64)[:, None] * np.array(rotary.speeds)
        found[f"cosines.{index}"] = (np.cos(angles) * rotary.scale).astype(np.float32)
        found[f"sines.{index}"] = (np.sin(angles) * rotary.scale).astype(np.float32)
    return found
