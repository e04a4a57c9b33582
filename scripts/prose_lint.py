"""Check prose in files and folders: how sentences of docstrings begin, and how wide lines of documents are.

A summary is a noun phrase or an imperative with its object: no sentence begins with Of, That, Those, One or What, and
no description of an attribute with a preposition or pronoun. Documents wrap at 120 columns.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 120
_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|\n\s*\n\s*|\n *- )(Of|That|Those|One|What)\b(?!-)")
_SECTION = re.compile(r" *(Args|Attributes):$")
_FRAGMENT = re.compile(r" +\*{0,2}\w+: ((?i:of|that|those|what|one|by|in|with|for|to|its?)\b(?!-).*)")


def check_docstring(first: int, text: str) -> Iterator[tuple[int, str]]:
    """Line and fault of each sentence, argument or attribute that begins wrongly."""
    for match in _SENTENCE.finditer(text):
        yield first + text.count("\n", 0, match.start(1)), f"a sentence begins with {match[1]!r}"
    section = False
    for number, line in enumerate(text.splitlines(), first):
        section = bool(_SECTION.match(line) or (section and line.strip()))
        if section and (fragment := _FRAGMENT.match(line)):
            yield number, f"no noun phrase: {fragment[1]}"


def check_document(text: str) -> Iterator[tuple[int, str]]:
    """Line and fault of prose that is too wide, and of its sentences; tables and code are left out."""
    prose, code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        prose.append("" if code or line.startswith("|") else line)
        if len(prose[-1]) > WIDTH:
            yield number, f"{len(line)} columns; prose wraps at {WIDTH}"
    yield from check_docstring(1, "\n".join(prose))


def check(path: Path) -> Iterator[tuple[int, str]]:
    """Line and fault of all that is wrong in a file; a docstring is any string that is a statement."""
    if path.suffix == ".md":
        yield from check_document(path.read_text("utf-8"))
    elif path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                yield from check_docstring(node.lineno, str(node.value.value))


if __name__ == "__main__":
    failed = False
    for place in map(Path, sys.argv[1:]):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            for line, fault in check(file):
                failed = True
                sys.stdout.write(f"{file}:{line}: {fault}\n")
    sys.exit(failed)
