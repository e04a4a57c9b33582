"""One node, several versions: the model of a request names the workers that write it."""

from __future__ import annotations

from broker.launcher import PrivateBroker
from tests.daemons import FakeEngine, until, worker_at
from tests.edge_node.api.served import expected, ids_of, links_to, served, shown


async def test_the_model_names_the_version(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, give_up=0.3) as api:
        own = api.daemons[0].worker.machine.counters
        assert (await api.chat(model="av-other")).status_code == 404
        async with worker_at(links_to(mosquitto), "av-w", FakeEngine(), version="av-other") as other:
            await until(lambda: "av-other" in api.node.directory.versions())
            answer = (await api.chat(model="av-other", seed=1, max_tokens=20)).json()
            assert answer["model"] == answer["usage"]["flexspec"]["version"] == "av-other"
            tokens, _ = expected(ids_of("hello"), 1, 20)
            assert answer["choices"][0]["message"]["content"] == shown(tokens)
            assert (own.opened, other.worker.machine.counters.opened) == (0, 1)
            assert (await api.chat(seed=1, max_tokens=20)).json()["model"] == api.version
            assert (own.opened, other.worker.machine.counters.opened) == (1, 1)
