"""Renders templates in processes that may die: a line of JSON in for each, and a line out."""

import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.models.test_hostile_templates import MEGABYTES, SECONDS, outcome


def limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def answer(**told: str | int) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def child(template: str) -> None:
    written = int(Path("/proc/self/statm").read_text("ascii").split()[5]) * resource.getpagesize()
    limit(resource.RLIMIT_DATA, written + MEGABYTES * 1_000_000)
    limit(resource.RLIMIT_CPU, SECONDS)
    limit(resource.RLIMIT_CORE, 0)
    answer(outcome=outcome(template))


def main() -> None:
    outcome("{{ messages[0]['content'] }}")  # all is loaded
    for line in sys.stdin:
        if not (pid := os.fork()):
            child(json.loads(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            answer(died=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
