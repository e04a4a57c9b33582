"""Heads at one start of a worker and the next: a tiny target, with all that is real around it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_worker.engine.engine import build_engine
from cloud_worker.engine.target import Target, load
from cloud_worker.engine.thread import EngineThread
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions.loader import Base, HeadLoader
from flexspec_mq.heads.manifest import Canary, HeadError
from flexspec_mq.models.heads.files import read_lora
from flexspec_mq.models.heads.head import weights_fingerprint
from flexspec_mq.models.invariance.proof import Proof, Provable, proving_head
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape
from tests.families import Operator
from tests.models.test_compact import built
from tests.models.tiny_checkpoints import save
from tests.models.tiny_heads import save_lora

FLOOR = 1
PROMPT = tuple(range(5, 17))


@dataclass
class Machine:
    """The machine of a worker: its target, and where heads are published and kept."""

    folder: Path
    base: Path
    operator: Operator

    def target(self, **changes: bool) -> tuple[WorkerSettings, Target]:
        settings = WorkerSettings(worker="w", target=str(self.base), dtype="float32", **changes)  # type: ignore[arg-type]
        return settings, load(settings, lambda _: None)

    @contextmanager
    def started(self, **changes: bool) -> Iterator[Callable[[str, bytes], str]]:
        """Loader of heads of a worker that has just been started."""
        settings, target = self.target(**changes)
        engine = build_engine(target, settings)
        base = Base(
            "base",
            weights_fingerprint(self.base),
            target.loaded.fingerprint.hex(),
            Shape.from_config(target.loaded.config, (*FAMILIES, *HEAD_NORMS)),
            "float32",
            "native",
            "exact",
        )
        loader = HeadLoader(base, engine, target, self.folder / "kept", again=settings.prove)
        thread = EngineThread(engine)
        try:
            yield lambda name, digest: loader.load(name, digest, str(self.operator.heads), thread)
        finally:
            thread.close()

    def publish(self, seed: int) -> bytes:
        """A LoRA; its digest."""
        folder = save_lora(self.base, self.folder / f"lora{seed}", rank=4, floor=FLOOR, seed=seed)
        _, target = self.target()
        model, text = target.model, list[int]()
        shape = Shape.from_config(target.loaded.config, (*FAMILIES, *HEAD_NORMS))
        model.hold("it", read_lora(folder, shape, FLOOR))
        while len(text) < 12:
            logits = model.forward([ModelInput(model.new_kv(), [*PROMPT, *text], 1, "it")])
            text.append(int(logits[0].argmax()))
        (folder / "README.md").unlink(missing_ok=True)
        return self.operator.head(
            folder,
            kind="lora",
            base=weights_fingerprint(self.base),
            tokenizer=target.loaded.fingerprint.hex(),
            layers=shape.layers,
            floor=FLOOR,
            dtype="float32",
            canaries=(Canary(PROMPT, tuple(text)),),
        )


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the versions that were proved."""
    made: list[str] = []

    def proving(model: Provable, name: str) -> Generator[float, None, Proof]:
        made.append(name)
        return proving_head(model, name)

    monkeypatch.setattr("flexspec_mq.models.invariance.proof_cache.proving_head", proving)
    return made


def test_a_worker_that_starts_again_proves_only_heads_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proofs: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = Machine(tmp_path, save(tmp_path / "base", built("llama")), Operator(tmp_path / "heads"))
    first, second = machine.publish(1), machine.publish(2)
    with machine.started() as get:
        assert get("v1", first) == "exact"
    assert proofs == ["v1"]
    with machine.started() as get:
        assert get("v1", first) == "exact"
        assert proofs == ["v1"]
        assert get("v2", second) == "exact"
    assert proofs == ["v1", "v2"]
    with machine.started(prove=True) as get:
        assert get("v2", second) == "exact"
    assert proofs == ["v1", "v2", "v2"]
    # A proof is of weights: it does not vouch for a head whose canaries do not come out.
    folder = machine.operator.heads / first.hex()
    (folder / "adapter_model.safetensors").write_bytes(
        (machine.operator.heads / second.hex() / "adapter_model.safetensors").read_bytes()
    )
    for kept in (tmp_path / "kept" / first.hex()).iterdir():
        kept.unlink()
    with machine.started() as get, pytest.raises(HeadError, match="not the file"):
        get("v1", first)
