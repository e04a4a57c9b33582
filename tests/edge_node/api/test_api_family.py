"""An edge node that follows a family, over a real broker: what can be asked for, updates, and what is refused."""

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
from flexspec_mq.drafting.memory import AnswerMemory, listed, version_of
from schemas.status import CatalogueStatus, EdgeStatus
from tests.daemons import FakeEngine, until, worker_at
from tests.edge_node.api.served import Served, alone, content, links_to, said, served
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
from tests.integration.processes import status_on


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
    assert content(answer) == alone(prompt, 1, 20)
    found: dict[str, Any] = answer.json()
    assert found["model"] == found["usage"]["flexspec"]["version"]
    assert found["usage"]["flexspec"]["digest"] == digest(found["model"]).hex()
    return found


async def models(api: Served) -> dict[str, dict[str, Any]]:
    listed = (await api.get("/v1/models")).json()["data"]
    for one in listed:
        assert (await api.get(f"/v1/models/{one['id']}")).json() == one
    return {one["id"]: one["flexspec"] for one in listed}


async def told(broker: PrivateBroker, api: Served, condition: Callable[[EdgeStatus], bool]) -> EdgeStatus:
    """Wait for a status of the edge."""
    return await status_on(broker, topics.edge_status_topic(api.node.name), EdgeStatus, condition)


async def catalogue_told(broker: PrivateBroker, api: Served, word: str) -> CatalogueStatus:
    """Wait until the edge's status says this of its catalogue: its state, or why a message is not taken up."""

    def says(status: EdgeStatus) -> bool:
        assert status.catalogue is not None
        return word in (status.catalogue.state, status.catalogue.why.partition(":")[0])

    found = (await told(broker, api, says)).catalogue
    assert found is not None
    return found


async def test_what_can_be_asked_for(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    own = version(f"{family.name}-a", STABLE)
    new = msgspec.structs.replace(version(f"{family.name}-b", CANARY, 50), base=b"base")
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=own.name, family=family.followed(tmp_path)) as api,
    ):
        assert await models(api) == {}
        said(await api.chat(), 503, "no_catalogue")
        assert family.name in (await api.get("/readyz")).json()["reason"]
        await publish.catalogue(own, new)  # before its keys: it waits for them
        await publish.keys()
        await taken_up(api, family)
        assert (await api.get("/readyz")).status_code == 200
        shown = {"digest": own.digest.hex(), "share": 0, "draft": "shared"}
        meant = {"version": own.name, "state": "stable", **shown}
        assert await models(api) == dict.fromkeys(
            (family.name, f"{family.name}:stable", f"{family.name}:{own.name}"), meant
        )
        tags = (await api.get("/api/tags")).json()["models"]  # Ollama's names have a tag each
        names = [f"{family.name}:{tag}" for tag in ("latest", own.name, "stable")]
        assert sorted((tag["name"], tag["digest"]) for tag in tags) == sorted(
            (name, own.digest.hex()) for name in names
        )
        for name in (*names, family.name):
            asked = {
                "messages": [{"role": "user", "content": "hello"}],
                "options": {"seed": 1, "num_predict": 20},
            }
            answer = (await api.post("/api/chat", {"model": name, "stream": False, **asked})).json()
            assert (answer["message"]["content"], answer["model"]) == (alone("hello", 1, 20), name)
            assert answer["flexspec"]["version"] == own.name
            assert (await api.post("/api/show", {"model": name})).status_code == 200
        for key in ("one", "two", "three", "four"):  # nobody has loaded the canary yet
            assert (await wrote(api, prompt_cache_key=key))["model"] == own.name
        async with worker_at(links_to(mosquitto), f"{family.name}-w", FakeEngine(), version=new.name):
            await online(api, new.name)
            listed = await models(api)
            shown = {"digest": new.digest.hex(), "share": 50, "draft": "independent"}
            assert listed[f"{family.name}:canary"] == {"version": new.name, "state": "canary", **shown}
            for name in (new.name, f"{family.name}:canary", f"{family.name}:{new.name}"):
                assert (await wrote(api, model=name))["model"] == new.name
            assert (await wrote(api, model=f"{family.name}:stable"))["model"] == own.name
            await sides(api, own.name, new.name)
        for name in ("base", f"{family.name}:x"):
            unknown = said(await api.chat(model=name), 404, "model_not_found")
            assert unknown["param"] == "model"
            assert "no version of" in unknown["message"]
        assert (await api.get("/v1/models/base")).status_code == 404


