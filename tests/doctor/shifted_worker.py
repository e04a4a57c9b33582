"""A worker whose machine's clock is off: ``python -m tests.doctor.shifted_worker PORT SECONDS``."""

from __future__ import annotations

import asyncio
import sys
import time


def shift(seconds: float) -> None:
    """Before anything else is imported, so that nobody keeps the true clock."""
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + seconds
    time.time_ns = lambda: true_ns() + int(seconds * 1e9)


async def serve(port: int) -> None:
    from broker.launcher import PrivateBroker
    from broker.settings import BrokerSettings
    from tests.doctor.setups import worker

    async with worker(PrivateBroker(BrokerSettings(port=port))):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.sleep(100)


if __name__ == "__main__":
    shift(float(sys.argv[2]))
    asyncio.run(serve(int(sys.argv[1])))
