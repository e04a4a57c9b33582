"""Trial of a grammar in a process of its own, which may die: nothing else ends a compile that takes too much.

llguidance's own limits do not hold for all of a compile: forty patterns under ``allOf`` take it hours, three thousand
gigabytes, and five thousand rules that name each other end the process by its stack. So what compiles is tried first by
``python -m flexspec_mq.grammar.trial``, which forks for each grammar, under limits of the system. It takes 15 MB and
60 ms once, and then a millisecond more than the compile.
"""

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple

from flexspec_mq.errors import GrammarError

LIMITS: Final = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 40_000,
    "step_max_items": 20_000,
    "max_items_in_row": 1000,
    "max_lexer_states": 5_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""llguidance's limits, of a compile and of each mask: ten times what a hundred tools take."""
SECONDS: Final = 0.5
"""Processor time of a compile, at most."""
MEGABYTES: Final = 64
"""Memory that a compile adds, at most."""
_NICE: Final = 5
"""Rank of a trial behind what the daemon does, where both want a core."""
_IDLE: Final = 300.0
"""Seconds for which the process is kept without a new grammar."""
_STACK: Final = 1_000_000
"""Bytes of a compile's stack, at most; any thread of ours has more."""
_DIED: Final[dict[int, str]] = {
    signal.SIGPROF: f"it takes more than {SECONDS:g} s to compile",
    signal.SIGABRT: f"it takes more than {MEGABYTES} MB to compile",
    signal.SIGSEGV: "it is too large to be compiled, or nests too deeply",
}
_IN_REGEX: Final = re.compile(r"regex parse error:\n    (.*)\n    ( *)\^+\nerror: (.*)")
_CLEARER: Final = {"NoExtensionBias": "it allows no text"}


class Outcome(NamedTuple):
    """Outcome of a trial.

    Attributes:
        error: error of the grammar; empty if it has none.
        ms: milliseconds of processor time.
        size: bytes that the compiled grammar takes.
    """

    error: str
    ms: float
    size: int


class GrammarTrial:
    """Compiles grammars where that harms nobody. Used on any thread; its process begins with the first grammar.

    Args:
        rows: token ids that the target has, padding included.
        eos: ids that end a text.
        special: special tokens by id, which grammars may name.
    """

    def __init__(self, rows: int, eos: Sequence[int], special: Mapping[int, str]) -> None:
        self._head = json.dumps({"rows": rows, "eos": list(eos), "special": list(special.items())}).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def __del__(self) -> None:
        """End the process."""
        self.close()

    def outcome(self, source: str) -> Outcome:
        """Try a source.

        Raises:
            GrammarError: there can be no such process.
        """
        with self._lock:
            for _ in range(2):  # one that had nothing to do for long has ended
                with suppress(OSError):
                    self._process = self._process or self._begin()
                    if answer := self._ask(self._process, source.encode()):
                        return Outcome(*json.loads(answer))
                self.close()
        raise GrammarError("grammars cannot be tried here: no process can be started")

    def _begin(self) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", __spec__.name)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null)
        self._ask(process, self._head)
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        to, answers = process.stdin, process.stdout
        if to is None or answers is None:
            return b""
        to.write(b"%d\n" % len(request) + request)
        to.flush()
        return answers.readline()

    def close(self) -> None:
        """End the process, if there is one; another grammar begins another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def cleaned(error: str) -> str:
    """An error of llguidance's in one line, with its place in a source of several lines or a regular expression."""
    if regex := _IN_REGEX.search(error):
        pattern, before, why = regex.groups()
        return f"regular expression {pattern[:80]}, character {len(before) + 1}: {why}"
    error = error.partition("\n")[0].partition("; following special tokens")[0][:300]
    error = re.sub(r"^(?:at )?(\d+)\((\d+)\): ", r"line \1, column \2: ", error)
    return _CLEARER.get(error, error)


class _Tokens:
    """A tokenizer of 256 bytes and of a target's special tokens, as llguidance takes it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, rows: int, eos: Sequence[int], special: Mapping[int, str]) -> None:
        self.eos_token_id = eos[0]
        self.special_token_ids = list(special)
        self.tokens = [b""] * max(rows, 257 + max(special, default=0))
        for row, text in special.items():
            self.tokens[row] = text.encode()
        self._ids = [row for row in range(len(self.tokens)) if row not in special][:256]
        for byte, row in enumerate(self._ids):
            self.tokens[row] = bytes((byte,))

    def __call__(self, text: str) -> list[int]:
        return [self._ids[byte] for byte in text.encode()]


def _main() -> None:
    """Try what comes on standard input, and say of each how it went."""
    import llguidance._lib as ll

    head = json.loads(_request() or b"")
    tokens: Any = _Tokens(head["rows"], head["eos"], dict(head["special"]))
    tokenizer = ll.LLTokenizer(tokens, eos_token=head["eos"], slices=[])
    _limit(resource.RLIMIT_STACK, _STACK)
    _limit(resource.RLIMIT_CORE, 0)
    os.nice(_NICE)
    _answer(None)
    while (request := _request()) is not None:
        pid = os.fork()
        if not pid:
            _limit(resource.RLIMIT_DATA, _data() + 1_000_000 * MEGABYTES)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            _compile(ll, tokenizer, request.decode())
            os._exit(0)
        _, status, used = os.wait4(pid, 0)
        if status:
            code = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else status
            why = _DIED.get(code, f"it ends its compiler by {code!s}")
            _answer((why, 1000 * (used.ru_utime + used.ru_stime), 0))


def _compile(ll: Any, tokenizer: Any, source: str) -> None:
    before, began = _data(), time.process_time()
    matcher = ll.LLMatcher(tokenizer, source, log_level=0, limits=ll.LLParserLimits(**LIMITS))
    if not matcher.is_error():
        matcher.compute_bitmask()
    ms = 1000 * (time.process_time() - began)
    _answer((cleaned(matcher.get_error()), ms, max(0, _data() - before)))


def _request() -> bytes | None:
    """The next request; None where there is none for long, or none comes any more."""
    read = sys.stdin.buffer
    comes = select.select([read], [], [], _IDLE)[0]
    size = read.readline() if comes else b""
    return read.read(int(size)) if size else None


def _answer(answer: object) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _data() -> int:
    """Bytes of memory that this process may write, where the system tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text("ascii").split()[5]) * resource.getpagesize() if statm.exists() else 0


if __name__ == "__main__":
    _main()
