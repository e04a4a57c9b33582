"""The outbox after a power cut at any of its syncs: all that it promised is there, nothing twice, nothing changed."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_node.outbox.entries import Entry, Opening, OutboxFull
from edge_node.outbox.journal import Bounds, Journal
from flexspec_mq.protocol.effects import Commit
from lab.sim.disk import Recording, everything, memory_folder, nothing_more, recorded, some
from schemas.messages import Sampling
from tests.edge_node.outbox.test_journal import clock

BOUNDS = Bounds(texts=5, size=60_000, retention=40.0)
KINDS = (
    "accept", "open", "commit", "commit", "finish", "fail", "read", "park", "unpark", "forget", "restart",
)  # fmt: skip
Steps = list[tuple[str, int, int]]
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(1, 400)), min_size=5, max_size=25
)

Text = tuple[Entry, tuple[int, ...], bytes]
Texts = dict[str, Text]


def _token(name: str, at: int) -> int:
    return random.Random(f"{name} {at}").getrandbits(17)


def _texts(journal: Journal) -> Texts:
    """All that an outbox says of its texts."""
    found: Texts = {}
    for entry in journal.entries():
        tokens = tuple(token for commit in journal.committed(entry.id) for token in commit.tokens)
        found[entry.id] = entry, tokens, journal.answer(entry.id)
    return found


@dataclass(slots=True)
class _Node:
    """A program that uses an outbox as a node does, and marks what others may rely on."""

    path: Path
    recording: Recording
    now: float = 1000.0
    numbers: Iterator[int] = field(default_factory=count)

    def run(self, history: Steps) -> None:
        journal = self._restarted()
        for kind, which, size in history:
            self.now += 1.0
            promised = False
            if kind == "restart":
                journal.close()
                journal = self._restarted()
            elif kind == "accept":
                promised = self._accept(journal, size)
            elif names := [entry.id for entry in journal.entries()]:
                promised = self._go_on(journal, kind, names[which % len(names)], size)
            self.recording.mark((promised, _texts(journal)))
        journal.close()

    def _restarted(self) -> Journal:
        journal = Journal(self.path, BOUNDS, clock(lambda: self.now))
        journal.begin()
        self.recording.mark((True, _texts(journal)))
        return journal

    def _accept(self, journal: Journal, size: int) -> bool:
        """Whether it is promised: a refusal says nothing."""
        name = f"text{next(self.numbers)}"
        body = random.Random(name).randbytes(37 * size)
        try:
            journal.accept(
                Entry(id=name, key=name, digest=b"d", path="/v1/completions", body=body, accepted=self.now)
            )
        except OutboxFull:
            return False
        return True

    def _go_on(self, journal: Journal, kind: str, name: str, size: int) -> bool:
        """Whether it is promised: sessions and tokens are at times, readings and what changes nothing never."""
        promised, before = bool(size % 2), journal.entry(name)
        if kind == "open":
            opened = Opening(session=int(name[4:]), version="v", sampling=Sampling(), limit=9, root=size)
            journal.open(name, opened, promised=promised)
            return promised and journal.entry(name) != before
        if kind == "commit":
            entry, tokens, _ = _texts(journal)[name]
            if entry.opened is None or not entry.unfinished:
                return False
            added = tuple(_token(name, len(tokens) + at) for at in range(size))
            journal.commit({name: [Commit(len(tokens), added, (None,) * size)]}, promised=promised)
            return promised
        if kind in ("finish", "fail"):
            journal.finish(name, name.encode() * size, "it failed" if kind == "fail" else "")
        else:
            {
                "read": journal.set_read,
                "park": journal.park,
                "unpark": journal.unpark,
                "forget": journal.forget,
            }[kind](name)
        return kind != "read" and journal.entry(name) != before  # else nothing was there to be written


def _after_cut(
    recording: Recording, cut: int, folder: Path, rng: random.Random
) -> Iterator[tuple[Texts, int]]:
    """Texts of an outbox after the cut, and how far the next start raises its count, by how a disk may be left."""
    for keeps in (nothing_more, everything, some(rng)):
        for old in folder.iterdir():
            old.unlink()
        recording.rebuild(cut, folder, keeps)
        with closing(Journal(folder / "outbox", BOUNDS, clock(lambda: 0.0))) as journal:
            texts = _texts(journal)
            incarnations = [entry.restarts - texts[entry.id][0].restarts for entry in journal.begin()]
        assert sorted(file.name for file in folder.iterdir()) == ["outbox"]  # nothing was put aside
        yield texts, min(incarnations, default=1)


@contextmanager
def _recorded(history: Steps) -> Iterator[tuple[Recording, Path]]:
    with memory_folder() as folder:
        (before := folder / "before").mkdir()
        (after := folder / "after").mkdir()
        with recorded() as recording:
            _Node(before / "outbox", recording).run(history)
        yield recording, after


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps, seed=st.integers(0, 2**32))
def test_a_power_cut_leaves_what_was_promised_and_of_what_was_said_since_a_beginning(
    history: Steps, seed: int
) -> None:
    rng = random.Random(seed)
    with _recorded(history) as (recording, folder):
        told = recording.said(len(recording.steps))
        for cut in recording.cuts:
            said = recording.said(cut)
            last = max((at for at, (promised, _) in enumerate(said) if promised), default=-1)
            allowed = [texts for _, texts in told[max(last, 0) : len(said) + 1]] + [{}] * (last < 0)
            for texts, raised in _after_cut(recording, cut, folder, rng):
                assert texts in allowed
                assert raised == 1
                for name, (_, tokens, _) in texts.items():
                    assert tokens == tuple(_token(name, at) for at in range(len(tokens)))
