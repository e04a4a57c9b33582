"""Commands that documents tell a user to type, typed: their shell and Python blocks on real processes.

The blocks are taken from the documents themselves. They name fixed ports, so each document runs in a network
namespace of its own, where nothing else can hold these.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 150.0
"""Seconds for a daemon to load its model; on a machine with much else to do."""

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]


def blocks(document: str, language: str) -> list[str]:
    """Fenced blocks of a document, in order."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def only(document: str, language: str, *words: str) -> str:
    """The one block that has all these words."""
    (block,) = [block for block in blocks(document, language) if all(word in block for word in words)]
    return block


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our commands, which run the sources that are tested."""
    folder = tmp_path_factory.mktemp("bin")
    ours = {
        "flexspec-edge": "-m edge_node",
        "flexspec-cloud": "-m cloud_worker",
        "flexspec-broker": "-m broker",
    }
    for name, module in {**ours, "python": ""}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        script.chmod(0o755)
    (folder / "activate").write_text(f"export PATH={shlex.quote(str(folder))}:$PATH\n")
    return folder


class Place:
    """A network namespace with nothing but a loopback, and a user's shell in it.

    Args:
        holder: a process that lives in it.
        commands: the folder of our commands, as of a virtual environment.
        folder: where the user is; has the environment.
    """

    def __init__(self, holder: int, commands: Path, folder: Path) -> None:
        self._enter = ("nsenter", "-t", str(holder), "-n", "--")
        self._folder = folder
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(commands)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, text: str, log: str) -> None:
        """Run a block in a shell that stays; what it says goes to a file."""
        with (self._folder / log).open("wb") as file:
            shell = subprocess.Popen(
                [*self._enter, "bash", "-ec", text],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(shell)

    def run(self, text: str, *program: str) -> str:
        """Run a block to its good end; what it printed."""
        done = subprocess.run(
            [*self._enter, *(program or ("bash", "-ec")), text],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def until_ready(self) -> None:
        """Wait until the edge node knows of a worker."""
        ends = time.monotonic() + PATIENCE
        ask = [*self._enter, "curl", "-sf", "http://127.0.0.1:8080/readyz"]
        while subprocess.run(ask, capture_output=True, check=False).returncode:
            assert time.monotonic() < ends, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """Logs of all daemons."""
        return "\n".join(path.read_text("utf-8", "replace") for path in sorted(self._folder.glob("*.log")))

    def end(self) -> None:
        """End all that runs, with whatever the shells have started."""
        for shell in self.running:
            with suppress(ProcessLookupError):  # the shell and all its children have ended
                os.killpg(shell.pid, signal.SIGTERM)
        for shell in self.running:
            try:
                shell.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait(10)


@pytest.fixture
def place(commands: Path, tmp_path: Path) -> Iterator[Place]:
    if os.geteuid() != 0 or shutil.which("nsenter") is None or shutil.which("unshare") is None:
        pytest.skip("a network namespace of one's own needs root, unshare and nsenter")
    hold = "ip link set lo up && echo up && exec sleep infinity"
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "up\n":
            pytest.skip("this system makes no network namespaces")
        place = Place(holder.pid, commands, tmp_path)
        try:
            yield place
        finally:
            place.end()
    finally:
        holder.kill()
        holder.communicate()


def background(line: str) -> str:
    """A command of the user's shell without what sends it to the background."""
    assert line.endswith(" &")
    return line.removesuffix(" &")


def test_the_readmes_question_and_api_run_as_written(place: Place) -> None:
    """A way from a folder that was set up: each line as it stands, in the environment that the first activates."""
    activate, *daemons, ask = only("README.md", "sh", "flexspec-edge ask").splitlines()
    (serve,) = only("README.md", "sh", "flexspec-edge serve").splitlines()
    assert [line.split()[0] for line in daemons] == ["flexspec-broker", "flexspec-cloud"]
    for line in daemons:
        place.start(f"{activate}\nexec {background(line)}", f"{line.split()[0]}.log")
    answer = place.run(f"{activate}\n{ask}")  # while the worker still loads
    assert len(answer.split()) > 10, answer
    assert "sky" in answer.lower()
    place.start(f"{activate}\nexec {background(serve)}", "flexspec-edge.log")
    place.until_ready()
    for document in ("README.md", "docs/api.md"):
        found = json.loads(
            place.run(only(document, "sh", "curl", "http://127.0.0.1:8080/v1/chat/completions"))
        )
        (choice,) = found["choices"]
        assert found["object"] == "chat.completion"
        assert found["model"] == "base"
        assert "sky" in choice["message"]["content"].lower()
        assert 0 < found["usage"]["completion_tokens"] <= 64
        assert found["usage"]["flexspec"]["exactness"] == "exact"
    streaming = only("docs/api.md", "sh", "curl http").replace('"max_tokens"', '"stream": true, "max_tokens"')
    assert place.run(streaming.replace("curl ", "curl -N ", 1)).endswith("data: [DONE]\n\n")
    text = place.run(only("docs/api.md", "python", "from openai import OpenAI"), sys.executable, "-c")
    assert len(text.split()) > 10, text
    assert json.loads(place.run("curl -sf http://127.0.0.1:8080/v1/models"))["data"][0]["id"] == "base"


def test_the_edge_of_the_api_document_is_that_of_the_readme() -> None:
    """So the test above has run it."""
    (serve,) = only("docs/api.md", "sh", "flexspec-edge serve").splitlines()
    assert serve in map(background, only("README.md", "sh", "flexspec-edge serve").splitlines())
