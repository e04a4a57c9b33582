"""At a deployment of `flexspec-broker init` a healthy start is no intruder, and a wrong password is one."""

from __future__ import annotations

from pathlib import Path

from lab.testbed.deployment import free_port
from tests.broker.deployments import good_here, made, running
from tests.broker.test_broker_figures import Labels, figures, of
from tests.daemons import until
from tests.integration.processes import ended, start

LOGIN = of("refused_total", user="unknown", kind="login")


def refused(found: dict[tuple[str, Labels], float]) -> dict[tuple[str, Labels], float]:
    return {key: count for key, count in found.items() if key[0] == LOGIN[0]}


async def test_a_healthy_start_is_no_intruder_and_a_wrong_password_is_told_before_a_model_is_looked_for(
    tmp_path: Path, tiny: Path
) -> None:
    directory = made(tmp_path / "d", "--keys")
    good_here("add-worker", directory, "w1", "--version", "tiny")
    good_here("add-device", directory, "alice")
    port = free_port()
    with (directory / "broker.toml").open("a") as settings:
        settings.write(f"metrics_port = {port}\n")
    worker, edge = (directory / "hand-out" / name for name in ("worker/w1", "edge/alice"))
    of_worker = ("--config", str(worker / "cloud.toml"), "--target", str(tiny))
    of_edge = ("--config", str(edge / "edge.toml"), "--draft", "none", "--tokenizer", str(tiny))
    with running(directory, tmp_path / "log"):
        serving = await start("cloud_worker", *of_worker, "--ready-json")
        node = await start("edge_node", "serve", *of_edge, "--api-port", "0", "--ready-json")
        try:
            for daemon in (serving, node):
                await daemon.event(lambda line: bool(line.get("ready")))
            # Mosquitto's log is read on its own way, which may be behind its answers.
            both = (of("connections", user="w1"), of("connections", user="alice"))
            await until(lambda: [figures(port).get(one) for one in both] == [1, 1])
            assert refused(figures(port)) == {}
            doctor = await start("edge_node", "doctor", *of_edge)
            assert (await ended(doctor))[0] == 0, doctor.said
            # It tries what it should not be able to do, as the user that it is.
            expected = {of("refused_total", user="alice", kind="publish"): 1}
            await until(lambda: refused(figures(port)) == expected)
        finally:
            await serving.kill()
            await node.kill()
        (worker / "password").write_text("not the password\n")
        code, said = await ended(await start("cloud_worker", *of_worker[:2], "--target", "/no/such/model"))
        assert code == 4, said
        assert "refuses user 'w1'" in said
        await until(lambda: refused(figures(port)) == {**expected, LOGIN: 1})
