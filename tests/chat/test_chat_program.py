"""``flexspec chat`` as a program: settings, scripts, errors at the start, and what it costs to start others."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.chat.lines import Pipe
from flexspec_mq.chat.main import build_parser, main
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.errors import UsageError
from lab.testbed.deployment import free_port
from tests.daemons import PATIENCE, until
from tests.edge_node.api.served import expected, ids_of, served, shown, tokenizer

ROOT = Path(__file__).parents[2]


async def run(
    said: bytes,
    *arguments: str,
    command: str = "chat",
    until_stdout: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Run it with a pipe as standard input; exit code, output, error output.

    Args:
        until_stdout: send Ctrl-C when the output has this.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flexspec_mq.cli", command, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=ROOT, env={**os.environ, **(environment or {})},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    if until_stdout is None:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(said)
    else:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(said)
        async with asyncio.timeout(PATIENCE):
            await process.stdout.readuntil(until_stdout)
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def turns(monkeypatch: pytest.MonkeyPatch, descriptor: int) -> list[str]:
    """Turns that come from a file descriptor as standard input, errors among them."""
    found: list[str] = []
    with os.fdopen(descriptor, "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        pipe = Pipe()
        while True:
            try:
                if (turn := await pipe.next()) is None:
                    break
                found.append(turn)
            except UsageError as error:
                found.append(error.message)
        assert os.get_blocking(descriptor), "others share it, and it was left as it was found"
    return found


async def test_lines_are_bounded_and_a_bad_one_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("flexspec_mq.daemon.streams.MAX_LINE", 100)
    said = b"x" * 50_000 + b"\nshort\ncaf\xe9\none \\\ntwo\n" + b"y" * 101
    long = "a line has more than 100 bytes"
    expects = [
        long,
        "short",
        "a line of standard input is not UTF-8: unexpected end of data",
        "one \ntwo",
        long,
    ]
    read_end, write_end = os.pipe()
    os.write(write_end, said)
    os.close(write_end)
    assert await turns(monkeypatch, read_end) == expects
    (tmp_path / "lines").write_bytes(said)
    assert await turns(monkeypatch, os.open(tmp_path / "lines", os.O_RDONLY)) == expects
    assert await turns(monkeypatch, os.open(os.devnull, os.O_RDONLY)) == []
    monkeypatch.setattr(sys, "stdin", None)
    assert await Pipe().next() is None


async def test_a_script(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        said = b"/seed 5\none\\\ntwo\n\n/max-tokens 9\nthree\n"
        code, out, err = await run(said, "--url", api.url, "--max-tokens", "20")
        assert code == 0, err
        first = shown(expected(ids_of("one\ntwo"), 5, 20)[0])
        ids = tokenizer().encode(f"user.one\ntwo,assistant.{first},user.three,assistant.")
        assert out == f"{first}\n{shown(expected(ids, 5, 9)[0])}\n"
        assert "seed: 5\n" in err
        assert err.count("rounds · ") == 2
        assert "\x1b" not in out + err


async def test_a_turn_that_fails_fails_the_script_which_goes_on(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_context=60) as api:
        said = b"/max-tokens 0\nx\n/max-tokens 9\n" + b"x" * 80 + b"\n/nonsense\n\xff\nhi\n"
        code, out, err = await run(said, "--url", f"{api.url}/v1/", "--seed", "5", "--max-tokens", "9")
        assert code == 2
        assert out == "\n\n" + shown(expected(ids_of("hi"), 5, 9)[0]) + "\n"
        assert err.count("error: ") == 4
        assert "max_tokens" in err
        assert "HTTP 400" in err
        assert "is not UTF-8" in err


async def test_ctrl_c_in_a_script_ends_it_up_to_the_worker(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        code, _, err = await run(
            b"long\n", "--url", api.url, "--max-tokens", "40000", "--seed", "6", until_stdout=b"e"
        )
        assert code == 130
        assert "stopped" in err
        assert "Traceback" not in err
        await until(lambda: api.node.sessions == 0 and api.daemons[0].kept == 0)


async def test_the_key_comes_from_a_file_or_the_environment(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    async with served(mosquitto, api_key="hush") as api:
        (tmp_path / "key").write_text("hush\n")
        for given, environment in (
            (["--api-key-file", str(tmp_path / "key")], {"FLEXSPEC_CHAT_API_KEY": "other"}),
            ([], {"FLEXSPEC_CHAT_API_KEY": "hush", "FLEXSPEC_CHAT_URL": "http://127.0.0.1:1"}),
        ):
            code, out, err = await run(
                b"hi", "--url", api.url, "--max-tokens", "3", "--seed", "1", *given, environment=environment
            )
            assert (code, out) == (0, shown(expected(ids_of("hi"), 1, 3)[0]) + "\n"), err
        code, out, err = await run(b"hi", "--url", api.url)
        assert (code, out) == (4, "")
        assert "401" in err
        assert "--api-key-file" in err
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--api-key", "hush"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "127.0.0.1:8080"], 2, "is no address of an API"),
        (["--url", "http://a/v2"], 2, "is no address of an API"),
        (["--temperature", "warm"], 2, "temperature 'warm' is not a number"),
        (["--max-tokens", "1.5"], 2, "max-tokens '1.5' is not a whole number"),
        (["--api-key-file", "/no/such"], 2, "cannot be read"),
        (["--tls-ca", "/no/such"], 2, "cannot be used"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err


async def test_no_api_and_no_such_model_at_the_start(mosquitto: PrivateBroker) -> None:
    code, out, err = await run(b"hi\n", "--url", f"http://127.0.0.1:{free_port()}")
    assert (code, out) == (4, "")
    assert "cannot be reached" in err
    assert "hint: start it with: flexspec-edge serve" in err
    async with served(mosquitto) as api:
        code, out, err = await run(b"hi\n", "--url", api.url, "--model", "nonesuch")
        assert (code, out) == (2, "")
        assert f"there is {api.version}" in err


def test_what_is_in_force(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXSPEC_CHAT_API_KEY", "hush")
    assert main(["--url", "http://127.0.0.1:9", "config", "show", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)["settings"]
    assert (found["url"]["value"], found["url"]["from"]) == ("http://127.0.0.1:9", "flag")
    assert "hush" not in out


def test_keys_that_are_none(tmp_path: Path) -> None:
    for key in ("", "é", "a\x00b"):
        with pytest.raises(UsageError, match="API key"):
            ChatOptions(api_key=key).key()
    assert "hush" not in repr(ChatOptions(api_key="hush"))
    (tmp_path / "key").write_text(" hush \nmore")
    assert ChatOptions(api_key_file=tmp_path / "key").key() == "hush"


@pytest.mark.parametrize("url", ["http://10.0.0.1:8080", "http://edge.example"])
def test_words_in_the_clear(url: str) -> None:
    assert ChatOptions(url=url).in_the_clear
    assert not ChatOptions(url=url.replace("http:", "https:")).in_the_clear
    assert not ChatOptions(url="http://[::1]:8080").in_the_clear


def test_the_history_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ChatOptions().history_file() == tmp_path / "flexspec-mq" / "chat-history"
    assert ChatOptions(history="none").history_file() is None
    assert ChatOptions(history="/x/y").history_file() == Path("/x/y")


@pytest.mark.parametrize(("program", "missing"), [("top", "httpx2"), ("chat", "prompt_toolkit")])
def test_a_missing_package_is_named(program: str, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from flexspec_mq.cli import main\nsys.exit(main([{program!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    told = (
        f"error: this needs {missing}, which is not installed\n  hint: install what it takes, in a checkout"
    )
    assert done.stderr.startswith(told)
    assert f"{sys.executable} -m pip install '.[chat]'" in done.stderr
