"""Tasks that end with a block, the first of several, and signals that cancel."""

import asyncio
import os
import signal
import threading

import pytest

from flexspec_mq.daemon.signals import on_signal, stoppable
from flexspec_mq.daemon.tasks import any_of, endless, on_thread, running
from flexspec_mq.errors import Cancelled, LocalProtocolError


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _fails() -> None:
    raise ValueError("broken")


async def test_a_running_task_ends_with_its_block() -> None:
    async with running(_for_ever(), "work") as task:
        assert not task.done()
    assert task.cancelled()


async def test_a_failed_task_does_not_hide_in_its_block() -> None:
    async with running(_fails(), "work") as task:
        await any_of(task)
        with pytest.raises(ValueError, match="broken"):
            task.result()


async def test_the_first_of_several_is_the_waited_one() -> None:
    async with running(_for_ever(), "loop") as loop, running(asyncio.sleep(0.0, "done"), "wait") as wait:
        await any_of(wait, loop)
        assert wait.result() == "done"
        assert not loop.done()


async def test_a_loop_that_fails_first_is_raised() -> None:
    with pytest.raises(ValueError, match="broken"):
        await endless("loop", _fails)


async def test_a_loop_that_ends_by_itself_is_an_error() -> None:
    with pytest.raises(LocalProtocolError, match="step loop ended by itself"):
        await endless("step", asyncio.sleep, 0.0)


def test_neither_a_cancelled_caller_nor_the_end_of_the_loop_waits_for_a_thread() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def slow() -> None:
        goes_on.wait(60.0)
        ended.set()

    async def leave() -> None:
        with pytest.raises(ValueError, match="literal"):
            await on_thread(int, "x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await on_thread(slow)

    asyncio.run(leave())
    assert not ended.is_set()
    goes_on.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cancels_what_is_stoppable(number: signal.Signals) -> None:
    told: list[str] = []
    before = signal.getsignal(number)

    async def work() -> None:
        async with stoppable(lambda: told.append("ending")):
            os.kill(os.getpid(), number)
            await _for_ever()

    with pytest.raises(Cancelled, match="stopped by the user"):
        await work()
    assert told == ["ending"]
    assert signal.getsignal(number) is before


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def work() -> None:
        async with stoppable():
            await _for_ever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_callback_hears_its_signals_only_inside_the_block() -> None:
    heard = asyncio.Event()
    before = signal.getsignal(signal.SIGUSR1)
    with on_signal(heard.set, signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(heard.wait(), 60.0)
    assert signal.getsignal(signal.SIGUSR1) is before
