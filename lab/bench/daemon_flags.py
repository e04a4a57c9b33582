"""Flags for the daemons of a run: each daemon is asked whether it takes them, before anything starts."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from flexspec_mq.errors import FlexSpecError, UsageError
from lab.testbed.site.process import environment, python
from lab.testbed.site.topology import NO_FILE

_PATIENCE = 60.0
"""Seconds for a daemon to say what it makes of its flags; usually less than one."""


def check_daemon_flags(option: str, program: str, flags: Sequence[str]) -> None:
    """Ask a daemon whether it takes some flags.

    Args:
        option: of the bench, which gave them.
        program: module of the daemon.
        flags: nothing is asked where there are none.

    Raises:
        UsageError: it does not; with what it says.
        FlexSpecError: it says nothing at all.
    """
    if not flags:
        return
    try:
        done = subprocess.run(
            python(program, "config", "show", *flags, *NO_FILE),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FlexSpecError(f"{option}: {program} said nothing of them within {_PATIENCE:.0f} s") from error
    if done.returncode:
        said, _, hint = (done.stderr.partition("error: ")[2] or done.stderr).partition("\n  hint: ")
        raise UsageError(f"{option}: {said.strip() or 'refused without a word'}", hint=hint.strip())
