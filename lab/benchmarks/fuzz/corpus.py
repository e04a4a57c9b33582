"""Payloads that are kept: one of each way in which something was read or refused. Lines of target and hex digits."""

from __future__ import annotations

from pathlib import Path

Corpus = dict[str, list[bytes]]
FILE = Path(__file__).with_name("corpus.txt")
MOST_BYTES = 600
"""Most bytes of a payload that is kept."""
MOST = 60
"""Most payloads of a target."""


def load(file: Path = FILE) -> Corpus:
    """All of it, by target."""
    found: Corpus = {}
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else ():
        where, _, digits = line.rpartition(" ")
        found.setdefault(where, []).append(bytes.fromhex(digits))
    return found


def save(known: Corpus, signatures: dict[tuple[str, str], bytes], file: Path = FILE) -> None:
    """Add what was read in a way that nothing in the corpus was read in, as far as there is room."""
    for (where, _), payload in signatures.items():
        kept = known.setdefault(where, [])
        if payload not in kept and len(payload) <= MOST_BYTES and len(kept) < MOST:
            kept.append(payload)
    lines = [f"{where} {payload.hex()}\n" for where, kept in sorted(known.items()) for payload in kept]
    file.write_text("".join(lines), encoding="ascii")
