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
from edge_node.cli.parser import build_parser as edge_parser
from flexspec_mq import cli

ROOT = Path(__file__).resolve().parents[2]
PARSERS = {
    "flexspec-broker": broker_parser,
    "flexspec-edge": edge_parser,
    "flexspec-cloud": cloud_parser,
    "flexspec": cli.build_parser,
}
_NAMED = re.compile(r"`(flexspec(?:-broker|-edge|-cloud)?)((?: [^`\s]+)+)`")


def texts() -> Iterator[tuple[Path, str]]:
    """What the programs say, and what is written about them."""
    for folder in ("broker", "cloud_worker", "edge_node", "flexspec_mq"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield (
                        path,
                        "".join(
                            str(one.value) if isinstance(one, ast.Constant) else "X" for one in node.values
                        ),
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path, node.value
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path, path.read_text("utf-8")


def refused(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """The first word that a program does not know; empty if it knows all of them."""
    for word in words:
        actions = parser._actions
        inner = next((one for one in actions if isinstance(one, argparse._SubParsersAction)), None)
        if word.startswith("-"):
            if not any(word.partition("=")[0] in one.option_strings for one in actions):
                return word
        elif inner is not None and not any(one.startswith("-") for one in words[: words.index(word)]):
            if word not in inner.choices:
                return word
            parser = inner.choices[word]
    return ""


@pytest.mark.parametrize("program", PARSERS)
def test_each_exists(program: str) -> None:
    parser, found, wrong = PARSERS[program](), 0, []
    own = {"demo", "chat", "bench", "doctor"} if program == "flexspec" else set()  # with parsers of their own
    for path, text in texts():
        for name, rest in _NAMED.findall(text):
            words = rest.split()
            if name == program and words[0] not in own:
                found += 1
                if word := refused(parser, words):
                    wrong.append(f"{path.relative_to(ROOT)}: {name}{rest}: there is no {word}")
    assert found
    assert not wrong
