"""A deployment made by the commands, its broker run as its users run it, and clients of it."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from broker.__main__ import main
from flexspec_mq.transport.arguments import LinkOptions, link_settings
from flexspec_mq.transport.base import LinkSettings
from lab.testbed.deployment import free_port


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of ``flexspec-broker`` to its end, in this process, which is ten times as quick as one of its own."""
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        code = main([str(one) for one in arguments])
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), complained.getvalue())


def run_apart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for ``run``, which takes signals and logs as it likes."""
    command = [sys.executable, "-m", "broker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def good(*arguments: str | Path) -> str:
    """Standard output of a command that must succeed."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(directory: Path, *flags: str) -> Path:
    """A deployment of localhost, over TLS."""
    port = str(free_port())
    good("init", directory, "--host", "127.0.0.1", "--name", "localhost", "--port", port, "--tls", *flags)
    return directory


@contextmanager
def running(
    directory: Path | None, log: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A broker that answers, of a deployment or a private one: its process, and what it says when it is ready.

    Its log goes to a file, as JSON lines unless flags say otherwise.
    """
    where = [] if directory is None else [str(directory)]
    command = [sys.executable, "-m", "broker", "run", *where, "--ready-json", "--log-format", "json", *flags]
    with (
        log.open("w") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield process, json.loads(line)
        finally:
            process.terminate()
            process.wait(30)


def as_client(folder: Path, give_up_after: float = 20.0) -> LinkSettings:
    """Settings of a link with what a client was handed out."""
    found = json.loads((folder.parents[2] / "identities.json").read_text())
    certificate = folder / "client.crt"
    options = LinkOptions(
        broker=found["address"],
        username=folder.name,
        password_file=folder / "password",
        tls_ca=folder / "ca.crt" if found["names"] else None,
        tls_cert=certificate if certificate.exists() else None,
        tls_key=folder / "client.key" if certificate.exists() else None,
        give_up_after=give_up_after,
    )
    return link_settings(options, f"t-{folder.name}")
