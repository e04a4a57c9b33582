"""Runs a draft's graphs with the interface of `CompactModel`, numpy's arrays instead of torch's."""

from __future__ import annotations

import os
import weakref
from mmap import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.onnx.folder import BACKBONE, EMBEDDING, HEAD, IDS, read_manifest
from flexspec_mq.models.read_tokens import ReadTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from onnxruntime import InferenceSession, IOBinding

    from flexspec_mq.models.onnx.folder import OnnxManifest, Rotary
    from flexspec_mq.models.runner import ModelInput

    Floats = npt.NDArray[np.float32]

GRAIN = 64
"""Capacity of keys and values grows in multiples of this many tokens."""
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
        ModelError: ONNX Runtime is not installed, or the folder is damaged or of another format.
    """
    manifest = read_manifest(folder)
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"running the graphs of {folder} needs onnxruntime", hint=f"install it, {how_to_install('edge')}"
        ) from error
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


class OnnxKV(ReadTokens):
    """Keys and values of the tokens that a draft has read in one session.

    Memory is one array of shape [layers, 2, kv heads, capacity, head size]; the graph writes behind what is held,
    into the array itself. Memory beyond `length` is never read, so rolling back is forgetting tokens.

    Args:
        shape: layers, heads of keys, width of a head.
        bind: makes a binding of the backbone to such a memory.
    """

    def __init__(self, shape: tuple[int, int, int], bind: Callable[[Floats], IOBinding]) -> None:
        super().__init__()
        self._shape = shape
        self._bind = bind
        self._memory: Floats | None = None
        self._binding: IOBinding | None = None

    @property
    def capacity(self) -> int:
        """Tokens that the memory has room for."""
        return 0 if self._memory is None else self._memory.shape[3]

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        layers, heads, size = self._shape
        return layers * 2 * heads * size * 4

    def binding(self, length: int) -> IOBinding:
        """A binding to memory that has room for `length` tokens, those that are held included."""
        if self._binding is None or length > self.capacity:
            self._grow(length)
        assert self._binding is not None  # noqa: S101  for mypy: `_grow` has set it
        return self._binding

    def _grow(self, length: int) -> None:
        layers, heads, size = self._shape
        wanted = -(-length // GRAIN) * GRAIN
        capacity = max(wanted, min(2 * self.capacity, self.capacity + 512))
        # Pages of its own, which go back to the system when nobody holds them.
        pages = mmap(-1, capacity * self.token_bytes)
        grown = np.frombuffer(pages, dtype=np.float32).reshape((layers, 2, heads, capacity, size))
        if self._memory is not None:
            grown[:, :, :, : self.length] = self._memory[:, :, :, : self.length]
        self._memory = grown
        self._binding = self._bind(grown)


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

    Sessions are read one behind the other: for one that writes, that costs nothing. Keys and values are float32, and
    rows of logits may differ by rounding with the pieces that a text was read in.

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
        self._positions = 0
        self._turns: dict[str, Floats] = {}

    @property
    def columns(self) -> int:
        """Width of the logits."""
        return self.manifest.columns

    def new_kv(self) -> OnnxKV:
        """Empty keys and values for a new session."""
        sizes = self.manifest
        return OnnxKV((sizes.layers, sizes.keys, sizes.head), self._bind)

    def forward(self, inputs: Sequence[ModelInput[OnnxKV]]) -> Floats:
        """Read the tokens of all inputs, as `DraftRunner` says; `ids` are the columns."""
        states = [state for each in inputs if (state := self.states(each)) is not None]
        if not states:
            return np.empty((0, self.columns), dtype=np.float32)
        return self.logits(states[0] if len(states) == 1 else np.concatenate(states))

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
            state = self._read(kv, piece)
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

    def _read(self, kv: OnnxKV, tokens: Sequence[int]) -> Floats:
        """Keys and values of some tokens behind those that are held, and their last hidden state [tokens, width]."""
        count, total = len(tokens), kv.length + len(tokens)
        if total > self._positions:
            self._positions = -(-total // _TABLE) * _TABLE
            self._turns = _turns(self.manifest.rotary, self._positions)
        embedded = self._embedding.rows(tokens) * np.float32(self.manifest.embedding_scale)
        state = np.empty((1, count, self.manifest.width), dtype=np.float32)
        binding = kv.binding(total)
        # These arrays outlive the run, which reads and writes them where they are.
        last, length = np.array([total - 1], dtype=np.int32), np.array(total, dtype=np.int32)
        binding.bind_cpu_input("embedded", embedded[None])
        binding.bind_cpu_input("last", last)
        binding.bind_cpu_input("total", length)
        for name, table in self._turns.items():
            binding.bind_cpu_input(name, table)
        binding.bind_output("state", "cpu", 0, np.float32, state.shape, state.ctypes.data)
        self._backbone.run_with_iobinding(binding)
        array: Floats = state[0]
        return array

    def _bind(self, memory: Floats) -> IOBinding:
        """A binding whose keys and values are read from, and written to, one memory."""
        binding = self._backbone.io_binding()
        views = (layer[part][None] for layer in memory for part in (0, 1))
        for (name, out), view in zip(self._names, views, strict=True):
            binding.bind_cpu_input(name, view)
            binding.bind_output(out, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        return binding


def _turns(kinds: Sequence[Rotary], positions: int) -> dict[str, Floats]:
    """Cosines and sines of each kind of rotary positions, by the names of the backbone's inputs."""
    found = {}
    for index, rotary in enumerate(kinds):
        angles = np.arange(positions, dtype=np.float64)[:, None] * np.array(rotary.speeds)
        found[f"cosines.{index}"] = (np.cos(angles) * rotary.scale).astype(np.float32)
        found[f"sines.{index}"] = (np.sin(angles) * rotary.scale).astype(np.float32)
    return found
