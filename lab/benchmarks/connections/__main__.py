"""Thousands of devices at a broker, or at those of sites: memory, silence, opens a second, and how soon all are back.

A deployment as ``flexspec-broker init`` makes it, with TLS, keys and a login for each device; real edge nodes without
drafts, over a thousand in a process, and a worker. They connect, are idle, ask for a text of one token each, and come
back when Mosquitto was killed, that of the first site where there are sites, without a text and with one that waits at
each. Processor time counts more than seconds, as all share the cores of one machine. Bytes are those of the loopback
device: nothing else may use it meanwhile, as in

    unshare --net sh -c 'ip link set lo up; python -m lab.benchmarks.connections'
"""

import asyncio
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from broker.deployment.bundles import SETTINGS
from broker.settings import Role
from edge_node.config import from_arguments
from flexspec_mq import topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import Inbound
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks._common import finish, parser, percentile, program, say, table
from lab.benchmarks.connections.crowd import WITHIN_S, Crowd
from lab.testbed.process import stat_of
from lab.testbed.secured import WORKER, SecuredDeployment, operator, secured_deployment
from schemas.status import WorkerStatus

Figures = dict[str, float]
"""Figures of one number of devices, by what they are."""
_FAILED = "failed"
_WATCHER = "watcher"
"""A device that looks on."""
_QUIETS = 35.0
"""Seconds after which idle devices follow no statuses any more."""
_DEVICES = Path("/proc/net/dev")
"""Counters of this process's network namespace; /sys has those of the namespace that it was mounted in."""


@dataclass(slots=True)
class Load:
    """Memory and processor time of processes, now.

    Attributes:
        mb: resident memory of each.
        cpu: processor seconds of each since its start.
        ip_bytes: bytes on loopback.
        at: seconds.
    """

    mb: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    ip_bytes: int = 0
    at: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, pids: Mapping[str, int]) -> Self:
        """The load of some processes, by their names."""
        now = cls()
        rows = (line.partition(":") for line in _DEVICES.read_text("utf-8").splitlines())
        now.ip_bytes = next(int(figures.split()[0]) for name, _, figures in rows if name.strip() == "lo")
        for name, pid in pids.items():
            lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
            now.mb[name] = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
            now.cpu[name] = sum(map(int, stat_of(pid)[11:13])) / os.sysconf("SC_CLK_TCK")
        return now

    def since(self, before: Self) -> dict[str, float]:
        """Processor seconds that each took since then."""
        return {name: seconds - before.cpu.get(name, 0.0) for name, seconds in self.cpu.items()}


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--devices", type=int, nargs="+", default=[1000, 10_000], help="so many, rising")
    made.add_argument("--sites", type=int, default=0, help="brokers of sites, among which they are shared")
    made.add_argument("--idle", type=float, default=60.0, help="seconds for which silence is measured")
    made.add_argument("--texts", type=int, default=2000, help="asked for, by as many devices")
    made.add_argument(
        "--away", type=float, default=5.0, help="seconds for which the broker is away; 0 is not"
    )
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    return made


async def measure(args: Namespace) -> dict[str, Figures]:
    """Figures by the number of devices."""
    names = [f"c{number:05}" for number in range(max(args.devices))]
    say(f"a deployment with TLS, keys and {len(names)} devices is made")
    flags = ("--target", args.target, "--draft", "none", "--capacity", "256")
    async with secured_deployment(
        (), worker_flags=flags, more_devices=[*names, _WATCHER], sites=args.sites
    ) as here:
        crowd = Crowd(here.processes, await _fingerprint(here))
        found: dict[str, Figures] = {"0": {f"MB, {name}": mb for name, mb in _load(here).mb.items()}}
        joined = 0
        for devices in args.devices:
            row = found[str(devices)] = {}
            row |= await _join(here, crowd, [here.bundle(Role.EDGE, name) for name in names[joined:devices]])
            if args.idle:
                row |= await _idle(here, devices, args.idle)
            row |= {f"MB, {name}": mb for name, mb in _load(here).mb.items()}
            row |= await _ask(here, crowd, args.texts)
            for awaited in (False, True) if args.away else ():
                row |= await _come_back(here, crowd, args.away, awaited=awaited)
            joined = devices
            say(", ".join(f"{name}: {figure:.3g}" for name, figure in row.items()))
    return found


