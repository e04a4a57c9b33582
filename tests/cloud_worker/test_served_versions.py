"""Versions of a family as LoRA adapters of somebody else's server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("peft")

from cloud_worker.engine.load import load_engine
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.engine.thread import EngineThread
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions.family import base_of
from cloud_worker.versions.loader import HeadLoader
from flexspec_mq.evolution.canaries import greedy, load_base
from flexspec_mq.heads.manifest import Canary, HeadError, Manifest
from flexspec_mq.heads.place import FetchError
from flexspec_mq.models.head_files import read_lora
from flexspec_mq.models.shape import Shape
from schemas.messages import Identity, Sampling
from tests.cloud_worker.works import write
from tests.engine_server import EngineServer
from tests.families import Operator
from tests.models.tiny_heads import save_lora

PROMPT, TOKENS, FLOOR = tuple(range(70, 100)), 24, 1


@dataclass
class Site:
    """A worker's engine at a server, what gets heads ready for it, and two versions of a family."""

    server: EngineServer
    engine: ServerEngine
    loader: HeadLoader
    thread: EngineThread
    base: Manifest
    operator: Operator
    head: Path
    texts: dict[str, tuple[int, ...]]

    def publish(self, text: tuple[int, ...], kind: str = "lora") -> bytes:
        """Put the head where workers fetch it, with a text as its canary."""
        files = {path.name: path.read_bytes() for path in self.head.iterdir() if path.name.startswith("adap")}
        facts = {"base": self.base.base, "tokenizer": self.base.tokenizer, "floor": FLOOR}
        canary = Canary(PROMPT, text)
        return self.operator.head(files, kind=kind, layers=self.base.layers, canaries=(canary,), **facts)

    def load(self, name: str, digest: bytes) -> str:
        return self.loader.load(name, digest, str(self.operator.heads), self.thread)

    def write(self, version: str) -> tuple[int, ...]:
        """Text of a version, with right drafts and without."""
        identity = Identity(2, bytes(16), Sampling(seed=1), (), True, TOKENS)

        def draft(text: tuple[int, ...]) -> tuple[int, ...]:
            return self.texts[version][len(text) : -1][: len(text) % 3]

        return write(self.engine, identity, PROMPT, draft, version=version)[0]


@pytest.fixture
def site(tiny: Path, tmp_path: Path) -> Iterator[Site]:
    head = save_lora(tiny, tmp_path / "head", rank=8, floor=FLOOR, size=0.3)
    model = load_base(tiny, dtype="float32")
    with EngineServer(tiny, name="tiny") as server:
        settings = WorkerSettings(worker="w1", engine="vllm", engine_url=server.url, target=str(tiny))
        engine = load_engine(settings, lambda _: None)
        assert isinstance(engine, ServerEngine)
        heads = engine.head_holder
        assert heads is not None
        model.hold("v1", read_lora(head, Shape.from_config(heads.loaded.config), FLOOR))
        texts = {name: greedy(model, PROMPT, TOKENS, (), one) for name, one in (("base", ""), ("v1", "v1"))}
        base = base_of(settings, heads)
        loader = HeadLoader(settings.version, base, engine, heads, tmp_path / "cache")
        thread = EngineThread(engine)
        yield Site(server, engine, loader, thread, base, Operator(tmp_path / "heads"), head, texts)
        thread.close()
        engine.close()


def test_a_version_is_written_by_an_adapter_whatever_becomes_of_it(site: Site) -> None:
    """It is also there again where the server, or another worker at it, has dropped it."""
    assert site.texts["v1"] != site.texts["base"]
    digest = site.publish(site.texts["v1"])
    for _ in range(2):  # that another worker has loaded it already is no matter
        assert site.load("v1", digest) == "exact up to ties"
    name = f"v1-{digest.hex()[:12]}"
    assert [*site.server.adapters] == [name]
    for version in ("v1", "base", "v1"):
        assert site.write(version) == site.texts[version]
    unload = f"{site.server.url}/v1/unload_lora_adapter"
    httpx2.post(unload, json={"lora_name": name}).raise_for_status()
    assert not site.server.adapters
    assert site.write("v1") == site.texts["v1"]
    site.loader.drop("v1", site.thread)
    assert not site.server.adapters
    assert site.engine.head_holder is not None
    assert site.engine.head_holder.names == {"": "tiny"}


def test_a_version_that_the_server_cannot_hold_is_refused_and_one_that_it_may_hold_later_waits(
    site: Site,
) -> None:
    right = site.texts["v1"]
    with pytest.raises(HeadError, match="of its canaries' 24 tokens come out"):
        site.load("v1", site.publish(site.texts["base"]))
    assert not site.server.adapters
    with pytest.raises(HeadError, match="a server takes LoRA adapters only"):
        site.load("v1", site.publish(right, "full"))
    digest = site.publish(right)
    site.server.kill()
    with pytest.raises(FetchError, match=r"127\.0\.0\.1"):
        site.load("v1", digest)
    site.server.start()
    site.load("v1", digest)
    config = site.head / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(FetchError, match="Loading lora v2-"):
        site.load("v2", site.publish(right))
    assert site.write("v1") == right
