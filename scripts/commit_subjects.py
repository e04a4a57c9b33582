"""Check subjects of commits: the part in front, 72 characters at most. ``python scripts/commit_subjects.py [SINCE]``.

Nothing is checked in an archive, or in a clone that is too shallow to have the commit with which the rule began.
"""

from __future__ import annotations

import re
import subprocess
import sys

SINCE = "e01f27196bbeb03d6e4b4a05b1129650a238c8a2"
"""Last commit before the rule."""
MOST = 72
_SUBJECT = re.compile(r"[a-z][\w ,/.-]*: \S")


def fault(subject: str) -> str:
    """Say what is wrong with a subject; empty if nothing is."""
    if len(subject) > MOST:
        return f"{len(subject)} characters; {MOST} at most"
    return "" if _SUBJECT.match(subject) else 'no part in front, as in "outbox: skip what cannot be read"'


def main() -> int:
    """Print faults; return 1 if there are any."""
    since = sys.argv[1] if sys.argv[1:] else SINCE
    log = ["git", "log", "--no-merges", "--format=%h %s", f"{since}..HEAD"]
    done = subprocess.run(log, capture_output=True, text=True, check=False)
    wrong = 0
    for line in done.stdout.splitlines():
        commit, _, subject = line.partition(" ")
        if why := fault(subject):
            wrong += 1
            sys.stdout.write(f"{commit} {subject}\n    {why}\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
