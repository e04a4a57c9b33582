"""Payloads that are kept: one of each way in which something was read or refused. Lines of target and hex digits."""

from __future__ import annotations

from pathlib import Path

Corpus = dict[str, list[bytes]]
FILE = Path(__file__).with_name("corpus.txt")


def load(file: Path = FILE) -> Corpus:
    """All of it, by target."""
    found: Corpus = {}
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else ():
        where, _, digits = line.rpartition(" ")
        found.setdefault(where, []).append(bytes.fromhex(digits))
    return found
