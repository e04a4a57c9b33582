"""The small parts: filters, settings, the retry."""

from __future__ import annotations

import asyncio

import pytest

from flexspec_mq.daemon.retry import Backoff, Waiting, retrying
from flexspec_mq.errors import LinkDown, UsageError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.filters import check_filter, covers, split_share


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a/+", "a/b", True),
        ("a/+", "a/+", True),
        ("a/b", "a/+", False),
        ("a/+", "a/#", False),
        ("a/#", "a/#", True),
        ("a/#", "a/+/c", True),
        ("a/+", "#", False),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b", False),
        ("#", "$SYS/x", False),
        ("$SYS/#", "$SYS/+", True),
    ],
)
def test_filters_cover_filters(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


def test_shares_are_split_and_checked() -> None:
    assert split_share("$share/w/f1/o/v/+") == ("w", "f1/o/v/+")
    assert split_share("f1/o") == (None, "f1/o")
    check_filter("$share/w/f1/o/v/+")
    for broken in ("$share/w", "$share//x", "$share/+/x", "$share/w/#/x"):
        with pytest.raises(UsageError):
            check_filter(broken)


def test_settings_that_make_no_link_are_refused() -> None:
    for wrong in ({"client_id": ""}, {"port": 0}, {"port": 70_000}, {"keepalive": 0}, {"inbound_queue": 0}):
        with pytest.raises(UsageError):
            LinkSettings(**{"client_id": "x", **wrong})  # type: ignore[arg-type]
    assert "secret" not in repr(LinkSettings(client_id="x", password="secret"))  # noqa: S106


async def test_retrying_waits_longer_says_so_and_stops_at_success() -> None:
    waits: list[Waiting] = []
    calls = 0

    async def attempt() -> str:
        nonlocal calls
        calls += 1
        if calls < 6:
            raise LinkDown(f"no {calls}")
        return "there"

    backoff = Backoff(first=0.001, top=0.004)
    result = await retrying(attempt, what="finding it", on=LinkDown, backoff=backoff, on_wait=waits.append)
    assert result == "there"
    assert [w.attempt for w in waits] == [1, 2, 3, 4, 5]
    bounds = [0.001, 0.002, 0.004, 0.004, 0.004]
    assert all(0.0 <= w.delay <= bound for w, bound in zip(waits, bounds, strict=True))
    assert str(waits[0]).startswith("finding it: no 1; attempt 1 failed, next in ")


async def test_retrying_lets_other_errors_through_and_can_be_cancelled() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def down() -> None:
        raise LinkDown("no")

    waits: list[Waiting] = []
    with pytest.raises(ZeroDivisionError):
        await retrying(broken, what="x", on=LinkDown, backoff=Backoff(), on_wait=waits.append)
    assert not waits
    slow = Backoff(first=1000.0, top=1000.0)
    task = asyncio.create_task(retrying(down, what="x", on=LinkDown, backoff=slow, on_wait=waits.append))
    while not waits:  # noqa: ASYNC110  two turns of the loop
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_jitter_is_full_and_bounded() -> None:
    backoff = Backoff(first=1.0, top=8.0)
    for attempt, bound in ((1, 1.0), (3, 4.0), (4, 8.0), (10_000, 8.0)):
        delays = [backoff.delay(attempt) for _ in range(500)]
        # 500 uniform draws all miss a tenth of the range with probability 0.9**500 < 1e-22.
        assert min(delays) < 0.1 * bound
        assert 0.9 * bound < max(delays) <= bound
