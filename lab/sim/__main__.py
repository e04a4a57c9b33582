"""``python -m lab.sim``: live through the histories of seeds, and tell the shortest one that breaks a rule."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

from lab.sim.disk import Recording, memory_folder, recorded
from lab.sim.history import History
from lab.sim.schedule import Schedule, drawn, faults_of, shrink
from lab.sim.world import lived

_clock = time.perf_counter  # a history has a clock of its own


def story(history: History) -> str:
    """All that happened, a line each."""
    return "\n".join(f"{note.at:10.3f} s  {note.lane:<16} {note.what}" for note in history.notes)


class Runs:
    """Histories one after the other, on one disk.

    Attributes:
        texts, faults: numbers of these so far.
        counts: outcomes.
    """

    def __init__(self, recording: Recording, disk: Path) -> None:
        self._recording = recording
        self._disk = disk
        self._number = 0
        self.texts = self.faults = 0
        self.counts: Counter[str] = Counter()

    def run(self, schedule: Schedule) -> History:
        """The history of a schedule."""
        self._number += 1
        folder = self._disk / str(self._number)
        folder.mkdir()
        history = lived(schedule, self._recording, folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        self.texts += len(history.promises)
        self.faults += faults_of(schedule.steps)
        self.counts += history.counts
        return history

    def shortest(self, schedule: Schedule) -> tuple[Schedule, History]:
        """The shortest schedule found that breaks a rule as this one does, and its history."""
        short, _ = shrink(schedule, lambda shorter: bool(self.run(shorter).verdict))
        return short, self.run(short)


def failure(runs: Runs, schedule: Schedule, verdict: str, *, shorten: bool) -> str:
    """A broken rule in words: its seed, the shortest schedule, and the story."""
    short, history = runs.shortest(schedule) if shorten else (schedule, runs.run(schedule))
    return (
        f"seed {schedule.seed} breaks a rule: {verdict}\n\n"
        f"{len(short.steps)} of its {len(schedule.steps)} steps are enough for\n  {history.verdict}\n\n{short}\n\n"
        f"The story:\n{story(history)}"
    )


def main() -> int:
    """Run the command; the exit status is 1 where a rule is broken."""
    parser = argparse.ArgumentParser(prog="python -m lab.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay the history of this seed, and tell it")
    parser.add_argument("--first", type=int, default=int(time.time()) // 86_400, help="first of many seeds")
    parser.add_argument("--texts", type=int, default=0, help="run seeds until there are so many texts")
    parser.add_argument("--seconds", type=float, default=0.0, help="run seeds for so long")
    parser.add_argument("--whole", action="store_true", help="do not look for a shorter schedule")
    options = parser.parse_args()
    with recorded() as recording, memory_folder() as disk:
        runs = Runs(recording, disk)
        if options.seed is not None:
            schedule = drawn(options.seed)
            history = runs.run(schedule)
            if history.verdict:
                print(failure(runs, schedule, history.verdict, shorten=not options.whole))
                return 1
            print(story(history))
            return 0
        return _many(runs, options)


def _many(runs: Runs, options: argparse.Namespace) -> int:
    texts = options.texts or (0 if options.seconds else 1500)
    began, seed = _clock(), options.first
    print(f"seeds from {seed} on")
    verdict, schedule = "", drawn(seed)
    while (not texts or runs.texts < texts) and (not options.seconds or _clock() - began < options.seconds):
        schedule = drawn(seed)
        if verdict := runs.run(schedule).verdict:
            break
        seed += 1
    seconds = _clock() - began
    print(
        f"{runs.texts} texts, {runs.faults} faults, {seed - options.first} seeds that keep all rules, in "
        f"{seconds:.1f} s: {runs.texts / seconds:.1f} texts/s, {runs.faults / seconds:.1f} faults/s"
    )
    print(", ".join(f"{what} {number}" for what, number in sorted(runs.counts.items())), flush=True)
    if verdict:
        print(failure(runs, schedule, verdict, shorten=not options.whole))
    return 1 if verdict else 0


if __name__ == "__main__":
    if sys.flags.hash_randomization:  # sets of texts have the same order in each run without it
        again = [sys.executable, "-m", "lab.sim", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606  ourselves
    sys.exit(main())
