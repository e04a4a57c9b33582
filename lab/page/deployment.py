"""A deployment to look at: TLS and keys, two workers of a family, and two devices, one of them far away."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq.demo.children import python
from lab.testbed.deployment import Daemon, free_port, local_deployment, with_broker
from lab.testbed.family import Operator
from lab.testbed.link.proxy import ProxyLink, proxy_link
from lab.testbed.secured import operator

FAMILY, OLD, NEW = "assistant", "v1", "v2"
DEVICES = {"kiosk": "4g", "boat": "satellite-geo"}
"""Link of each device."""
WORKERS = {"w1": (), "w2": ("--draft", "none")}
"""Flags of each worker: the second has no draft of its own, so that devices draft for it."""
_BROKER_WITHIN = 30.0


@dataclass(slots=True)
class Fleet:
    """A deployment that runs; made by `fleet`.

    Attributes:
        operator: operator of the family.
        key: key of each device's API.
        devices, links: by the device's name.
        traces: file with each device's history, by `lab.chaos.traced`.
        starts: starts each device, at its address.
    """

    operator: Operator
    key: str
    devices: dict[str, Daemon] = field(default_factory=dict)
    links: dict[str, ProxyLink] = field(default_factory=dict)
    traces: dict[str, Path] = field(default_factory=dict)
    starts: dict[str, Callable[[], Awaitable[Daemon]]] = field(default_factory=dict)

    async def restart(self, name: str) -> None:
        """Kill a device's node, and start it again."""
        await self.devices[name].process.kill()
        self.devices[name] = await self.starts[name]()


@asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    """Start it, and end it on leaving.

    Raises:
        FlexSpecError: a command failed, or a daemon did not start.
    """
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="flexspec-page-")))
        here = await stack.enter_async_context(local_deployment(logs=True))
        folder, here.port = scratch / "broker", free_port()
        at = ("--host", "127.0.0.1", "--port", str(here.port), "--tls", "--keys")
        await operator("init", str(folder), *at)
        await operator("add-worker", str(folder), *WORKERS)
        await operator("add-device", str(folder), *DEVICES)
        await operator("add-publisher", str(folder), "publisher")
        bundles = Deployment(folder).bundles

        def login(role: Role, name: str) -> tuple[str, str]:
            return "--config", str(bundles.folder(role, name) / SETTINGS[role])

        here.broker = await here.start(
            "broker", "cloud", python("broker", "run", str(folder), "--ready-json")
        )
        await here.broker.event(lambda event: "pid" in event, _BROKER_WITHIN)
        family = await Operator.create(here, FAMILY, scratch, *login(Role.PUBLISHER, "publisher"))
        await family.begin(OLD, await family.base())
        for name, own in WORKERS.items():
            await here.worker(name, *family.follow(name), *login(Role.WORKER, name), *own)
        made = Fleet(family, secrets.token_urlsafe(16))
        (key_file := scratch / "api.key").write_text(made.key)
        for name, profile in DEVICES.items():
            made.links[name] = link = await stack.enter_async_context(
                proxy_link(profile, ("127.0.0.1", here.port))
            )
            made.traces[name] = scratch / f"{name}.jsonl"
            (control := scratch / f"{name}.control").write_text("")
            flags = (*family.follow(name), *login(Role.EDGE, name), "--broker", f"127.0.0.1:{link.port}")
            api = ("--api-key-file", str(key_file), "--energy", "raspberry-pi-5", "--energy-radio", "4g")
            traced = ("lab.chaos.traced", "edge", str(made.traces[name]), str(control), "0")
            stays = ("--api-port", str(free_port()))
            made.starts[name] = partial(here.edge, name, *flags, *api, *stays, program=traced)
            made.devices[name] = await made.starts[name]()
        yield made


@asynccontextmanager
async def coder(pair: str, *source: str) -> AsyncIterator[tuple[str, ProxyLink]]:
    """A worker and a device of a named pair that can write code; the address of the device's API, and its link.

    Args:
        pair: the pair's name.
        source: flags that say where it is fetched, if it is not here.

    Raises:
        FlexSpecError: a daemon did not start.
    """
    async with with_broker() as here:
        await here.worker("coder", "--pair", pair, *source)
        async with proxy_link("4g", ("127.0.0.1", here.port)) as link:
            at = ("--broker", f"127.0.0.1:{link.port}", "--pair", pair, *source)
            yield (await here.edge("coder", *at)).url, link
