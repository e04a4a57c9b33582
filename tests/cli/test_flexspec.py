"""The ``flexspec`` command, the frame of all our commands, and each command that messages and documents name."""

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

import flexspec_mq
from broker.__main__ import build_parser as broker_parser
from cloud_worker.__main__ import build_parser as cloud_parser
from edge_node.cli.main import build_parser as edge_parser
from flexspec_mq import cli
from flexspec_mq.chat.top import build_parser as top_parser
from flexspec_mq.cli import main
from flexspec_mq.daemon.main import EXIT_BROKEN_PIPE, run_main
from flexspec_mq.errors import Cancelled, FlexSpecError, LinkDown, ModelError, UsageError
from lab.policy_training.command import add_parser as add_policy_parser
from lab.testbed.link.cli import add_parser as add_link_parser
from training.commands.draft import add_parser as add_draft_parser
from training.head.train import add_train_parser


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
    out, err = process.communicate(timeout=60)
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
    assert process.wait(timeout=60) == EXIT_BROKEN_PIPE


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert f"flexspec-mq {flexspec_mq.__version__}\n" in capsys.readouterr().out


def test_the_demo_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    from flexspec_mq.demo import main as demo

    seen: list[Sequence[str]] = []

    def main_of_demo(argv: Sequence[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr(demo, "main", main_of_demo)
    assert main(["demo", "--prompt=--help $x\n'", "-q"]) == 7
    assert seen == [["--prompt=--help $x\n'", "-q"]]


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
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["-m", "flexspec_mq.cli", "demo", "--chat", f"--prompt={prompt}"]


ROOT = Path(__file__).resolve().parents[2]


def flexspec_parser() -> argparse.ArgumentParser:
    """Parser of ``flexspec``, with the commands that the laboratory and training register."""
    parser = cli.build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, add in (("link", add_link_parser), ("policy", add_policy_parser), ("draft", add_draft_parser)):
        del commands._name_parser_map[name]
        add(commands)
    commands._name_parser_map["top"] = top_parser()
    (head,) = (
        action
        for action in commands.choices["head"]._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    del head._name_parser_map["train"]
    add_train_parser(head)
    return parser


PARSERS = {
    "flexspec-broker": broker_parser,
    "flexspec-edge": edge_parser,
    "flexspec-cloud": cloud_parser,
    "flexspec": flexspec_parser,
}
_NAMED = re.compile(r"`(flexspec(?:-broker|-edge|-cloud)?)((?: [^`\s]+)+)`")


@lru_cache
def texts() -> tuple[tuple[Path, str], ...]:
    """Texts of the programs, and of documents about them."""
    found: list[tuple[Path, str]] = []
    for folder in ("broker", "cloud_worker", "edge_node", "flexspec_mq", "lab", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [value.value if isinstance(value, ast.Constant) else "X" for value in node.values]
                    found.append((path, "".join(map(str, parts))))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append((path, node.value))
    documents = (ROOT / "README.md", ROOT / "lab" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    return (*found, *((path, path.read_text("utf-8")) for path in documents))


def refused(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """The first word that a program does not know; empty if it knows all of them."""
    for word in words:
        actions = parser._actions
        inner = next((action for action in actions if isinstance(action, argparse._SubParsersAction)), None)
        if word.startswith("-"):
            if not any(word.partition("=")[0] in action.option_strings for action in actions):
                return word
        elif inner is not None and not any(earlier.startswith("-") for earlier in words[: words.index(word)]):
            if word not in inner.choices:
                return word
            parser = inner.choices[word]
    return ""


@pytest.mark.parametrize("program", PARSERS)
def test_each_exists(program: str) -> None:
    parser, named, wrong = PARSERS[program](), 0, []
    own = (
        {"demo", "chat", "bench", "doctor", "pair"} if program == "flexspec" else set()
    )  # with parsers of their own
    for path, text in texts():
        for name, rest in _NAMED.findall(text):
            words = rest.split()
            if name == program and words[0] not in own:
                named += 1
                if word := refused(parser, words):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}{rest}: there is no {word}")
    assert named
    assert not wrong
