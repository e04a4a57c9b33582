"""The ``flexspec`` command and the frame that all our commands run in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

import flexspec_mq
from flexspec_mq.cli import main
from flexspec_mq.daemon.main import EXIT_BROKEN_PIPE, run_main
from flexspec_mq.errors import Cancelled, FlexSpecError, LinkDown, ModelError, UsageError


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (ModelError, 3), (LinkDown, 4), (Cancelled, 130), (FlexSpecError, 1)]
)
def test_errors_become_one_line_a_hint_and_their_code(
    error: type[FlexSpecError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for hint, line in (("mend it", "  hint: mend it\n"), ("", "")):

        def fail(_argv: Sequence[str], hint: str = hint) -> None:
            raise error("it broke", hint=hint)

        assert run_main(fail, []) == code
        assert capsys.readouterr() == ("", f"error: it broke\n{line}")


def test_bugs_pass_with_their_traceback() -> None:
    def fail(_argv: Sequence[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(fail, [])


def test_codes_and_arguments_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(len, ["a", "b"]) == 2
    assert run_main(lambda _argv: None, []) == 0
    monkeypatch.setattr(sys, "argv", ["program", "a", "b", "c"])
    assert run_main(len) == 3


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background of a script has made them, and us, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  one system call
    )


def test_ctrl_c_leaves_no_traceback() -> None:
    process = python("""
        import sys, time
        from flexspec_mq.daemon.main import run_main
        def wait(argv):
            print("waiting", flush=True)
            time.sleep(60)
        sys.exit(run_main(wait, []))
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away() -> None:
    process = python("""
        import sys
        from flexspec_mq.daemon.main import run_main
        def write(argv):
            print("first", flush=True)
            for _ in range(100_000):
                print("x" * 100)
        sys.exit(run_main(write, []))
    """)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=20) == EXIT_BROKEN_PIPE


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert f"flexspec-mq {flexspec_mq.__version__}\n" in capsys.readouterr().out


def test_schema_is_asyncapi(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["asyncapi"].startswith("3.")
    assert document["channels"]


def test_the_demo_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.demo import main as demo

    seen: list[Sequence[str]] = []

    def main_of_demo(argv: Sequence[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr(demo, "main", main_of_demo)
    assert main(["demo", "--prompt=--help $x\n'", "-q"]) == 7
    assert seen == [["--prompt=--help $x\n'", "-q"]]


@pytest.mark.model
def test_the_default_model_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info"]) == 0
    out = capsys.readouterr().out
    for line in ("name         SmolLM2-135M-Instruct", "vocabulary   49152", "context      8192 tokens"):
        assert line in out


@pytest.mark.model
def test_prepare_is_silent_when_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "prepare"]) == 0
    path = capsys.readouterr().out.split("default model: ")[1].strip()
    assert Path(path, "model.safetensors").is_file()
    assert main(["model", "prepare", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "prompt",
    [
        'it\'s "quoted"',
        "cost: $5 $HOME $(id) `id` $$",
        "two\nlines\n",
        "-- --prompt #hash \\ back % ${x}",
        "é 日本",
    ],
)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_make_hands_prompts_over_unharmed(prompt: str, way: str, tmp_path: Path) -> None:
    """`make demo PROMPT=…` with the demo and the setup replaced: only what lies between is under test."""
    root = Path(__file__).parents[2]
    echo = tmp_path / "python"
    echo.write_text(f"#!{sys.executable}\nimport sys, json\nprint(json.dumps(sys.argv[1:]))\n")
    echo.chmod(0o755)
    given = {"PROMPT": prompt, "CHAT": "1"}
    environment = {key: value for key, value in os.environ.items() if key not in given}
    arguments = [f"{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        ["make", "--silent", "-o", "setup", "demo", *(arguments if way == "argument" else [])],
        cwd=root,
        env={**environment, **(given if way == "environment" else {}), "FLEXSPEC_PYTHON": str(echo)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["-m", "lab.demo", "--chat", f"--prompt={prompt}"]
