"""The device, as a process: writes texts by the schemes of traditional speculation, one after the other.

    python -m lab.traditional.edge PORT …arguments of flexspec-edge serve…

PORT is where the target takes TCP connections, at the broker's address. A JSON line on standard input is an `Order`;
the answer is a JSON line on standard output, as `lab.bench.testbed.client_process` gives it. The draft runs in the
engine that an edge node with these arguments would take.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from edge_node.cli.parser import build_parser
from edge_node.config import from_arguments
from edge_node.energy import EnergyMeter, energy_meter
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.drafting.load import DraftModel, load
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from lab.bench.traditional.channel import DOWN, UP, mqtt_channel, tcp_channel
from lab.bench.traditional.order import Order
from lab.traditional.edge.drafting import Drafts
from lab.traditional.edge.writing import Writer


async def serve(model: DraftModel, settings: LinkSettings, port: int, energy: EnergyMeter | None) -> None:
    """Answer lines until standard input ends."""
    if model.network is None:
        raise UsageError("there is no speculation without a draft", hint="give another --draft than none")
    loaded, loop = model.loaded, asyncio.get_running_loop()
    drafts = Drafts(model.network, model.ids, vocab_size=loaded.vocab_size, eos=loaded.eos)
    with ThreadPoolExecutor(1, "draft") as compute:
        async with (
            mqtt_channel(settings, out=UP, into=DOWN) as mqtt,
            tcp_channel(settings.host, port) as tcp,
        ):
            writer = Writer(loaded, drafts, {"mqtt": mqtt, "tcp": tcp}, compute, energy)
            spare_what_is_loaded()
            _say({"ready": True, "vocabulary": loaded.tokenizer_status.vocabulary, "engine": model.engine})
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                _say(await _written(writer, msgspec.json.decode(line, type=Order)))


async def _written(writer: Writer, order: Order) -> dict[str, Any]:
    """A text, or why there is none: the next one may well come."""
    began = time.perf_counter()
    try:
        return await writer.write(order)
    except FlexSpecError as error:
        seconds = time.perf_counter() - began
        return {"text": "", "seconds": seconds, "first": None, "usage": {}, "error": error.message}


def _say(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _main(argv: Sequence[str]) -> int:
    port, *flags = argv
    config = from_arguments(build_parser().parse_args(["serve", *flags])).settings
    logs.configure(config.log)
    with logs.logged_stages() as tell:
        model = load(config.node, tell)
    settings = link_settings(config.link, f"t-{config.node.edge}")
    asyncio.run(serve(model, settings, int(port), energy_meter(config.node)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(_main))
