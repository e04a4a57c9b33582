"""The target, as a process: answers the guesses of one device, over MQTT and over TCP.

    python -m lab.traditional.worker MS …arguments of flexspec-cloud…

Every forward takes MS milliseconds more. The target runs in the engine that a worker with these arguments would take.
When it listens it says so in a JSON line on standard output: `port` is that for TCP, at the broker's address. A line
on standard input is answered by one with `forwards` and `cpu_s`, seconds of the processor, since the start.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from cloud_worker.__main__ import build_parser
from cloud_worker.engine.target import Target, load
from cloud_worker.settings import from_arguments
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.daemon.streams import InputLines
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import LinkDown
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from lab.bench.traditional.channel import DOWN, UP, Channel, TcpChannel, mqtt_channel
from lab.bench.traditional.messages import decode, encode
from lab.traditional.worker.verifying import Verifier


async def answer(channel: Channel, verifier: Verifier, compute: Executor) -> None:
    """Answer messages, for ever.

    Raises:
        LinkError: the connection is gone for good.
        RemoteProtocolError: a message is none, or comes where it has no place.
    """
    loop = asyncio.get_running_loop()

    def decided(payload: bytes) -> bytes | None:
        verdict = verifier.take(decode(payload))
        return None if verdict is None else encode(verdict)

    while True:
        found = await loop.run_in_executor(compute, decided, await channel.receive())
        if found is not None:
            channel.send(found)


async def serve(target: Target, verifier: Verifier, settings: LinkSettings) -> None:
    """Serve both ways until one of them fails; errors as of `answer`."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(TcpChannel(reader, writer), verifier, compute)
        except LinkDown:
            writer.close()  # the device has gone
        except Exception as error:  # noqa: BLE001  told to whoever waits, instead of being logged and forgotten
            if not failed.done():
                failed.set_exception(error)

    with ThreadPoolExecutor(1, "target") as compute:
        server = await asyncio.start_server(connected, settings.host, 0)
        async with (
            server,
            mqtt_channel(settings, out=DOWN, into=UP) as mqtt,
            running(answer(mqtt, verifier, compute), "answer") as over_mqtt,
            running(_tell(verifier), "tell"),
        ):
            spare_what_is_loaded()
            _say_ready(target, server.sockets[0].getsockname()[1])
            await any_of(over_mqtt, failed)
            await (failed if failed.done() else over_mqtt)


async def _tell(verifier: Verifier) -> None:
    lines = InputLines()
    while await lines.next() is not None:
        _say({"forwards": verifier.forwards, "cpu_s": time.process_time()})


def _say_ready(target: Target, port: int) -> None:
    _say({"ready": True, "port": port, "vocabulary": target.loaded.tokenizer_status.vocabulary})


def _say(facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _main(argv: Sequence[str]) -> int:
    delay, *flags = argv
    config = from_arguments(build_parser().parse_args(flags)).settings
    logs.configure(config.log)
    settings = config.worker
    with logs.logged_stages() as tell:
        target = load(settings, tell)
    verifier = Verifier(
        target.model,
        vocab_size=target.loaded.vocab_size,
        prefill=settings.prefill,
        delay=float(delay) / 1000.0,
    )
    asyncio.run(serve(target, verifier, link_settings(config.link, f"t-{settings.worker}")))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(_main))