async def _join(here: SecuredDeployment, crowd: Crowd, folders: Sequence[Path]) -> Figures:
    before, more = _load(here), len(folders)
    row = {"connected a second": more / await crowd.join(folders)}
    row |= _each("ms a connect", _load(here).since(before), more)
    began = time.perf_counter()
    await operator("add-device", str(here.folder), f"late-{more}")
    return row | {"s to add one more": time.perf_counter() - began}


async def _idle(here: SecuredDeployment, devices: int, seconds: float) -> Figures:
    await asyncio.sleep(_QUIETS)
    before = _load(here)
    await asyncio.sleep(seconds)
    now = _load(here)
    passed = now.at - before.at
    row = {f"idle, % of a core, {name}": 100 * cpu / passed for name, cpu in now.since(before).items()}
    return row | {"idle, IP bytes a second of a device": (now.ip_bytes - before.ip_bytes) / passed / devices}


async def _ask(here: SecuredDeployment, crowd: Crowd, number: int) -> Figures:
    before = _load(here)
    texts = await crowd.texts(number)
    now = _load(here)
    if texts.failed:
        say(f"failed: {sorted(set(texts.failed))[:3]}")
    return {
        "opens a second": texts.answered / (now.at - before.at),
        **_each("ms an open", now.since(before) | {"devices": texts.cpu}, texts.answered),
        "first token, s, p50": percentile(texts.seconds, 0.5),
        "first token, s, most": max(texts.seconds),
        _FAILED: len(texts.failed),
    }


async def _come_back(here: SecuredDeployment, crowd: Crowd, away: float, *, awaited: bool) -> Figures:
    await crowd.wait(awaited=awaited)
    await asyncio.sleep(waiting.CONNECT)
    away_ones = here.sites or [here.broker]
    back = await away_ones[0].away(away)
    before = _load(here)
    coming = -(-crowd.number // len(away_ones))
    each = [at - back for at in await crowd.all_up(back + WITHIN_S, coming, after=back)]
    shares = {"half": percentile(each, 0.5), "99 %": percentile(each, 0.99), "all": max(each)}
    what = "back, a text waits" if awaited else "back"
    row = {f"{what}, s, {share}": seconds for share, seconds in shares.items()}
    return row | _each(f"{what}, ms", _load(here).since(before), coming)


def _each(what: str, seconds: Mapping[str, float], times: int) -> Figures:
    return {f"{what}, {name}": 1000 * each / times for name, each in seconds.items()}


def _load(here: SecuredDeployment) -> Load:
    pids = {"worker": here.worker.process.pid}
    for number, broker in enumerate((here.broker, *here.sites)):
        where = f" of site {number}" if number else ""
        pids |= {f"Mosquitto{where}": broker.mosquitto, f"its keeper{where}": broker.process.pid}
    return Load.of(pids)


async def _fingerprint(here: SecuredDeployment) -> bytes:
    """The fingerprint of the target's tokenizer, as its worker tells."""
    config = from_arguments(Namespace(config=here.bundle(Role.EDGE, _WATCHER) / SETTINGS[Role.EDGE])).settings
    async with mqtt_link(link_settings(config.link, _WATCHER)) as link:
        await link.subscribe(topics.worker_status_topic(WORKER))
        async for event in link.events():
            if isinstance(event, Inbound):
                return bytes.fromhex(Codec().decode_status(event.payload, WorkerStatus).fingerprint)
    raise FlexSpecError("the worker told no status")


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point; 1 if a text failed."""
    args = build_parser().parse_args(argv)
    if args.quick:
        args.devices, args.idle = [200], 0.0
    found = asyncio.run(measure(args))
    lines = dict.fromkeys(name for row in found.values() for name in row)
    rows = [(name, *(row.get(name) for row in found.values())) for name in lines]
    print(table(("devices", *found), rows))
    finish("connections", found, quick=args.quick)
    return int(any(row.get(_FAILED) for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
