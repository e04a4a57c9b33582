"""Events of the node for whoever looks at it: its page, ``flexspec top``. Nothing is computed while nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

import flexspec_mq
from edge_node.api.errors import ApiError
from edge_node.api.sending import ResponseSender, unless_gone
from edge_node.api.serving import Api
from edge_node.api.views import members
from edge_node.api.views.sentences import Watched, plan_words
from edge_node.text.generator import plan_told
from flexspec_mq import entropy, waiting
from schemas.node import FleetView, LinkView, NodeView, PlanView
from schemas.plan import PlanEstimate, VersionPlan

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Send

    from edge_node.node import EdgeNode

    _Told = tuple[str, msgspec.Struct, msgspec.Struct]
    """Id of the text that an event is about, or nothing; its data; the same without what differs at each look."""

STREAMS = 16
"""Streams of events at a time; beyond it 429."""


async def events(api: Api, request: Request, send: Send) -> None:
    """Send events until the client goes away or the server stops.

    Raises:
        ApiError: 429; too many look already. 499; the client went away.
    """
    if api.node.devices.watchers >= STREAMS:
        message = f"{STREAMS} streams of events are being read, as many as may be"
        raise ApiError(429, message, code="too_many_streams", hint="close a page of this node", retry_after=5)
    await unless_gone(request.receive, _tell(api, ResponseSender(send, api.settings.send_timeout)))


async def _tell(api: Api, sender: ResponseSender) -> None:
    await sender.start(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"})
    stream, spoke = _Stream(api), entropy.now()
    nobody_looked = not api.node.devices.watchers
    with api.node.watched():
        if nobody_looked:  # the first events tell all
            await asyncio.sleep(0.3 * waiting.ANSWER)
        while not api.texts.closed:
            now = entropy.now()
            news = stream.news(now)
            if not news and now - spoke >= api.settings.heartbeat:
                news = b": still here\n\n"
            if news:
                await sender.body(news)
                spoke = now
            await asyncio.sleep(0.4 * waiting.LOOK if len(api.texts) else waiting.LOOK)
    await sender.body(b"", more=False)


class _Stream:
    """Knows what a client was told, and tells it what is new."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sources: dict[str, tuple[float, Callable[[], Iterator[_Told]]]] = {
            "node": (0.0, lambda: _node(api)),
            "text": (0.0, self._texts),
            "plan": (4 * waiting.LOOK, self._plan),
            "fleet": (4 * waiting.LOOK, lambda: _fleet(api.node)),
        }
        self._looked = dict.fromkeys(self._sources, -inf)
        self._told: dict[str, dict[str, bytes]] = {kind: {} for kind in self._sources}
        self._watched: dict[str, Watched] = {}
        self._plans: dict[str, VersionPlan] = {}  # the newest, by their versions

    def news(self, now: float) -> bytes:
        """Events that are due."""
        due = bytearray()
        for kind, (every, look) in self._sources.items():
            if now - self._looked[kind] < every:
                continue
            self._looked[kind] = now
            before, told = self._told[kind], dict[str, bytes]()
            for about, view, gist in look():
                told[about] = msgspec.json.encode(gist)
                if told[about] != before.get(about):
                    due += b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(view))
            self._told[kind] = told
        return bytes(due)

    def _texts(self) -> Iterator[_Told]:
        before, self._watched, now = self._watched, {}, entropy.now()
        for view in self._api.texts.views():
            watched = self._watched[view.id] = before.get(view.id) or Watched()
            plan = None if view.figures is None else self._plans.get(view.figures.version)
            yield view.id, *watched.look(view, plan, now)

    def _plan(self) -> Iterator[_Told]:
        self._plans = {plan.version: plan for plan in _plans(self._api.node)}
        if data := list(self._plans.values()):
            yield "", PlanView(data=data), PlanView(data=[replace(plan, age_s=None) for plan in data])


def _node(api: Api) -> Iterator[_Told]:
    node, newest = api.node, api.metrics.newest
    battery, limits = node.battery, () if newest is None else newest.limits
    view = NodeView(
        edge=node.name,
        release=flexspec_mq.__version__,
        model=node.models.default,
        draft=node.settings.draft,
        connection=node.state.look(),
        not_ready=node.state.not_ready,
        link=LinkView(
            up=node.link.is_up,
            seconds=node.link.seconds,
            losses=node.link.losses,
            rtt_ms=None if newest is None else newest.rtt_ms,
        ),
        texts=node.sessions,
        tokens=api.metrics.tokens,
        outbox=api.texts.outbox.counts,
        energy_j=api.metrics.energy_j,
        energy_source="none" if newest is None else newest.energy_source,
        battery=None if battery is None else 100 * battery,
        limits=list({limit.name: limit for limit in (*limits, *node.reports())}.values()),
    )
    yield "", view, replace(view, link=replace(view.link, seconds=0.0))


def _plans(node: EdgeNode) -> Iterator[VersionPlan]:
    now, active = entropy.now(), node.active_versions
    for version, planned in sorted(node.plans.items()):
        plan, alternatives, alone = (
            plan_told(planned),
            list(planned.alternatives),
            node.provisional_share(version),
        )
        estimates, limits = dict(planned.estimates()), [*planned.limits, *node.reports()]
        if alone.drafted:
            estimates["provisional"] = PlanEstimate(value=alone.share, unit="share", tries=alone.drafted)
        yield VersionPlan(
            version=version,
            under_way=version in active,
            age_s=None if planned.seen.at is None else max(0.0, now - planned.seen.at),
            plan=plan,
            words=plan_words(plan, alternatives, limits, alone.share if alone.drafted else None),
            alternatives=alternatives,
            estimates=estimates,
            limits=limits,
        )


def _fleet(node: EdgeNode) -> Iterator[_Told]:
    family, seen = node.models.followed, node.directory.seen()
    statuses = [status for _, status in seen]
    known = () if family is None or family.catalogue is None else family.catalogue.versions
    status = None if family is None else family.status()
    view = FleetView(
        workers=[members.worker(age, status) for age, status in seen],
        devices=[members.device(status) for status in node.devices.online()],
        blind=node.directory.blind,
        catalogue=status,
        told=[] if status is None else members.catalogue(status),
        versions=[members.version(version, statuses) for version in known],
        history=[] if family is None else list(family.history),
    )
    yield "", view, replace(view, workers=[replace(worker, age_s=0.0) for worker in view.workers])