async def sides(api: Served, stable: str, canary: str) -> None:
    """Each key, and each conversation without one, is on one side of a canary of 50 %."""
    catalogue = followed(api).catalogue
    assert catalogue is not None
    seen = set()
    for number in range(24):
        field = ("prompt_cache_key", "safety_identifier", "user")[number % 3]
        side = naming.resolve(catalogue, catalogue.family, f"key {number}".encode()).name
        assert (await wrote(api, **{field: f"key {number}"}))["model"] == side
        seen.add(side)
    assert seen == {stable, canary}
    seen = set()
    for number in range(24):
        first = {"role": "user", "content": f"question {number}"}
        more = [first, {"role": "assistant", "content": "well"}, {"role": "user", "content": "go on"}]
        asked = {(await api.chat(messages=turns, max_tokens=1)).json()["model"] for turns in ([first], more)}
        assert len(asked) == 1
        seen |= asked
    assert seen == {stable, canary}


async def test_an_update_while_texts_are_written(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    before, after = f"{family.name}-a", f"{family.name}-b"
    engine, memory = FakeEngine(), AnswerMemory(tmp_path / "answers", family.name)

    def remembered() -> set[str]:
        return {version_of(path) for path, _ in listed(tmp_path / "answers")}

    async with (
        publisher(mosquitto, family) as publish,
        served(
            mosquitto, version=before, engine=engine, family=family.followed(tmp_path), memory=memory
        ) as api,
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
            messages = [{"role": role, "content": words} for role, words in turns]
            assert (await api.chat(messages=messages, max_tokens=5)).json()["model"] == after
            assert (await wrote(api, model=f"{family.name}:stable"))["model"] == after
            engine.gate.set()
            assert (await running)["model"] == (await early)["model"] == before
            assert (await wrote(api, model=before))["model"] == before
            await until(lambda: remembered() == {before, after})
            await publish.catalogue(version(before, RETIRED), version(after, STABLE))
            await taken_up(api, family)
            retired = said(await api.chat(model=before), 404, "model_not_found")["message"]
            assert f"version {before} of {family.name} is retired" in retired
            assert remembered() == {after}
            assert new.worker.machine.counters.opened == 2
        status = await told(mosquitto, api, lambda status: sum(one.answers for one in status.versions) >= 5)
        by_name = {one.name: one for one in status.versions}
        counted = {name: (one.answers, one.errors) for name, one in by_name.items()}
        assert counted == {before: (3, 0), after: (2, 0)}
        one = by_name[before]
        assert one.digest == digest(before)[:8].hex()
        assert 0 < one.low < one.accepted / one.drafted < one.high < 1
        assert one.tokens > 0
        assert one.seconds > 0
        for name in (before, after):
            lines = "spec_decode_num_draft_tokens_total", "e2e_request_latency_seconds_count"
            drafted, ended = [
                await api.metric(f'flexspec_edge:{line}{{model_name="{name}"}}') for line in lines
            ]
            assert drafted >= by_name[name].drafted
            assert ended == by_name[name].answers


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
        for payload, reason in (
            (family.catalogue(version("evil", STABLE), by=PrivateKey.generate()), Reason.SIGNATURE),
            (family.catalogue(version("evil", STABLE), epoch=epoch - 1), Reason.ROLLBACK),
            (family.catalogue(version("evil", STABLE), epoch=epoch), Reason.EQUIVOCATION),
        ):
            await publish.raw(payload)
            await until(partial(known.refused.get, reason))
            assert known.catalogue is not None
            assert known.catalogue.epoch == epoch
        status = await catalogue_told(mosquitto, api, "equivocation")
        assert (status.state, status.epoch, status.refused) == ("current", epoch, 3)
        assert "two catalogues" in status.alarm
        assert await api.metric('flexspec_edge:catalogue_refused_total{reason="signature"}') == 1
        assert await api.metric("flexspec_edge:catalogue_alarm") == 1
        assert await models(api) == listed
        assert (await wrote(api))["model"] == name


async def test_what_cannot_be_kept_is_not_acted_on(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family, blocked = Family(), tmp_path / "file"
    name, known = f"{family.name}-a", family.followed(blocked)
    blocked.write_text("in the way of the folder")
    async with publisher(mosquitto, family) as publish, served(mosquitto, version=name, family=known) as api:
        for why in ("cannot be written", ""):
            await publish.keys()
            await publish.catalogue(version(name, STABLE))
            if why:
                await until(lambda: known.refused[Reason.KEY_SET])  # for lack of keys, which the disk refused
                assert why in said(await api.chat(), 503, "no_catalogue")["message"]
                blocked.unlink()
        await taken_up(api, family)
        assert (await wrote(api))["model"] == name
        assert known.why == ""


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
        assert await api.metric("flexspec_edge:catalogue_expired") == 1
        assert (await catalogue_told(mosquitto, api, "expired")).expires < late
        # A device that has never seen it does not begin with it.
    never = tmp_path / "never"
    async with served(mosquitto, version=last, family=family.followed(never, lambda: late)) as api:
        await until(lambda: followed(api).refused[Reason.EXPIRED])
        assert "expired" in said(await api.chat(), 503, "no_catalogue")["message"]
