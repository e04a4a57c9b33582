"""Versions on real tiny models, one with a LoRA of the draft: the worker drafts with it, and no text changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("peft")

from cloud_worker.engine.draft import load_for_version
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.load import load_engine
from cloud_worker.engine.thread import EngineThread
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions import loader as loading
from cloud_worker.versions.family import base_of
from flexspec_mq.evolution.canaries import greedy, load_base
from flexspec_mq.heads.manifest import Canary, HeadError
from flexspec_mq.models.head_files import ADAPTER, CONFIG, DRAFT, read_full, read_lora
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.weights import weights_fingerprint
from schemas.catalogue import BASE_ID
from schemas.messages import Identity, Sampling
from tests.cloud_worker import works
from tests.families import Operator
from tests.models.tiny_checkpoints import save
from tests.models.tiny_heads import save_full, save_lora
from tests.models.tiny_models import built

PROMPT, TOKENS, ROOM, FLOOR = tuple(range(3, 20)), 48, 4, 1


def write(
    engine: ModelEngine, version: str, half: Callable[[], object] = lambda: None
) -> tuple[tuple[int, ...], int]:
    """Text of a version, and in how many rounds it was written; ``half`` is called in the middle."""
    identity = Identity(2, bytes(16), Sampling(seed=1), (), True, TOKENS)
    rounds = 0

    def drafted(_text: tuple[int, ...]) -> tuple[int, ...]:
        nonlocal rounds
        rounds += 1
        if rounds == TOKENS // 4:
            half()
        return ()

    return works.write(engine, identity, PROMPT, drafted, version=version, room=ROOM)


def test_a_version_is_drafted_for_by_its_lora_and_writes_the_same_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is its own draft, so what makes the version of the base makes the version's draft of the draft."""
    monkeypatch.setattr(loading, "MOST_DRAFTERS", 1)
    base = save(tmp_path / "base", built("llama"))
    head = save_lora(base, tmp_path / "head", rank=8, floor=FLOOR, size=0.3)
    settings = WorkerSettings(
        target=str(base), draft=str(base), worker="w", kv_mb=64, threads=1, draft_rows="all"
    )
    engine = load_engine(settings, lambda _: None)
    assert isinstance(engine, ModelEngine)
    heads = engine.head_holder
    assert heads is not None
    facts = base_of(settings, heads)
    assert facts.base_id == bytes.fromhex(weights_fingerprint(base))[:BASE_ID], "catalogues name it so"
    model = load_base(base, dtype="bfloat16")
    shape = Shape.from_config(heads.loaded.config)
    model.hold("v", read_lora(head, shape, FLOOR))
    model.hold("full", read_full(save_full(base, tmp_path / "full", floor=FLOOR), shape, FLOOR))
    plainly, truth, tuned = (greedy(model, PROMPT, TOKENS, (), name) for name in ("", "v", "full"))
    assert len({plainly, truth, tuned}) == 3

    operator, plain = Operator(tmp_path / "heads"), {n: (head / n).read_bytes() for n in (CONFIG, ADAPTER)}

    def published(files: dict[str, bytes] | Path, text: tuple[int, ...], kind: str) -> bytes:
        canaries = (Canary(PROMPT, text[:16]),) if text else ()
        like = {"base": facts.base, "tokenizer": facts.tokenizer, "layers": facts.layers}
        return operator.head(files, kind=kind, floor=FLOOR, canaries=canaries, **like)

    lora = {f"{DRAFT}{name}": data for name, data in plain.items()}
    digests = {
        name: published(plain | files, truth, "lora")
        for name, files in {"good": lora, "broken": {**lora, f"{DRAFT}{ADAPTER}": b"?"}, "plain": {}}.items()
    }
    digests["full"] = published(tmp_path / "full", tuned, "full")
    digests["plainly"] = published({}, plainly, "base")
    digests["late"] = digests["good"]
    drafter = partial(load_for_version, settings, heads.loaded, say=lambda _: None)
    loader = loading.HeadLoader(settings.version, facts, engine, heads, tmp_path / "cache", drafter)
    thread = EngineThread(engine)
    for name, digest in digests.items():
        loader.load(name, digest, str(operator.heads), thread)
    give = {name: partial(loader.load_drafter, name, digest, thread) for name, digest in digests.items()}
    text, frozen = write(engine, "good")
    assert text == truth
    assert write(engine, "full")[0] == tuned
    assert write(engine, "plainly")[0] == plainly
    for text, why in ((plainly, "of its canaries' 16 tokens come out"), ((), "no canaries")):
        with pytest.raises(HeadError, match=why):
            loader.load("bad", published(plain, text, "lora"), str(operator.heads), thread)
    for name in ("broken", "plain"):
        give[name]()
        text, rounds = write(engine, name)
        assert text == truth
        assert rounds > 0.9 * frozen
    (told,) = (record.getMessage() for record in caplog.records)
    assert (
        "version broken: its LoRA of the draft is not used: its LoRA is not for the draft base: cannot"
        in told
    )

    assert write(engine, "good", give["good"])[0] == truth
    text, own = write(engine, "good")
    assert text == truth
    assert own < 0.8 * frozen  # in few bits the two are not quite one
    give["late"]()  # one more than there is room for
    text, rounds = write(engine, "late")
    assert text == truth
    assert rounds > 0.9 * frozen
    loader.drop("good", thread)
    give["good"]()  # too late: the version is gone
    give["late"]()
    text, rounds = write(engine, "late")
    assert text == truth
    assert rounds < 0.8 * frozen
    thread.close()
