"""llama.cpp by the C interface that llama-cpp-python wraps, with its own settings but for threads and sizes."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.benchmarks.peers.engines import Stopwatch, TimedForward

_ROOM = 64
"""Tokens that a session may grow by."""


_ERROR = 4
"""Level of its log, from which on it is told."""


def _only_errors(level: int, text: bytes, _user: object) -> None:
    if level == _ERROR:
        sys.stderr.write(text.decode("utf-8", "replace"))


class LlamaCpp:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: str, longest: int, threads: int = 1) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._log = llama_cpp.llama_log_callback(_only_errors)
        llama_cpp.llama_log_set(self._log, None)
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._longest, self._threads = longest, threads
        self._reader = self._context(longest, 1)
        self._texts: list[list[int]] = []
        self._length = 0
        self._held: dict[int, Any] = {}

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`. A single session and many have contexts of their own: one pays for no other's room."""
        self._texts, self._length = [list(text) for text in texts], length
        for sessions in {1, len(texts)}:
            context = self._context(length + _ROOM, sessions)
            for session, text in enumerate(texts[:sessions]):
                self._decode(context, [(session, text[:length])], 0, 0)
            self._held[sessions] = context

    def forward(self, sessions: int, rows: int) -> TimedForward:
        """See `Engine`."""
        context = self._held[sessions]
        later = slice(self._length, self._length + rows)
        given = [(session, text[later]) for session, text in enumerate(self._texts[:sessions])]
        answer = self._decode(context, given, self._length, rows)
        memory = self._lib.llama_get_memory(context)
        for session in range(sessions):
            if not self._lib.llama_memory_seq_rm(memory, session, self._length, -1):
                raise RuntimeError("llama.cpp does not take tokens back")
        return answer

    def read(self, ids: Sequence[int], rows: int) -> TimedForward:
        """See `Engine`."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._reader), True)
        return self._decode(self._reader, [(0, ids)], 0, rows)

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of all tokens of a text, [tokens, vocabulary]."""
        self.read(ids, len(ids))
        return np.stack([self._row(self._reader, row) for row in range(len(ids))])

    def _context(self, length: int, sessions: int) -> Any:
        settings = self._lib.llama_context_default_params()
        settings.n_ctx = length * sessions
        settings.n_seq_max = sessions
        settings.n_batch = settings.n_ubatch = max(512, self._longest)
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.kv_unified = False
        settings.no_perf = True
        made = self._lib.llama_init_from_model(self._model, settings)
        if not made:
            raise RuntimeError("llama.cpp makes no context")
        return made

    def _decode(
        self, context: Any, given: Sequence[tuple[int, Sequence[int]]], start: int, rows: int
    ) -> TimedForward:
        """A batch; logits for the last `rows` tokens of each session."""
        batch = self._lib.llama_batch_init(sum(len(ids) for _, ids in given), 0, 1)
        at, asked = 0, []
        for session, ids in given:
            for position, token in enumerate(ids):
                wanted = position >= len(ids) - rows
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, start + position, 1
                batch.seq_id[at][0], batch.logits[at] = session, wanted
                asked += [at] * wanted
                at += 1
        batch.n_tokens = at
        watch = Stopwatch()
        code = self._lib.llama_decode(context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        self._lib.llama_synchronize(context)
        best = [self._best(context, row) for row in asked[:1]]
        spent = watch.stop()
        best += [self._best(context, row) for row in asked[1:]]
        self._lib.llama_batch_free(batch)
        return TimedForward(spent, best)

    def _best(self, context: Any, row: int) -> int:
        return int(self._row(context, row).argmax())

    def _row(self, context: Any, row: int) -> npt.NDArray[np.float32]:
        logits = self._lib.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(logits, shape=(self._vocab,))
