"""`proxy_link`: the demo's proxy with jitter, loss and outages of a plan, and counters.

A lost packet becomes a pause of one retransmission timeout, an outage stalls.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flexspec_mq.demo.proxy import Address, Proxy, Way
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.values import is_loopback
from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.profiles import LinkPlan, built_in


class ProxyLink(Proxy):
    """Made by `proxy_link`.

    Attributes:
        plan: link to emulate.
    """

    def __init__(self, plan: LinkPlan, target: Address) -> None:
        up, down = Impairment(plan, "up"), Impairment(plan, "down")
        super().__init__(up, down, target, plan.begins_s)
        self.plan = plan
        self._counters = LinkCounters(up.counters, down.counters, unit="payload")

    @property
    def counters(self) -> LinkCounters:
        """Chunks and payload bytes so far."""
        self._counters.seconds = self.now() - self.plan.begins_s
        return self._counters

    def went_out(self, way: Way, size: int, late: float) -> None:
        """Count a chunk that one way delivered, `late` seconds after it was due."""
        self._counters.went_out(self._counters.up if way == "up" else self._counters.down, size, late)


@asynccontextmanager
async def proxy_link(
    profile: str | LinkPlan,
    target: Address,
    *,
    listen: Address = ("127.0.0.1", 0),
    insecure_anywhere: bool = False,
) -> AsyncIterator[ProxyLink]:
    """Carry TCP connections to `target` over an emulated link, until the block is left.

    Args:
        profile: name of a built-in profile, or a plan.
        target: host and port to connect to.
        listen: host and port; port 0 takes a free one.
        insecure_anywhere: listen on an address that is not loopback, without TLS or authentication.

    Raises:
        UsageError: no such profile, an address that must not or cannot be listened on.
    """
    plan = profile if isinstance(profile, LinkPlan) else LinkPlan(profile, built_in().get(profile))
    if not insecure_anywhere and not is_loopback(listen[0]):
        raise UsageError(
            f"{listen[0]} is not loopback, and a proxy has no authentication",
            hint="listen on 127.0.0.1, or say --insecure-anywhere",
        )
    async with ProxyLink(plan, target).listening(*listen) as proxy:
        yield proxy
