"""A head of upper layers tuned in full, at a worker process with a tiny base."""

import asyncio
import shutil
import time
from pathlib import Path

import torch

from broker.launcher import PrivateBroker
from flexspec_mq.catalogue import editing
from flexspec_mq.heads.manifest import Canary
from flexspec_mq.models.checkpoint import weights_fingerprint
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.head_files import ADAPTER, CONFIG, DRAFT, read_full
from flexspec_mq.models.load import load_text
from flexspec_mq.sampling.params import SamplingParams
from schemas.catalogue import VersionState
from tests.daemons import read, until
from tests.drafting.simulated import SimulatedDrafter
from tests.families import FAMILY, Operator
from tests.integration.processes import edge_of, start_worker, status
from tests.integration.test_family_versions import WARM, asking, publish, states, write
from tests.models.tiny_checkpoints import save
from tests.models.tiny_heads import save_full, save_lora
from tests.models.tiny_models import built

FLOOR = 1
PROMPT = tuple(range(3, 20))

PARAMS = (SamplingParams(), WARM)


async def test_a_full_head_is_followed_proved_and_served(
    own_mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """With a LoRA of the draft, by which the worker drafts for it; the base is the draft too."""
    base = save(tmp_path / "base", built("llama"))
    head = save_full(base, tmp_path / "head", floor=FLOOR)
    lora = save_lora(base, tmp_path / "lora", rank=4, floor=0)
    for name in (CONFIG, ADAPTER):
        shutil.copyfile(lora / name, head / f"{DRAFT}{name}")
    text, operator = load_text(base), Operator(tmp_path / "heads")
    source = Checkpoint(base, text, torch.bfloat16)
    model = source.load()
    layers = text.config["num_hidden_layers"]
    texts = {("v0", params): write(model, "", params, PROMPT) for params in PARAMS}
    model.hold("v1", read_full(head, source.shape, FLOOR))
    texts |= {("v1", params): write(model, "v1", params, PROMPT) for params in PARAMS}
    assert len(set(texts.values())) == len(texts)

    facts = {"base": weights_fingerprint(base), "tokenizer": text.fingerprint.hex(), "layers": layers}
    for name, files in (("v0", {}), ("v1", head)):
        digest = operator.head(
            files,
            kind="full" if name == "v1" else "base",
            canaries=(Canary(PROMPT, texts[name, PARAMS[0]]),),
            floor=FLOOR,
            **facts,
        )
        if name == "v0":
            operator.begin(name, digest)
    operator.catalogue = editing.publish(
        operator.current, time.time() - 50, name="v1", digest=digest, state=VersionState.STABLE
    )
    await publish(own_mosquitto, operator)

    family = ("--family", FAMILY, "--root-key", operator.root.public.hex(), "--state-dir", str(tmp_path))
    worker = await start_worker(
        own_mosquitto,
        "w1",
        "--target",
        str(base),
        "--draft",
        str(base),
        "--kv-mb",
        "64",
        *family,
    )
    drafter = SimulatedDrafter(lambda _seed, context: len(context) % 300, 320)
    try:
        said = await status(
            own_mosquitto,
            "w1",
            lambda one: states(one).items() >= {"v0": "ready", "v1": "ready"}.items(),
        )
        assert {one.name: one.exactness or said.exactness for one in said.versions} == dict.fromkeys(
            ("base", "v0", "v1"), "exact"
        )
        await until(lambda: "version v1 has a draft of its own" in worker.said)
        async with edge_of(own_mosquitto, "e1", drafter, text) as node:
            # All at once, so that they share forwards.
            written = await asyncio.gather(*(read(node.generate(asking(*which, PROMPT))) for which in texts))
        for (which, wanted), (tokens, finish) in zip(texts.items(), written, strict=True):
            assert finish.error is None
            assert tokens == wanted, which
    finally:
        await worker.kill()
