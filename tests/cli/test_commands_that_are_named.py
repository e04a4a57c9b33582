"""Commands that messages, hints and documents name: each exists, with its flags."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.__main__ import build_parser as broker_parser
from cloud_worker.__main__ import build_parser as cloud_parser
from edge_node.cli.main import build_parser as edge_parser
from flexspec_mq import cli
from lab.policy_training.command import add_parser as add_policy_parser
from lab.testbed.link.cli import add_parser as add_link_parser
from training.commands.draft import add_parser as add_draft_parser
from training.head.train import add_train_parser

ROOT = Path(__file__).resolve().parents[2]


def flexspec_parser() -> argparse.ArgumentParser:
    """Parser of ``flexspec``, with the commands that the laboratory and training register."""
    parser = cli.build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, add in (("link", add_link_parser), ("policy", add_policy_parser), ("draft", add_draft_parser)):
        del commands._name_parser_map[name]
        add(commands)
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


def texts() -> Iterator[tuple[Path, str]]:
    """Texts of the programs, and of documents about them."""
    for folder in ("broker", "cloud_worker", "edge_node", "flexspec_mq", "lab", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield (
                        path,
                        "".join(
                            str(value.value) if isinstance(value, ast.Constant) else "X"
                            for value in node.values
                        ),
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path, node.value
    for path in (ROOT / "README.md", ROOT / "lab" / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path, path.read_text("utf-8")


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
    own = {"demo", "chat", "bench", "doctor"} if program == "flexspec" else set()  # with parsers of their own
    for path, text in texts():
        for name, rest in _NAMED.findall(text):
            words = rest.split()
            if name == program and words[0] not in own:
                named += 1
                if word := refused(parser, words):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}{rest}: there is no {word}")
    assert named
    assert not wrong
