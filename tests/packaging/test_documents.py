"""Links and paths in documents: each leads somewhere."""

from __future__ import annotations

import re
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
