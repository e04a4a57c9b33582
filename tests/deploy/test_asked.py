"""A deployment by `init` with TLS and keys: an asker, and a node that is killed in the midst of an answer."""

import signal
from pathlib import Path
from typing import Any

import httpx2

from flexspec_mq.demo.recording import until_ready
from lab.testbed.deployment import free_port
from lab.testbed.process import Process
from tests.broker.deployments import good, made, running
from tests.broker.test_watching import figures, series
from tests.daemons import until
from tests.edge_node.asking.asked import Asker, assembled
from tests.edge_node.asking.test_asks import answer_to
from tests.integration.processes import ended, start

ASK: dict[str, Any] = {
    "id": "q", "prompt": "tell me", "max_tokens": 80, "temperature": 0.8, "ignore_eos": True, "stream": True,
}  # fmt: skip


async def test_a_node_that_is_killed_writes_the_same_text_when_it_is_asked_again(
    tmp_path: Path, tiny: Path
) -> None:
    directory, metrics = made(tmp_path / "d", "--keys"), free_port()
    good("add-worker", directory, "w1", "--version", "tiny")
    good("add-device", directory, "alice", "bob")
    good("add-asker", directory, "hub", "--edge", "alice")
    assert "asks alice" in good("list", directory)
    with (directory / "broker.toml").open("a") as settings:
        settings.write(f"metrics_port = {metrics}\n")
    hand_out = directory / "hand-out"
    worker = ("--config", str(hand_out / "worker/w1/cloud.toml"), "--target", str(tiny), "--threads", "1")
    edge = ("--config", str(hand_out / "edge/alice/edge.toml"), "--draft", "none")
    with running(directory, tmp_path / "log") as (_, ready):
        started: list[Process] = []

        async def serve() -> int:
            node = await start("edge_node", "serve", *edge, "--mqtt-ask", "--api-port", "0", "--ready-json")
            started.append(node)
            port: int = (await node.event(lambda line: "port" in line))["port"]
            await until_ready("alice", f"http://127.0.0.1:{port}")
            return port

        try:
            started.append(await start("lab.altered", "25", *worker, "--ready-json"))
            await started[0].event(lambda line: bool(line.get("ready")))
            await serve()
            async with Asker(ready["port"], "hub", bundle=hand_out / "asker/hub") as hub:
                await hub.listen("f1/a/alice")
                assert (await hub.message())[1]["state"] == "online"
                await hub.publish("f1/ask/bob/hub", ASK)  # is no business of bob's, says the broker
                await hub.publish("f1/ask/alice/hub", ASK)
                before = [await hub.message() for _ in range(5)]
                started[-1].send_signal(signal.SIGKILL)
                topic = ""
                while topic != "f1/a/alice":
                    topic, body, *_ = message = await hub.message()
                    before.append(message)
                assert body == {"state": "gone"} | body
                begun = assembled([one for one in before if one[0] != "f1/a/alice"])
                assert begun
                port = await serve()
                await hub.publish("f1/ask/alice/hub", ASK)
                after, last = await answer_to(hub)
                text = assembled([one for one in after if one[0] != "f1/a/alice"])
                assert text.startswith(begun)
                assert len(text) > len(begun)
                async with httpx2.AsyncClient(timeout=60, trust_env=False) as http:
                    body = {key: value for key, value in ASK.items() if key not in ("id", "prompt", "stream")}
                    body |= {
                        "seed": last["usage"]["seed"],
                        "messages": [{"role": "user", "content": "tell me"}],
                    }
                    answer = await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
                assert answer.json()["choices"][0]["message"]["content"] == text
            refused = series("refused_total", user="hub", kind="publish")
            await until(lambda: figures(metrics).get(refused) == 1)
            assert figures(metrics)[series("messages_total", user="hub")] == 2
        finally:
            for process in started:
                if process.runs:
                    process.send_signal(signal.SIGTERM)
                    await ended(process)
