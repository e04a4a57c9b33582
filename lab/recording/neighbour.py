"""A device's draft that computes on the same machine while something is timed, as an emulator's devices do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from cloud_worker.__main__ import build_parser
from cloud_worker.engine.draft import choice
from cloud_worker.settings import from_arguments
from flexspec_mq.daemon.children import as_child
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.testbed.site.process import pinned, python
from schemas.messages import PROTOCOL_VERSION, Identity

T = TypeVar("T")

_AWAKE = 0.002
"""Seconds after which a process that goes on computes."""
_CONTEXT, _TEXT = 256, 64
"""Tokens of a prompt, and of what is drafted behind it."""
_READY = b"drafts\n"


class Neighbour:
    """It computes only while it is asked to.

    Args:
        process: stopped.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def beside(self, work: Callable[[], T]) -> T:
        """Do something while it drafts.

        Raises:
            FlexSpecError: it has ended.
        """
        self._process.send_signal(signal.SIGCONT)
        try:
            time.sleep(_AWAKE)
            found = work()
        finally:
            self._process.send_signal(signal.SIGSTOP)
        if self._process.poll() is not None:
            raise FlexSpecError("the draft that computes beside has ended")
        return found


@contextmanager
def neighbour(core: int, flags: Sequence[str]) -> Iterator[Neighbour]:
    """Start one, until the end of the block.

    Args:
        core: on which it computes.
        flags: of a worker; the draft is the one that they name.

    Raises:
        FlexSpecError: it did not start; why is on standard error.
    """
    command = pinned(core, python("lab.recording.neighbour", *flags))
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=as_child(signal.SIGKILL)) as process:  # noqa: PLW1509
        try:
            assert process.stdout is not None
            if process.stdout.readline() != _READY:
                raise FlexSpecError("the draft that is to compute beside did not start")
            process.send_signal(signal.SIGSTOP)
            yield Neighbour(process)
        finally:
            process.kill()


def main(argv: Sequence[str]) -> int:
    """Draft one text after the other, for ever."""
    settings = from_arguments(build_parser().parse_args(argv)).settings.worker
    draft = load_draft(choice(settings, settings.draft), lambda _said: None)
    if draft.model is None:
        raise UsageError("there is no draft that could compute beside", hint="name it with --draft")
    identity = Identity(PROTOCOL_VERSION, draft.loaded.fingerprint, 0.0, 0, 1.0, 1, (), True, _TEXT)
    prompt = [place % draft.loaded.vocab_size for place in range(_CONTEXT)]
    number = 0
    while True:
        number += 1
        context = list(prompt)
        while len(context) < _CONTEXT + _TEXT:
            (found,) = draft.model.draft([DraftRequest(number, list(context), identity, _CONTEXT, _CONTEXT)])
            if found:
                context.append(found[0].token)
        draft.model.free(number)
        if number == 1:
            sys.stdout.buffer.write(_READY)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(run_main(main))
