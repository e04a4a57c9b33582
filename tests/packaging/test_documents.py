"""Links and paths in documents, which lead somewhere, and what the lint of prose finds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "lab" / "README.md")
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
        [sys.executable, LINT, path], capture_output=True, text=True, timeout=240, check=False
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


# Budgets of folders and subjects of commits


def run_script(name: str, *arguments: object, where: Path = ROOT) -> tuple[int, str]:
    """Exit code and output of one of our scripts."""
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=240, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def git(where: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", "-C", where, *identity, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("tracked", [True, False], ids=["checkout", "archive"])
def test_a_folder_above_its_budget_is_named_with_its_lines(tmp_path: Path, tracked: bool) -> None:
    files = {"a/x.py": 3, "a/b/y.py": 4, "c/z.py": 5, "c/others/w.py": 900, "a/page.css": 6, "a/x.md": 900}
    for name, count in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("line\n" * count)
    (tmp_path / "scripts").mkdir()
    budgets = tmp_path / "scripts" / "size_budgets.toml"
    if tracked:
        git(tmp_path, "init")
        git(tmp_path, "add", ".")
        (tmp_path / "c" / "scratch.py").write_text("line\n" * 900)
    kept = 'vendored = ["c/others"]\n[python]\na = 7\n"a/b c" = 9\n[page]\na = 6\n'
    budgets.write_text(kept)
    assert run_script("size_budgets.py", tmp_path) == (0, "")
    budgets.write_text(
        'vendored = ["c/others"]\n[python]\na = 6\n"a/b d" = 3\ne = 9\n[page]\na = 5\n[words]\na = 899\n'
    )
    (tmp_path / "a" / "adr").mkdir()
    (tmp_path / "a" / "adr" / "1.md").write_text("line\n" * 900)
    code, said = run_script("size_budgets.py", tmp_path)
    assert code == 1
    assert {
        "a: 7 lines, and a budget of 6",
        "a/b d: 4 lines, and a budget of 3",
        "e: nothing to count, and a budget of 9 lines",
        "a: 6 lines, and a budget of 5",
        "c/z.py: no budget",
        "a: 900 words, and a budget of 899",
    } == set(said.splitlines()[:-1])


def test_subjects_of_commits_since_a_commit(tmp_path: Path) -> None:
    assert run_script("commit_subjects.py", where=tmp_path) == (0, "")  # an archive
    git(tmp_path, "init")
    for subject in ("Anything goes", "outbox: skip what cannot be read", f"page: {'x' * 67}", "No part"):
        git(tmp_path, "commit", "--allow-empty", "-m", subject)
    assert run_script("commit_subjects.py", where=tmp_path) == (0, "")  # the commit of the rule is not here
    code, said = run_script("commit_subjects.py", "HEAD~3", where=tmp_path)
    assert code == 1
    assert [line.strip() for line in said.splitlines()[1::2]] == [
        'no part in front, as in "outbox: skip what cannot be read"',
        "73 characters; 72 at most",
    ]
