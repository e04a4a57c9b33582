"""Commands that documents tell a user to type, typed: their shell and Python blocks on real processes.

The blocks are taken from the documents themselves. They name fixed ports, so each document runs in a network
namespace of its own, where nothing else can hold these.
"""

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

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


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
    """A user's shell in a network namespace that has nothing but a loopback.

    Args:
        commands: the folder of our commands, as of a virtual environment.
        folder: where the user is; has the environment.
    """

    def __init__(self, commands: Path, folder: Path) -> None:
        self._folder = folder
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(commands)
        self._shell = subprocess.Popen(
            ["unshare", "-n", "bash"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, text: str, log: str) -> None:
        """Run a block in a shell that stays; what it says goes to a file."""
        self._say(f"bash -ec {shlex.quote(text)} </dev/null >{log} 2>&1 &")

    def run(self, text: str, *program: str) -> str:
        """Run a block to its good end; what it printed."""
        block = shlex.join((*(program or ("bash", "-ec")), text))
        self._say(f"timeout --foreground {PATIENCE:.0f} {block} </dev/null >out 2>err; echo $?")
        assert self._shell.stdout is not None
        code = self._shell.stdout.readline()
        out, *logs = (self._folder / name for name in ("out", "err"))
        logs += sorted(self._folder.glob("*.log"))
        assert code == "0\n", "\n".join(
            [text, *(path.read_text("utf-8", "replace") for path in (out, *logs))]
        )
        return out.read_text()

    def until_ready(self) -> None:
        """Wait until the edge node knows of a worker."""
        self.run("until curl -sf http://127.0.0.1:8080/readyz; do sleep 0.2; done")

    def end(self) -> None:
        """End all that runs, with whatever the shell has started."""
        ends = time.monotonic() + 30
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(self._shell.pid, signal.SIGTERM)
            while time.monotonic() < ends:
                self._shell.poll()
                os.killpg(self._shell.pid, 0)
                time.sleep(0.1)
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()

    def _say(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n")
        self._shell.stdin.flush()


@pytest.fixture
def place(commands: Path, tmp_path: Path) -> Iterator[Place]:
    alone = ["unshare", "-n", "ip", "link", "set", "lo", "up"]
    if shutil.which("unshare") is None or subprocess.run(alone, capture_output=True, check=False).returncode:
        pytest.skip("this user makes no network namespaces")
    place = Place(commands, tmp_path)
    try:
        place.run("ip link set lo up")
        yield place
    finally:
        place.end()


def background(line: str) -> str:
    """A command of the user's shell without what sends it to the background."""
    assert line.endswith(" &")
    return line.removesuffix(" &")


def test_the_readmes_question_and_api_run_as_written(place: Place) -> None:
    """A way from a folder that was set up: each line as it stands, in the environment that the first activates."""
    before, _, after = only("README.md", "sh", "flexspec-edge ask").partition("# ")
    activate, *daemons, ask = before.splitlines()
    _, serve, question = after.split("\n", 2)
    assert [line.split()[0] for line in daemons] == ["flexspec-broker", "flexspec-cloud"]
    for line in daemons:
        place.start(f"{activate}\nexec {background(line)}", f"{line.split()[0]}.log")
    answer = place.run(f"{activate}\n{ask}")  # while the worker still loads
    assert len(answer.split()) > 10, answer
    assert "sky" in answer.lower()
    place.start(f"{activate}\nexec {background(serve)}", "flexspec-edge.log")
    place.until_ready()
    api = only("docs/api.md", "sh", "http://127.0.0.1:8080/v1/chat/completions", "max_tokens")
    for request in (question, api):
        found = json.loads(place.run(request))
        (choice,) = found["choices"]
        assert found["object"] == "chat.completion"
        assert found["model"] == "base"
        assert "sky" in choice["message"]["content"].lower()
        assert 0 < found["usage"]["completion_tokens"] <= 64
        assert found["usage"]["flexspec"]["exactness"] == "exact"
    streaming = only("docs/api.md", "sh", "curl http", "max_tokens").replace(
        '"max_tokens": 64', '"stream": true, "max_tokens": 4'
    )
    assert place.run(streaming.replace("curl ", "curl -N ", 1)).endswith("data: [DONE]\n\n")
    text = place.run(only("docs/api.md", "python", "from openai import OpenAI"), sys.executable, "-c")
    assert len(text.split()) > 10, text
    assert json.loads(place.run("curl -sf http://127.0.0.1:8080/v1/models"))["data"][0]["id"] == "base"


def test_the_edge_of_the_api_document_is_that_of_the_readme() -> None:
    """So the test above has run it."""
    (serve,) = only("docs/api.md", "sh", "flexspec-edge serve").splitlines()
    assert f"{serve} &" in only("README.md", "sh", "flexspec-edge ask").splitlines()
