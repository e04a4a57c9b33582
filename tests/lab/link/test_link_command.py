"""``flexspec link`` as a user runs it."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexspec_mq.cli import main
from flexspec_mq.demo.children import as_child
from lab.testbed.link import namespaces
from tests.lab.link.plans import needs_namespaces

PATIENCE = 60.0
ROOT = Path(__file__).parents[3]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flexspec_mq.cli", "link", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=as_child(signal.SIGKILL),  # noqa: PLW1509  two system calls; children ignore what we ignore
    )


def ran(*arguments: str) -> tuple[int, list[str], str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out.splitlines(), err


def last(lines: list[str]) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(lines[-1])
    return counts


SERVER = "import socket; s = socket.create_server(('{b}', 7000)); p = s.accept()[0]; p.sendall(b'hello'); p.recv(1)"
CLIENT = """
import os, socket, time
for _ in range(200):
    try:
        peer = socket.create_connection(('{b}', 7000), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
print(peer.recv(5).decode(), peer.getsockname()[0] == '{a}', os.environ['FLEXSPEC_LINK_B'] == '{b}')
"""


@needs_namespaces
def test_two_programs_talk_and_the_counters_come_last_as_json() -> None:
    b = f'{sys.executable} -c "{SERVER}"'
    code, lines, err = ran(
        "run", "--profile", "wifi", "--seed", "3", "--b", b, "--", sys.executable, "-c", CLIENT
    )
    assert (code, err) == (0, "")
    assert lines[0] == "hello True True"
    told = last(lines)
    assert (told["profile"], told["seed"], told["exit_code"]) == ("wifi", 3, 0)
    assert told["counters"]["unit"] == "IP"
    # SYN and ACK came through before the server said anything; what closes may be on its way at the end.
    assert told["counters"]["up"]["packets_out"] >= 2
    assert told["counters"]["down"]["bytes_out"] > 5 + 40
    assert any("packets in" in line for line in lines)


@needs_namespaces
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--", "sh", "-c", "exit 7"], 7),
        (["--", "sh", "-c", "kill -9 $$"], 137),
        (["--for", "0.3", "--", "sleep", "600"], 124),
    ],
)
def test_the_code_is_that_of_side_a(arguments: list[str], code: int) -> None:
    done = ran("run", *arguments)
    assert done[0] == last(done[1])["exit_code"] == code


@needs_namespaces
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_held_open_it_says_how_to_enter_and_ends_on_signals(number: signal.Signals, code: int) -> None:
    process = start("run", "--profile", "tunnel")
    assert process.stdout is not None
    first = process.stdout.readline().split()
    name = first[first.index("exec") + 1]
    entered = subprocess.run(
        ["ip", "netns", "exec", name, "ip", "-brief", "addr"], capture_output=True, text=True, check=True
    )
    assert first[-1] in entered.stdout, "the address that it says is there"
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert not (namespaces.NETNS_FOLDER / name).exists()


def test_the_proxy_carries_counts_and_ends_on_sigterm() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = start("proxy", "--profile", "5g", "--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{port}")
        assert process.stdout is not None
        listening = int(process.stdout.readline().split()[2].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", listening), PATIENCE) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"hello")
                assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    told = last(out.splitlines())
    assert told["connections"] == 1
    assert told["counters"]["unit"] == "payload"
    assert told["counters"]["up"]["bytes_out"] == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--profile", "6g"], "there is no link profile '6g'"),
        (["run", "--b", "sh -c 'x"], "is no command"),
        (["run", "--profiles-file", "/nonesuch"], "the profiles in /nonesuch cannot be read"),
        (["proxy", "--listen", "127.0.0.1", "--to", "127.0.0.1:1"], "'127.0.0.1' is not host:port"),
        (
            ["proxy", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:70000"],
            "port 70000 is not between 1 and 65535",
        ),
        (["proxy", "--listen", "0.0.0.0:0", "--to", "127.0.0.1:1"], "is not loopback"),
    ],
)
def test_bad_input_gets_a_sentence_and_a_code(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["link", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "x", "inf"])
def test_times_are_above_zero(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["link", "run", f"--for={value}"])
    assert caught.value.code == 2
    assert "is no number above 0" in capsys.readouterr().err
