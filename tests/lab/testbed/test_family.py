"""An operator of a family on a site, against a real broker."""

import os
from pathlib import Path

import pytest

from flexspec_mq.errors import FlexSpecError
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, digest
from lab.testbed.deployment import Cores, local_deployment
from lab.testbed.family import Operator
from tests.families import simple


async def test_an_operator_begins_a_family_and_moves_it_on(tmp_path: Path) -> None:
    heads = []
    for layers in (30, 31):
        folder = tmp_path / f"head-{layers}"
        folder.mkdir()
        facts = {**simple("base"), "layers": layers, "canaries": (Canary((1,), (2,)),)}
        manifest = Manifest(**facts)  # type: ignore[arg-type]
        (folder / MANIFEST).write_bytes(manifest.encode())
        heads.append((folder, digest(manifest.encode()).hex()))
    async with local_deployment() as here:
        await here.start_broker()
        operator = await Operator.create(here, "smol", tmp_path)
        await operator.begin("v0", heads[0][0])
        await operator.publish("v1", heads[1][0], "--share", "7", "--unserved")
        found = await operator.listed()
        told = [(one["name"], one["state"], one["share"], one["digest"]) for one in found["versions"]]
        assert told == [("v0", "stable", None, heads[0][1]), ("v1", "canary", 7, heads[1][1])]
        assert "v1 stable" in await operator.head("promote", "v1")
        with pytest.raises(FlexSpecError, match="flexspec head retire ended with code") as refused:
            await operator.head("retire", "v1")
        assert "promote another version first" in refused.value.hint
    assert (operator.heads / heads[1][1] / MANIFEST).is_file()


def test_two_cores_are_used_where_there_are_two() -> None:
    cores, allowed = Cores.of_this_process(), os.sched_getaffinity(0)
    assert {cores.cloud, cores.device} <= allowed
    assert (cores.cloud != cores.device) is (len(allowed) > 1)
