"""Links and paths in documents, which lead somewhere, and what the lint of prose finds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "lab" / "README.md",
)
_CODE = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(\s*([^)\s]+)\)")
_PATH = re.compile(
    r"`((?:docs|tests|lab|training|flexspec_mq|edge_node|cloud_worker|schemas|scripts|deploy)/[\w./-]+)`"
)


def anchors(document: Path) -> set[str]:
    """Names by which a document's headings are linked."""
    headings = re.findall(r"^#+ (.*)$", _CODE.sub("", document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_leads_somewhere(document: Path) -> None:
    text = _CODE.sub("", document.read_text("utf-8"))
    wrong = (
        [] if document.name == "CHANGELOG.md" else [p for p in _PATH.findall(text) if not (ROOT / p).exists()]
    )
    for link in _LINK.findall(text):
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            wrong.append(link)
    if document.name == "security.md":
        names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
        wrong += [name for name in re.findall(r"`(test_\w+\.py)`", text) if name not in names]
    assert not wrong


# The lint of prose

LINT = ROOT / "scripts" / "prose_lint.py"

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
        [sys.executable, LINT, path], capture_output=True, text=True, timeout=60, check=False
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
