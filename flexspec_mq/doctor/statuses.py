"""Checks of the statuses that a `Watch` has seen: clocks, workers, and the daemon's name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from flexspec_mq import topics
from flexspec_mq.daemon.words import duration
from flexspec_mq.doctor.checks import Fault, Skipped, Warned

if TYPE_CHECKING:
    from flexspec_mq.doctor.watch import Seen, Watch
    from schemas.status import WorkerStatus

CLOCK_WARNING, CLOCK_FAILURE = 5.0, 60.0
"""Seconds between two clocks."""
_SET_CLOCK: Final = (
    "set it right, best by NTP (`timedatectl set-ntp true`): certificates are valid by the clock, and the times in "
    "statuses and logs are compared across machines"
)


def check_clock(watch: Watch) -> str:
    """Compare this machine's clock with those of the other workers whose fresh statuses were seen."""
    ahead = {
        status.worker: seen.ahead
        for status, seen in watch.workers()
        if seen.ahead is not None
        and status.state != "gone"
        and topics.worker_status_topic(status.worker) != watch.topic
    }
    if not ahead:
        raise Skipped("no other worker renewed its status meanwhile: no clock to compare with")
    worst = max(ahead, key=lambda name: abs(ahead[name]))
    off = ahead[worst]
    if abs(off) < CLOCK_WARNING:
        return f"within {max(abs(off), 0.1):.1f} s of {_named(list(ahead))}"
    direction = "ahead of" if off > 0 else "behind"
    detail = f"this machine's clock is {duration(abs(off))} {direction} that of worker {worst}"
    if right := [name for name, offset in ahead.items() if abs(offset) < CLOCK_WARNING]:
        advice = f"it agrees with {_named(right)}, so the clock of {worst}'s machine is the wrong one: {_SET_CLOCK}"
    else:
        advice = f"one of the two is wrong; compare both with `date -u`, then {_SET_CLOCK}"
    if abs(off) < CLOCK_FAILURE:
        raise Warned(detail, advice, "clock off")
    raise Fault("clock off", detail, advice)


def living_workers(watch: Watch, version: str, listening: bool | None) -> list[WorkerStatus]:
    """Statuses of the workers of a version that take sessions; `listening` where somebody is known to take opens.

    Raises:
        Fault: there is none.
    """
    workers = watch.workers()
    serving = [(status, seen) for status, seen in workers if version in _versions(status)]
    living = [status for status, seen in serving if status.state == "online" and seen.lives]
    if living and listening is not False:
        return living
    if listening and not workers:
        raise Warned(
            f"somebody subscribes to opens of version {version!r}, but no status of any worker can be read",
            "let this user read f1/w/+; its worker may also be starting just now",
            "ACL refusal",
        )
    others = {name for status, seen in workers if seen.lives for name in _versions(status)} - {version}
    detail = f"no worker serves version {version!r}"
    if serving:
        detail += ": " + "; ".join(_why_not(status, seen) for status, seen in serving)
    advice = f"start one: `flexspec-cloud --version {version} --broker …`"
    if others:
        detail += f"; workers that are there serve {', '.join(sorted(others))}"
        advice = f"ask for a version that is served (--version {min(others)}), or {advice}"
    if any(status.state == "draining" for status, _ in serving):
        advice = f"it takes no new sessions and ends soon; {advice}"
    raise Fault("no worker", detail, advice)


def _versions(status: WorkerStatus) -> list[str]:
    return [version.name for version in status.ready]


def _why_not(status: WorkerStatus, seen: Seen) -> str:
    if status.state != "online":
        return f"{status.worker} is {status.state}"
    if not seen.lives:
        age = duration(abs(time.time() - status.at))
        return f"{status.worker} said 'online' {age} ago and has not renewed it: it is dead or cut off"
    return f"{status.worker} says 'online', but does not subscribe to what edges send"


def check_name(watch: Watch, here: str) -> str:
    """Check whether the name is ours alone; `here` describes the daemon of this machine."""
    name, fault = watch.topic.rpartition("/")[2], "two daemons with one id"
    worker = topics.worker_of_status(watch.topic) is not None
    kind, flag = ("worker", "--worker") if worker else ("edge node", "--edge")
    apart = f"give each its own name ({flag} NAME) and its own user; stop the one that is too many"
    if watch.takeovers:
        detail = (
            f"two daemons that are both named {name!r} throw each other out: within {watch.seconds:.0f} s another "
            "process took the name over from one that had not ended"
        )
        raise Fault(fault, detail, apart)
    if not watch.online or watch.newest is None:
        return f"no other {kind} is named {name!r} now"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(watch.newest.status.epoch / 1000))
    if here:
        return f"{name!r} is online since {since}; {here}"
    raise Warned(
        f"{kind} {name!r} is online already since {since}: if that is not the one of this machine, one more with "
        "this name throws it out, and is thrown out by it",
        f"{apart}; if none runs anywhere, the broker has missed its end: start ours, which renews the status",
        fault,
    )


def _named(workers: list[str]) -> str:
    shown = ", ".join(sorted(workers)[:3])
    more = f" and {len(workers) - 3} more" if len(workers) > 3 else ""
    return f"worker{'s' * (len(workers) > 1)} {shown}{more}"
