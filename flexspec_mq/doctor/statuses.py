"""Findings from the statuses that a `Watch` has seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.models.fingerprint import difference
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.doctor.watching import Seen, Watch
    from flexspec_mq.models.load import LoadedText

CLOCK_WARNING, CLOCK_FAILURE = 5.0, 60.0
"""Seconds between two clocks."""
RENEWED = 30.0
"""Seconds within which a retained status counts as that of a living worker; they renew it every 10."""
_SET_CLOCK = (
    "set it right, best by NTP (`timedatectl set-ntp true`): certificates are valid by the clock, and the times in "
    "statuses and logs are compared across machines"
)


def check_clock(findings: Findings, watch: Watch, besides: str = "") -> None:
    """Compare this machine's clock with those of the workers whose fresh statuses were seen.

    Args:
        findings: to add to.
        watch: that has run for a while.
        besides: topic of a worker that does not count, as it may be on this machine.
    """
    ahead = {
        seen.status.worker: offset
        for topic, every in watch.seen.items()
        if topic != besides
        for seen in every
        if (offset := seen.ahead) is not None
        and isinstance(seen.status, WorkerStatus)
        and seen.status.state != "gone"
    }
    if not ahead:
        whose = "worker of another machine" if besides else "worker"
        findings.skip(["clock"], f"no {whose} renewed its status meanwhile: no clock to compare with")
        return
    worst = max(ahead, key=lambda name: abs(ahead[name]))
    off = ahead[worst]
    if abs(off) < CLOCK_WARNING:
        findings.ok("clock", f"within {max(abs(off), 0.1):.1f} s of {_named(list(ahead))}")
        return
    direction = "ahead of" if off > 0 else "behind"
    detail = f"this machine's clock is {duration(abs(off))} {direction} that of worker {worst}"
    right = [name for name, offset in ahead.items() if abs(offset) < CLOCK_WARNING]
    if right:
        advice = f"it agrees with {_named(right)}, so the clock of {worst}'s machine is the wrong one: {_SET_CLOCK}"
    else:
        advice = f"one of the two is wrong; compare both with `date -u`, then {_SET_CLOCK}"
    if abs(off) < CLOCK_FAILURE:
        findings.warn("clock", detail, advice, "clock off")
    else:
        findings.fail("clock", "clock off", detail, advice)


def check_workers(findings: Findings, watch: Watch, version: str, listening: bool | None) -> list[Seen]:
    """Whether a worker of `version` takes sessions; the statuses of those that do.

    Args:
        findings: to add to.
        watch: that has run for a while.
        version: that the edge asks for.
        listening: whether the broker said that somebody subscribes to opens of this version; None if unknown.
    """
    all_of_it = [seen for seen in watch.workers() if version in _versions(_worker(seen))]
    living = [seen for seen in all_of_it if _worker(seen).state == "online" and _lives(seen)]
    if living and listening is not False:
        findings.ok("worker", "; ".join(_described(seen, version) for seen in living))
        return living
    if listening and not watch.workers():
        findings.warn(
            "worker",
            f"somebody subscribes to opens of version {version!r}, but no status of any worker can be read",
            "let this user read f1/w/+; its worker may also be starting just now",
            "ACL refusal",
        )
        return []
    others = {name for seen in watch.workers() if _lives(seen) for name in _versions(_worker(seen))} - {
        version
    }
    detail = f"no worker serves version {version!r}"
    if all_of_it:
        detail += ": " + "; ".join(_why_not(seen) for seen in all_of_it)
    advice = f"start one: `flexspec-cloud --version {version} --broker …`"
    if others:
        names = ", ".join(sorted(others))
        detail += f"; workers that are there serve {names}"
        advice = f"ask for a version that is served (--version {min(others)}), or {advice}"
    if any(_worker(seen).state == "draining" for seen in all_of_it):
        advice = f"it takes no new sessions and ends soon; {advice}"
    findings.fail("worker", "no worker", detail, advice)
    return []


def check_tokenizer(findings: Findings, workers: list[Seen], ours: LoadedText) -> None:
    """Whether the draft's tokenizer is that of the workers' targets, as far as it must be."""
    told = [one for one in map(_worker, workers) if one.fingerprint]
    if not told:
        findings.skip(["tokenizer"], "no worker says which tokenizer its target has")
        return
    short = ours.fingerprint.hex()[:12]
    others = [(one, difference(ours.fingerprint, ours.tokenizer_status, one)) for one in told]
    fatal = [
        f"worker {one.worker} has {one.fingerprint[:12]}…: {how.fatal}" for one, how in others if how.fatal
    ]
    harmless = [f"worker {one.worker}: {how.harmless}" for one, how in others if how.harmless]
    if fatal:
        findings.fail(
            "tokenizer",
            "wrong tokenizer",
            f"ours is {short}…, and {', '.join(fatal)}",
            "the draft must have the target's vocabulary and end of text: give another --draft, or ask for another "
            "--version; with --draft none, name the target's tokenizer with --tokenizer",
        )
    elif harmless:
        findings.warn(
            "tokenizer",
            f"ids and end of text are the target's; {', '.join(harmless)}",
            "texts can be written; for prompts by the target's chat template put its chat_template.jinja and "
            "tokenizer_config.json into the draft's folder",
        )
    else:
        findings.ok("tokenizer", f"that of the target ({short}…)")


def online(watch: Watch, topic: str) -> bool:
    """Whether the broker knows a daemon that has this status to be online now."""
    newest = watch.newest(topic)
    if newest is None or newest.status.state == "gone":
        return False
    return isinstance(newest.status, EdgeStatus) or _lives(newest)  # edges say it once, workers renew it


def check_name(findings: Findings, watch: Watch, topic: str, here: str) -> None:
    """Whether a name is ours alone.

    Args:
        findings: to add to.
        watch: that has run for a while.
        topic: of the name's status.
        here: the daemon on this machine that may be the one that is online; empty if there is none.
    """
    name = topic.rpartition("/")[2]
    kind, flag = ("edge node", "--edge") if topics.worker_of_status(topic) is None else ("worker", "--worker")
    apart = f"give each its own name ({flag} NAME) and its own user; stop the one that is too many"
    fights = watch.fights(topic)
    if fights:
        times = "once" if len(fights) == 1 else f"{len(fights)} times"
        seconds = time.monotonic() - watch.began
        findings.fail(
            "name",
            "two daemons with one id",
            f"two daemons that are both named {name!r} throw each other out: within {seconds:.0f} s another "
            f"process took the name over {times}, from one that had not ended",
            apart,
        )
        return
    newest = watch.newest(topic)
    if newest is None or not online(watch, topic):
        findings.ok("name", f"no other {kind} is named {name!r} now")
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(newest.status.epoch / 1000))
    if here:
        findings.ok("name", f"{name!r} is online since {since}; {here}")
        return
    findings.fail(
        "name",
        "two daemons with one id",
        f"{kind} {name!r} is online already since {since}, and it does not run here: one more with this name would "
        "throw it out, and be thrown out by it",
        f"{apart}; if none runs anywhere, the broker has missed its end: start ours, which renews the status",
    )


def _worker(seen: Seen) -> WorkerStatus:
    assert isinstance(seen.status, WorkerStatus)  # noqa: S101  asked of workers' topics only
    return seen.status


def _lives(seen: Seen) -> bool:
    """It came while we watched, or was written a moment ago by our clock."""
    return seen.fresh or abs(time.time() - seen.status.at) < RENEWED


def _versions(status: WorkerStatus) -> list[str]:
    """For which it takes sessions."""
    if not status.versions:
        return [status.version]
    return [one.name for one in status.versions if one.state == "ready"]


def _described(seen: Seen, version: str) -> str:
    status = _worker(seen)
    return (
        f"{status.worker} serves {version!r}, {status.load} of {status.capacity} sessions, "
        f"verification {status.exactness}"
    )


def _why_not(seen: Seen) -> str:
    status = _worker(seen)
    if status.state != "online":
        return f"{status.worker} is {status.state}"
    if not _lives(seen):
        age = duration(abs(time.time() - status.at))
        return f"{status.worker} said 'online' {age} ago and has not renewed it: it is dead or cut off"
    return f"{status.worker} says 'online', but does not subscribe to what edges send"


def _named(workers: list[str]) -> str:
    shown = ", ".join(sorted(workers)[:3])
    more = f" and {len(workers) - 3} more" if len(workers) > 3 else ""
    return f"worker {shown}{more}" if len(workers) == 1 else f"workers {shown}{more}"


def duration(seconds: float) -> str:
    """A time for people."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400} days"
