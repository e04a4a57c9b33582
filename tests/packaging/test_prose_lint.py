"""The lint of prose: what it finds, and what it lets pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LINT = Path(__file__).resolve().parents[2] / "scripts" / "prose_lint.py"

FRAGMENTS = '''"""That came."""


class Record:
    """Tokens received. Of a device's last
    batch.

    Attributes:
        count: of tokens.
        rate: tokens a second, of those that count.
    """

    count: int
    """What is left."""
'''


def lint(path: Path) -> list[str]:
    """Lines at which the lint finds faults."""
    done = subprocess.run(
        [sys.executable, LINT, path], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == bool(done.stdout), done.stderr
    return [line.split(":")[1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("fragments.py", FRAGMENTS, ["1", "14", "5", "9"]),
        ("good.py", '"""Tokens received: what is said before is a noun."""\n', []),
        ("wide.md", "# Short\n\n" + "word " * 25 + "\n", ["3"]),
        ("sentences.md", "# One\n\nIt is. What else?\n\n| Of what |\n", ["3"]),
        ("tables.md", "| " + "word " * 25 + "|\n```sh\n" + "word " * 25 + "\n```\n", []),
    ],
)
def test_faults_have_lines(tmp_path: Path, name: str, text: str, lines: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert sorted(lint(tmp_path)) == sorted(lines)
