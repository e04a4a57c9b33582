"""A family with versions of two bases: a worker process on each, an edge that follows, and a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from edge_node.fleet.catalogue import FamilyCatalogue
from edge_node.node import EdgeNode
from flexspec_mq.catalogue.store import Store
from flexspec_mq.cli import main
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, file_entry
from flexspec_mq.models.head_files import read_lora
from flexspec_mq.sampling.params import SamplingParams
from schemas.status import WorkerStatus
from tests.daemons import read
from tests.drafting.simulated import SimulatedDrafter
from tests.families import FAMILY, Operator
from tests.integration.processes import edge_of, start_worker, status
from tests.integration.test_family_versions import (
    FLOOR,
    LAYERS,
    PROMPT,
    WARM,
    Family,
    asking,
    on,
    publish,
    save_adapters,
    save_base,
    states,
)

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

OTHER_LAYERS = 8
"""Layers of the other base, which writes other texts."""


@dataclass
class Site:
    """A family to which the operator's commands have added versions of another base.

    Attributes:
        first: the family's base, of which is v0.
        other: the other base, of which are w0 and the head w1.
    """

    folder: Path
    broker: PrivateBroker
    operator: Operator
    first: Family
    other: Family

    def flags(self, *keys: str) -> list[str]:
        root = self.operator.root.public.hex()
        return [
            *("--broker", f"{self.broker.host}:{self.broker.port}", "--family", FAMILY, "--root-key", root),
            *("--state-dir", str(self.folder / "state"), *keys),
        ]

    def head(self, *words: str | Path) -> None:
        assert main(["head", *map(str, words)]) == 0, words

    def publish(self, folder: Path, name: str, base: str) -> None:
        key = self.flags("--key", str(self.folder / "online.pem"))
        self.head("publish", folder, "--name", name, "--share", "1", "--base", base, *key)

    def publish_other_base(self) -> None:
        """The other base and a head on it, by the commands that make and publish them."""
        self.head("base", "--base", self.folder / "other", "--out", self.folder / "w0")
        self.publish(self.folder / "w0", "w0", str(self.folder / "other"))
        folder = self.other.adapters / "w1"
        self.other.model.hold("w1", read_lora(folder, self.other.model.shape, FLOOR))
        canary = Canary(PROMPT, self.other.write("w1", SamplingParams()))
        files = tuple(map(file_entry, sorted(folder.iterdir())))
        manifest = Manifest(kind="lora", files=files, canaries=(canary,), **self.other.facts)  # type: ignore[arg-type]
        (folder / MANIFEST).write_bytes(manifest.encode())
        self.publish(folder, "w1", "none")  # its weights are random, as those in a random order are


@pytest.fixture
def site(tmp_path: Path, own_mosquitto: PrivateBroker) -> Site:
    operator = Operator(tmp_path / "heads")
    operator.online.save(tmp_path / "online.pem")
    first = on(save_base(tmp_path / "first", LAYERS), operator, tmp_path)
    first.begin()
    asyncio.run(publish(own_mosquitto, operator))
    other = save_base(tmp_path / "other", OTHER_LAYERS)
    save_adapters(tmp_path / "adapters", "w1", base=other)
    return Site(tmp_path, own_mosquitto, operator, first, on(other, operator, tmp_path / "adapters"))


@asynccontextmanager
async def workers(site: Site) -> AsyncIterator[None]:
    """A worker on each base."""
    async with AsyncExitStack() as stack:
        for name, base in (("w1", "first"), ("w2", "other")):
            flags = ("--family", FAMILY, "--root-key", site.operator.root.public.hex())
            state = ("--state-dir", str(site.folder / name))
            target = ("--target", str(site.folder / base), "--version", base)
            process = await start_worker(site.broker, name, *flags, *state, *target)
            stack.push_async_callback(process.kill)
        yield


@asynccontextmanager
async def edge(site: Site) -> AsyncIterator[EdgeNode]:
    """An edge that follows the family."""
    followed = FamilyCatalogue(FAMILY, site.operator.root.public, Store(site.folder / "edge", FAMILY))
    drafter = SimulatedDrafter(lambda _seed, context: len(context) % 1000, 2048)
    async with edge_of(site.broker, "e1", drafter, site.first.text, family=followed) as node:
        await node.models.settled()
        yield node


def has(names: set[str], found: WorkerStatus) -> bool:
    """Whether these versions are ready, and others are not spoken of."""
    return states(found) == dict.fromkeys(names, "ready")


async def check(site: Site) -> None:
    """Each worker has the versions of its base and says nothing of the others; the edge gets both bases' texts."""
    own = {"w1": {"first", "v0"}, "w2": {"other", "w0", "w1"}}
    async with workers(site), edge(site) as node:
        for worker, names in own.items():
            await status(site.broker, worker, partial(has, names))
        wanted = (
            ("v0", site.first.write("", WARM)),
            ("w0", site.other.write("", WARM)),
            ("w1", site.other.write("w1", WARM)),
        )
        assert len({text for _, text in wanted}) == len(wanted)
        targets = [node.models.resolve(f"{FAMILY}:{name}", b"") for name, _ in wanted]
        assert await node.directory.wait_until(lambda: all(map(node.models.is_online, targets)), 10.0)
        texts = [read(node.generate(asking(target.version, WARM))) for target in targets]
        for (name, text), (tokens, finish) in zip(wanted, await asyncio.gather(*texts), strict=True):
            assert finish.error is None
            assert tokens == text, name


def test_two_bases_of_one_tokenizer_are_served_in_one_family(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publish_other_base()
    capsys.readouterr()
    asyncio.run(check(site))
    site.head("list", "--json", "--wait", "0.1", *site.flags())
    listed = json.loads(capsys.readouterr().out)["versions"]
    drafts = {one["name"]: one["draft"] for one in listed}
    assert drafts == {"v0": "shared", "w0": "independent", "w1": "independent"}
