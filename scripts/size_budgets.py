"""Check that folders keep within their budgets of lines, documents of words: ``python scripts/size_budgets.py [ROOT]``.

The budgets are those of ROOT/scripts/size_budgets.toml. A file counts for each budget that names a folder above it.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

SUFFIXES = {"python": (".py",), "page": (".js", ".css", ".html")}
"""Suffixes of the files that each table of budgets counts."""


def lines_of(root: Path) -> dict[PurePosixPath, int]:
    """Lines of all files that git tracks, or that lie there where git knows nothing, as in an archive."""
    done = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=False)
    named = [root / name for name in done.stdout.split("\0") if name] or sorted(root.rglob("*"))
    wanted = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
    return {
        PurePosixPath(path.relative_to(root)): path.read_bytes().count(b"\n")
        for path in named
        if path.suffix in wanted and path.is_file()
    }


def check(budgets: Mapping[str, Any], lines: Mapping[PurePosixPath, int]) -> Iterator[str]:
    """Say which folders are above their budget, which budgets are for nothing, and which modules have none."""
    ours = {path: count for path, count in lines.items() if not _is_in(path, budgets["vendored"])}
    for table, suffixes in SUFFIXES.items():
        counted = {path: count for path, count in ours.items() if path.suffix in suffixes}
        for names, budget in budgets[table].items():
            inside = [count for path, count in counted.items() if _is_in(path, names.split())]
            if not inside:
                yield f"{names}: nothing to count, and a budget of {budget:,} lines"
            elif sum(inside) > budget:
                yield f"{names}: {sum(inside):,} lines, and a budget of {budget:,}"
    named = " ".join(budgets["python"]).split()
    yield from (f"{path}: no budget" for path in ours if path.suffix == ".py" and not _is_in(path, named))


def check_words(budgets: Mapping[str, int], root: Path) -> Iterator[str]:
    """Say which folders have more words in their documents than their budget; decisions (``adr``) are not counted."""
    for folder, budget in budgets.items():
        files = [path for path in (root / folder).rglob("*.md") if "adr" not in path.parts]
        words = sum(len(path.read_text("utf-8").split()) for path in files)
        if words > budget:
            yield f"{folder}: {words:,} words, and a budget of {budget:,}"


def _is_in(path: PurePosixPath, folders: Iterable[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    root = Path(sys.argv[1] if sys.argv[1:] else ".")
    budgets = tomllib.loads((root / "scripts" / "size_budgets.toml").read_text("utf-8"))
    wrong = [*check(budgets, lines_of(root)), *check_words(budgets.get("words", {}), root)]
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    if wrong:
        sys.stdout.write("Take something out, or raise a budget in scripts/size_budgets.toml and say why.\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
