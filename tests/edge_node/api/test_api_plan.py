"""How drafts are planned, and why: over HTTP, in an answer's figures, and on a terminal."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from broker.launcher import PrivateBroker
from cloud_worker.engine.interface import StepResult
from edge_node.energy import energy_meter
from edge_node.limits import LimitOptions
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.chat.top import show
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.controller.plan import Plan
from schemas.plan import LimitReport
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import Served, served, waiting_engine
from tests.edge_node.api.test_api_answers import fits
from tests.edge_node.api.test_api_events import watched

BASE = Plan(draft_length=4, in_flight=2, qos=1, ahead=8, worker_draft=8)


class SlowEngine(FakeEngine):
    """Its forwards take long enough to be seen: verdicts tell whole milliseconds."""

    def step(self) -> StepResult:
        began = time.perf_counter()
        time.sleep(0.003)
        return replace(super().step(), compute_ms=int(1000 * (time.perf_counter() - began)))


async def planned(api: Served, *, under_way: bool = False) -> dict[str, Any]:
    """The plan of the only version."""
    async with watched(api) as seen:
        view = msgspec.to_builtins(await seen.until("plan", lambda view: view.data[0].under_way == under_way))
    fits(view, "PlanView")
    (found,) = view["data"]
    return dict(found)


async def test_a_fixed_plan_was_chosen_over_nothing_and_says_whether_a_text_is_under_way(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        async with watched(api) as seen:
            assert not seen.told["plan"]
        asking = asyncio.create_task(api.chat(max_tokens=30, ignore_eos=True))
        await until(lambda: api.node.sessions == 1)
        assert (await planned(api, under_way=True))["age_s"] is None
        engine.gate.set()
        ours = (await asking).json()["usage"]["flexspec"]
        found = await planned(api)
        assert found["version"] == api.version
        assert found["age_s"] >= 0
        assert found["alternatives"] == []
        told = {
            "policy": "fixed",
            "does": "device drafts K=4 W=2, worker waits",
            "draft_length": 4,
            "in_flight": 2,
        }
        rest = {"ahead": 0, "worker_draft": 0, "qos": 1, "confidence_threshold": 0.0}
        assert found["plan"] == ours["plan"] == told | rest
        assert found["estimates"]["rtt"]["unit"] == "ms"
        assert found["estimates"]["rtt"]["value"] > 0
        assert found["estimates"]["acceptance_1"]["tries"] > 0


async def test_a_policy_that_compares_tells_what_it_chose_among(mosquitto: PrivateBroker) -> None:
    async with served(
        mosquitto, engine=SlowEngine(), policy=lambda: ClosedFormPolicy(BASE, choose_qos=True)
    ) as api:
        ours = (await api.chat(max_tokens=150, ignore_eos=True)).json()["usage"]["flexspec"]
        found = await planned(api)
        assert found["plan"]["policy"] == ours["plan"]["policy"] == "closed-form"
        told = found["alternatives"]
        assert 2 <= len(told) <= 4  # fewer on a busy machine, where drafts are slow
        assert sum(one["chosen"] for one in told) == 1
        tried = [one["ms_per_token"] for one in told if one["ms_per_token"] is not None]
        assert tried == sorted(tried)
        assert tried[0] > 0
        assert len(tried) == len(told)


@pytest.mark.parametrize(("budget", "state"), [(1e-6, "out_of_reach"), (1e6, "kept")])
async def test_limits_are_told_by_an_answer_the_plan_a_terminal_the_metrics_and_the_log(
    mosquitto: PrivateBroker,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    budget: float,
    state: str,
) -> None:
    meter = energy_meter(EdgeSettings(energy="raspberry-pi-5"))
    limits = LimitOptions(energy_budget=budget).limits(PlanOptions(), meter)
    async with served(
        mosquitto,
        energy="raspberry-pi-5",
        engine=SlowEngine(),
        policy=lambda: PlanOptions().new_policy(limits),
    ) as api:
        ours = (await api.chat(max_tokens=60, ignore_eos=True)).json()["usage"]["flexspec"]
        (told,) = ours["limits"]
        assert (told["name"], told["limit"], told["state"]) == ("energy_budget", budget, state)
        assert told["value"] == pytest.approx(ours["energy_j"] / 60, rel=0.05)
        found = await planned(api)
        assert found["limits"] == [told]
        assert all(one["j_per_token"] > 0 for one in found["alternatives"])
        assert any(one["allowed"] for one in found["alternatives"])
        line = f'flexspec_edge:limits_total{{limit="energy_budget",state="{state}"}}'
        assert await api.metric(line) == 1
        await show(ChatOptions(url=api.url), once=True, as_json=False)
        said = capsys.readouterr().out
        assert limit_in_words(LimitReport(**told)) in " ".join(said.split())
        assert "J/token" in said
        assert (await api.chat(max_tokens=5, ignore_eos=True)).status_code == 200
        await until(lambda: api.node.sessions == 0)
    logged = [one.getMessage() for one in caplog.records if "energy budget" in one.getMessage()]
    assert len(logged) == (state == "out_of_reach"), "once, as it stands no otherwise after the second text"
    assert all("cannot be kept now" in words for words in logged)
