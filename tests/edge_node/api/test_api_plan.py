"""How drafts are planned, and why: over HTTP, in an answer's figures, and by the command."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.engine.interface import StepResult
from edge_node.cli.main import main
from edge_node.energy import energy_meter
from edge_node.limits import LimitOptions
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.plan import Plan
from tests.daemons import FakeEngine, until
from tests.doctor.setups import answering
from tests.edge_node.api.served import Served, served, waiting_engine
from tests.edge_node.api.test_api_answers import fits
from tests.integration.processes import silent_port

BASE = Plan(draft_length=4, in_flight=2, qos=1, ahead=8, worker_draft=8)


class SlowEngine(FakeEngine):
    """Its forwards take long enough to be seen: verdicts tell whole milliseconds."""

    def step(self) -> StepResult:
        began = time.perf_counter()
        time.sleep(0.003)
        return replace(super().step(), compute_ms=int(1000 * (time.perf_counter() - began)))


async def plans(api: Served) -> list[dict[str, Any]]:
    answer = await api.get("/v1/plan")
    assert answer.status_code == 200
    fits(answer.json(), "PlanList")
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_a_fixed_plan_was_chosen_over_nothing_and_says_whether_a_text_is_under_way(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        assert await plans(api) == []
        asking = asyncio.create_task(api.chat(max_tokens=30, ignore_eos=True))
        await until(lambda: api.node.sessions == 1)
        (found,) = await plans(api)
        assert (found["under_way"], found["age_s"]) == (True, None)
        engine.gate.set()
        ours = (await asking).json()["usage"]["flexspec"]
        (found,) = await plans(api)
        assert found["version"] == api.version
        assert not found["under_way"]
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
        assert await api.answers(200, "/v1/plan") == 3


async def test_a_policy_that_compares_tells_what_it_chose_among(mosquitto: PrivateBroker) -> None:
    async with served(
        mosquitto, engine=SlowEngine(), policy=lambda: ClosedFormPolicy(BASE, choose_qos=True)
    ) as api:
        ours = (await api.chat(max_tokens=150, ignore_eos=True)).json()["usage"]["flexspec"]
        (found,) = await plans(api)
        assert found["plan"]["policy"] == ours["plan"]["policy"] == "closed-form"
        told = found["alternatives"]
        assert len(told) in (3, 4)
        assert sum(one["chosen"] for one in told) == 1
        tried = [one["ms_per_token"] for one in told if one["ms_per_token"] is not None]
        assert tried == sorted(tried)
        assert tried[0] > 0
        assert len(tried) == len(told)


async def command(api: Served, *arguments: str) -> int:
    """``flexspec-edge plan`` on a thread of its own, beside the server."""
    return await asyncio.to_thread(main, ["plan", "--api-port", str(api.port), *arguments])


async def test_the_command_prints_a_table_or_the_json(
    mosquitto: PrivateBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served(mosquitto, engine=SlowEngine(), policy=lambda: ClosedFormPolicy(BASE)) as api:
        assert await command(api) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: the edge node has planned nothing yet\n  hint: ")
        await api.chat(max_tokens=200, ignore_eos=True)
        assert await command(api, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert await command(api) == 0
        lines = capsys.readouterr().out.splitlines()
        (found,) = told["data"]
        assert lines[0] == f"{api.version}: {found['plan']['does']}"
        assert lines[1].startswith("  policy closed-form; run-ahead ")
        (marked,) = [line for line in lines if "  *  " in line]
        assert marked.endswith(found["plan"]["does"]), "the first line and the star tell the same plan"
        rows = {line.split()[-1] for line in lines if line.startswith("  ") and line.split()}
        seen = {name for name, one in found["estimates"].items() if one["value"] is not None}
        assert seen <= rows
        assert "acceptance_4" in seen
        unseen = next(line for line in lines if line.startswith("  not seen yet: "))
        assert {name.strip() for name in unseen.partition(":")[2].split(",")} == set(
            found["estimates"]
        ) - seen


async def test_the_command_takes_the_key_from_its_file(
    mosquitto: PrivateBroker, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with served(mosquitto, api_key="secret") as api:
        assert await command(api) == 4
        assert "asks for its API key" in capsys.readouterr().err
        (tmp_path / "key").write_text("secret\n")
        assert await command(api, "--api-key-file", str(tmp_path / "key")) == 1
        assert "planned nothing yet" in capsys.readouterr().err


def test_the_command_says_that_nobody_serves(capsys: pytest.CaptureFixture[str]) -> None:
    with silent_port() as port:
        assert main(["plan", "--api-port", str(port)]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: no edge node serves its API on 127.0.0.1 port {port}: ")
    assert "flexspec-edge serve" in said.err
    assert main(["plan", "--api-port", "0"]) == 2
    assert "error: --api-port 0 is any free port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n<html></html>",
        b'HTTP/1.0 200 OK\r\n\r\n{"object": "list"}',
        b'HTTP/1.0 404 Not Found\r\n\r\n{"error": {"message": "there is no such path"}}',
        b'HTTP/1.0 500 Oh\r\n\r\n{"oh": 1}',
    ],
)
def test_the_command_says_that_somebody_else_answers(
    answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as port:
        assert main(["plan", "--api-port", str(port)]) == 6
    assert f"127.0.0.1 port {port} is no edge node that tells its plans" in capsys.readouterr().err


@pytest.mark.parametrize(("budget", "state"), [(1e-6, "out_of_reach"), (1e6, "kept")])
async def test_limits_are_told_by_an_answer_the_plan_the_command_the_metrics_and_the_log(
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
        (found,) = await plans(api)
        assert found["limits"] == [told]
        assert all(one["j_per_token"] > 0 for one in found["alternatives"])
        assert any(one["allowed"] for one in found["alternatives"])
        line = f'flexspec_edge:limits_total{{limit="energy_budget",state="{state}"}}'
        assert await api.metric(line) == 1
        assert await command(api) == 0
        said = capsys.readouterr().out
        assert f"J per token: {state.replace('_', ' ')}" in said
        assert "J/token" in said
        assert (await api.chat(max_tokens=5, ignore_eos=True)).status_code == 200
        await until(lambda: api.node.sessions == 0)
    logged = [one.getMessage() for one in caplog.records if "energy budget" in one.getMessage()]
    assert len(logged) == (state == "out_of_reach"), "once, as it stands no otherwise after the second text"
    assert all("cannot be kept now" in words for words in logged)
