"""An edge node that follows a family, over a real broker: what can be asked for, updates, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from broker.launcher import PrivateBroker
from edge_node.fleet.catalogue import FamilyCatalogue
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.catalogue.refusals import Reason
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.codec import Codec
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.status import EdgeStatus
from tests.daemons import PATIENCE, FakeEngine, until, worker_at
from tests.edge_node.api.served import Served, expected, ids_of, links_to, served, shown
from tests.edge_node.families import (
    CANARY,
    DRAINING,
    RETIRED,
    STABLE,
    WEEK,
    Family,
    digest,
    publisher,
    version,
)


async def taken_up(api: Served, family: Family) -> None:
    """Wait until the newest catalogue is."""
    known = followed(api)
    await until(lambda: known.catalogue is not None and known.catalogue.epoch == family.epoch)


def followed(api: Served) -> FamilyCatalogue:
    known = api.node.models.followed
    assert known is not None
    return known


async def online(api: Served, name: str) -> None:
    await until(lambda: name in api.node.directory.versions())


async def wrote(api: Served, prompt: str = "hello", **more: Any) -> dict[str, Any]:
    """An answer, which must be the target's."""
    answer = await api.chat(prompt, **{"seed": 1, "max_tokens": 20, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["choices"][0]["message"]["content"] == shown(expected(ids_of(prompt), 1, 20)[0])
    assert found["model"] == found["usage"]["flexspec"]["version"]
    assert found["usage"]["flexspec"]["digest"] == digest(found["model"]).hex()
    return found


async def models(api: Served) -> dict[str, dict[str, Any]]:
    listed = (await api.http.get(f"{api.url}/v1/models")).json()["data"]
    for one in listed:
        assert (await api.http.get(f"{api.url}/v1/models/{one['id']}")).json() == one
    return {one["id"]: one["flexspec"] for one in listed}


async def edge_status(broker: PrivateBroker, edge: str) -> EdgeStatus:
    """What the broker keeps of an edge."""
    async with mqtt_link(LinkSettings(port=broker.port, client_id=f"s-{edge}")) as link:
        await link.subscribe(topics.edge_status_topic(edge))
        async for event in link.events():
            if isinstance(event, Inbound):
                return Codec().decode_status(event.payload, EdgeStatus)
    raise AssertionError("the link ended")


async def told(broker: PrivateBroker, edge: str, condition: Callable[[EdgeStatus], bool]) -> EdgeStatus:
    """Wait for a status of an edge."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status = await edge_status(broker, edge)
            if condition(status):
                return status
            await asyncio.sleep(0.1)


def says(word: str) -> Callable[[EdgeStatus], bool]:
    """Whether a status says this of its catalogue: its state, or why a message is not taken up."""

    def condition(status: EdgeStatus) -> bool:
        assert status.catalogue is not None
        return word in (status.catalogue.state, status.catalogue.why.partition(":")[0])

    return condition


async def test_what_can_be_asked_for(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    own = version(f"{family.name}-a", STABLE)
    new = msgspec.structs.replace(version(f"{family.name}-b", CANARY, 50), base=b"base")
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=own.name, family=family.followed(tmp_path)) as api,
    ):
        assert await models(api) == {}
        refused = await api.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_catalogue"
        assert family.name in (await api.http.get(f"{api.url}/readyz")).json()["reason"]
        await publish.catalogue(own, new)  # before its keys: it waits for them
        await publish.keys()
        await taken_up(api, family)
        assert (await api.http.get(f"{api.url}/readyz")).status_code == 200
        meant = {
            "version": own.name,
            "state": "stable",
            "digest": own.digest.hex(),
            "share": 0,
            "draft": "shared",
        }
        assert await models(api) == dict.fromkeys(
            (family.name, f"{family.name}:stable", f"{family.name}:{own.name}"), meant
        )
        for key in ("one", "two", "three", "four"):  # nobody has loaded the canary yet
            assert (await wrote(api, prompt_cache_key=key))["model"] == own.name
        async with worker_at(links_to(mosquitto), f"{family.name}-w", FakeEngine(), version=new.name):
            await online(api, new.name)
            listed = await models(api)
            assert listed[f"{family.name}:canary"] == {
                "version": new.name,
                "state": "canary",
                "digest": new.digest.hex(),
                "share": 50,
                "draft": "independent",
            }
            for name in (new.name, f"{family.name}:canary", f"{family.name}:{new.name}"):
                assert (await wrote(api, model=name))["model"] == new.name
            assert (await wrote(api, model=f"{family.name}:stable"))["model"] == own.name
            await sides(api, own.name, new.name)
        for name, what in (("base", "no version of"), (f"{family.name}:x", "no version of")):
            unknown = await api.chat(model=name)
            assert unknown.status_code == 404
            assert (unknown.json()["error"]["code"], unknown.json()["error"]["param"]) == (
                "model_not_found",
                "model",
            )
            assert what in unknown.json()["error"]["message"]
        assert (await api.http.get(f"{api.url}/v1/models/base")).status_code == 404


async def sides(api: Served, stable: str, canary: str) -> None:
    """Each key, and each conversation without one, is on one side of a canary of 50 %."""
    catalogue = followed(api).catalogue
    assert catalogue is not None
    seen = set()
    for number in range(12):
        field = ("prompt_cache_key", "safety_identifier", "user")[number % 3]
        side = naming.resolve(catalogue, catalogue.family, f"key {number}".encode()).name
        assert (await wrote(api, **{field: f"key {number}"}))["model"] == side
        seen.add(side)
    assert seen == {stable, canary}
    seen = set()
    for number in range(12):
        first = {"role": "user", "content": f"question {number}"}
        more = [first, {"role": "assistant", "content": "well"}, {"role": "user", "content": "go on"}]
        asked = {(await api.chat(messages=turns, max_tokens=1)).json()["model"] for turns in ([first], more)}
        assert len(asked) == 1
        seen |= asked
    assert seen == {stable, canary}


async def test_an_update_while_texts_are_written(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    before, after = f"{family.name}-a", f"{family.name}-b"
    engine = FakeEngine()
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=before, engine=engine, family=family.followed(tmp_path)) as api,
    ):
        await publish.keys()
        await publish.catalogue(version(before, STABLE))
        await taken_up(api, family)
        engine.gate.clear()
        running = asyncio.create_task(wrote(api))
        await until(lambda: api.node.sessions == 1 and engine.entered.is_set())
        await publish.catalogue(version(before, DRAINING), version(after, STABLE))
        await taken_up(api, family)
        early = asyncio.create_task(wrote(api, "early"))  # nobody serves the new version yet
        await until(lambda: api.node.sessions == 2)
        async with worker_at(links_to(mosquitto), f"{family.name}-w", FakeEngine(), version=after) as new:
            await online(api, after)
            # The next turn of a conversation whose version drains.
            turns = [("user", "hello"), ("assistant", "well"), ("user", "more")]
            messages = [{"role": role, "content": said} for role, said in turns]
            assert (await api.chat(messages=messages, max_tokens=5)).json()["model"] == after
            assert (await wrote(api, model=f"{family.name}:stable"))["model"] == after
            engine.gate.set()
            assert (await running)["model"] == (await early)["model"] == before
            assert (await wrote(api, model=before))["model"] == before
            await publish.catalogue(version(before, RETIRED), version(after, STABLE))
            await taken_up(api, family)
            retired = await api.chat(model=before)
            assert retired.status_code == 404
            assert f"version {before} of {family.name} is retired" in retired.json()["error"]["message"]
            assert new.worker.machine.counters.opened == 2
        status = await told(
            mosquitto, api.node.name, lambda status: sum(one.answers for one in status.versions) >= 5
        )
        by_name = {one.name: one for one in status.versions}
        assert {name: (one.answers, one.errors) for name, one in by_name.items()} == {
            before: (3, 0),
            after: (2, 0),
        }
        one = by_name[before]
        assert one.digest == digest(before)[:8].hex()
        assert 0 < one.low < one.accepted / one.drafted < one.high < 1
        assert one.tokens > 0
        assert one.seconds > 0
        for field in ("drafted", "accepted", "tokens", "seconds"):
            line = f'flexspec_edge_version_{field}_total{{digest="{one.digest}",version="{before}"}}'
            assert await api.metric(line) > 0


async def test_what_is_refused_is_told_and_changes_nothing(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=name, family=family.followed(tmp_path)) as api,
    ):
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        await taken_up(api, family)
        epoch, known = family.epoch, followed(api)
        listed = await models(api)
        forged = family.catalogue(version("evil", STABLE), by=PrivateKey.generate())
        older = family.catalogue(version("evil", STABLE), epoch=epoch - 1)
        other = family.catalogue(version("evil", STABLE), epoch=epoch)
        future = family.catalogue(version("evil", STABLE), epoch=int(time.time()) + 10_000)
        for payload, reason in (
            (b"", Reason.EMPTY),
            (forged, Reason.SIGNATURE),
            (older, Reason.ROLLBACK),
            (b"x" * 5000, Reason.OVERSIZE),
            (b"nonsense", Reason.MALFORMED),
            (future, Reason.FUTURE),
            (other, Reason.EQUIVOCATION),
        ):
            before = known.refused[reason]
            await publish.raw(payload)
            await until(partial(more, known, reason, before))
            assert known.catalogue is not None
            assert known.catalogue.epoch == epoch
        status = await told(mosquitto, api.node.name, says("equivocation"))
        assert status.catalogue is not None
        assert (status.catalogue.state, status.catalogue.epoch, status.catalogue.refused) == (
            "current",
            epoch,
            7,
        )
        assert "two catalogues" in status.catalogue.alarm
        assert await api.metric('flexspec_edge_catalogue_refused_total{reason="signature"}') == 1
        assert await api.metric("flexspec_edge_catalogue_alarm") == 1
        assert await models(api) == listed
        assert (await wrote(api))["model"] == name


def more(known: FamilyCatalogue, reason: Reason, before: int) -> bool:
    """Whether more were refused for a reason than before."""
    return known.refused[reason] > before


async def test_a_node_that_starts_again_refuses_an_older_catalogue(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    family = Family()
    name = f"{family.name}-a"
    old = family.catalogue(version("old", STABLE))
    async with publisher(mosquitto, family) as publish:
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        async with served(mosquitto, version=name, family=family.followed(tmp_path)) as api:
            await taken_up(api, family)
        await publish.raw(old)
        async with served(mosquitto, version=name, family=family.followed(tmp_path)) as api:
            await until(lambda: followed(api).refused[Reason.ROLLBACK])
            assert (await wrote(api))["model"] == name
        # Another disk knows nothing of it: so it is the store that refuses.
        async with served(mosquitto, version="old", family=family.followed(tmp_path / "other")) as api:
            assert (await wrote_old(api))["model"] == "old"


async def wrote_old(api: Served) -> dict[str, Any]:
    found: dict[str, Any] = (await api.chat(max_tokens=3)).json()
    return found


async def test_months_later(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    """A device that was switched off for months learns the catalogue from what the broker keeps."""
    family = Family()
    first, last = f"{family.name}-a", f"{family.name}-b"
    month = 30 * 86_400
    now = time.time() + 7 * month
    family.remember(tmp_path, version(first, STABLE))
    async with publisher(mosquitto, family) as publish:
        await publish.keys()
        family.epoch = int(now) - 3600
        await publish.catalogue(version(first, DRAINING), version(last, STABLE))
        async with served(mosquitto, version=last, family=family.followed(tmp_path, lambda: now)) as api:
            assert (await wrote(api))["model"] == last  # at once, though another is on its disk
            assert followed(api).status().state == "current"
    # Nobody signs it anew any more. What is known goes on, and is said to be old.
    late = now + WEEK + month
    async with served(mosquitto, version=last, family=family.followed(tmp_path, lambda: late)) as api:
        assert (await wrote(api))["model"] == last
        assert await api.metric("flexspec_edge_catalogue_expired") == 1
        status = await told(mosquitto, api.node.name, says("expired"))
        assert status.catalogue is not None
        assert status.catalogue.expires < late
        # A device that has never seen it does not begin with it.
    never = tmp_path / "never"
    async with served(mosquitto, version=last, family=family.followed(never, lambda: late)) as api:
        await until(lambda: followed(api).refused[Reason.EXPIRED])
        refused = await api.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_catalogue")
        assert "expired" in refused.json()["error"]["message"]


async def test_what_cannot_be_kept_is_not_acted_on(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with publisher(mosquitto, family) as publish:
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        blocked = tmp_path / "file"
        known = family.followed(blocked)
        blocked.write_text("in the way of the folder")
        async with served(mosquitto, version=name, family=known) as api:
            await until(lambda: "cannot be written" in known.why)
            assert known.catalogue is None
            refused = await api.chat()
            assert refused.status_code == 503
            assert "cannot be written" in refused.json()["error"]["message"]
            blocked.unlink()
            await publish.keys()
            await publish.catalogue(version(name, STABLE))
            await taken_up(api, family)
            assert (await wrote(api))["model"] == name
            assert known.why == ""
