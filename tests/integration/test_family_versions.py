"""A worker process that follows a family, with nine layers of the default model and heads that peft made."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from broker.launcher import PrivateBroker
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from flexspec_mq.catalogue import editing
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.heads.manifest import Canary
from flexspec_mq.models.checkpoint import weights_fingerprint
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.head_files import read_lora
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.process import Process
from schemas.catalogue import VersionState
from schemas.status import VersionStatus, WorkerStatus
from tests.daemons import read
from tests.drafting.simulated import SimulatedDrafter
from tests.families import FAMILY, Operator
from tests.integration.processes import PATIENCE, edge_of, start_worker, status

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

FLOOR, LAYERS = 6, 9
LENGTH = 16
PROMPT = (1, 4093, 198, 19556, 314, 253, 4233, 30, 2)
WARM = SamplingParams(0.8, 0, 1.0, 20_240_230)


def save_base(folder: Path, layers: int) -> Path:
    """The lowest layers of the default model, with its tokenizer and template."""
    whole = default_model_path()
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    upper = tuple(f"model.layers.{index}." for index in range(layers, 30))
    tensors = load_file(whole / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(upper)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), "utf-8")
    return folder


def save_adapters(folder: Path, *names: str, base: Path) -> None:
    """LoRAs whose weights are random, and large enough to change what is written."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj", "down_proj"],
        layers_to_transform=list(range(FLOOR, model.config.num_hidden_layers)),
    )
    adapted: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name in names:
        for weight, tensor in adapted.named_parameters():
            if ".lora_B." in weight:
                torch.nn.init.normal_(tensor, std=0.3)
        adapted.save_pretrained(folder / name, save_embedding_layers=False)
        (folder / name / "README.md").unlink(missing_ok=True)


def write(
    model: TargetModel, head: str, params: SamplingParams, prompt: tuple[int, ...] = PROMPT
) -> tuple[int, ...]:
    """Reference text of a version, decoded alone, one token at a time."""
    kv, tokens, out = model.new_kv(), list(prompt), list[int]()
    while len(out) < LENGTH:
        logits = to_numpy(model.forward([ModelInput(kv, tokens, 1, head)]))
        out.append(token := choose(logits[0], params, len(prompt) + len(out)))
        tokens = [token]
    return tuple(out)


@dataclass
class Family:
    """A family that is served, and a local model that writes the reference text of each version."""

    base: Path
    adapters: Path
    operator: Operator
    text: LoadedText
    model: ExactModel
    facts: dict[str, object]

    def write(self, head: str, params: SamplingParams, prompt: tuple[int, ...] = PROMPT) -> tuple[int, ...]:
        """Reference text of a head, decoded alone, one token at a time."""
        return write(self.model, head, params, prompt)

    def begin(self) -> None:
        """Begin the family with its base, as v0."""
        canary = Canary(PROMPT, self.write("", SamplingParams()))
        self.operator.begin("v0", self.operator.head({}, kind="base", canaries=(canary,), **self.facts))

    def publish_head(self, name: str, canaries: tuple[Canary, ...] | None = None) -> bytes:
        """Hold a head here, and put it where workers find it."""
        folder = self.adapters / name
        self.model.hold(name, read_lora(folder, self.model.shape, FLOOR))
        canaries = (Canary(PROMPT, self.write(name, SamplingParams())),) if canaries is None else canaries
        return self.operator.head(folder, kind="lora", canaries=canaries, **self.facts)


def on(base: Path, operator: Operator, adapters: Path) -> Family:
    """A base, and a model of our own that says what its versions write."""
    text = load_text(base)
    model = Checkpoint(base, text, torch.bfloat16).load()
    facts: dict[str, object] = {
        "base": weights_fingerprint(base),
        "tokenizer": text.fingerprint.hex(),
        "layers": model.shape.layers,
        "floor": FLOOR,
    }
    return Family(base, adapters, operator, text, model, facts)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """v0 is the base and stable; v1 is a head that is published as well."""
    root = tmp_path_factory.mktemp("family")
    base = save_base(root / "base", LAYERS)
    save_adapters(root / "adapters", "v1", "v2", "v3", "v4", base=base)
    family = on(base, Operator(root / "heads"), root / "adapters")
    family.begin()
    operator, first = family.operator, family.publish_head("v1")
    operator.catalogue = editing.publish(operator.current, time.time() - 90, name="v1", digest=first)
    return family


@asynccontextmanager
async def worker(broker: PrivateBroker, family: Family, state: Path) -> AsyncIterator[Process]:
    own = ("--family", FAMILY, "--root-key", family.operator.root.public.hex(), "--state-dir", str(state))
    process = await start_worker(broker, "w1", "--target", str(family.base), *own)
    try:
        yield process
    finally:
        await process.kill()


def edge(broker: PrivateBroker, family: Family) -> AbstractAsyncContextManager[EdgeNode]:
    """An edge whose draft is always wrong, which costs time and changes nothing."""
    return edge_of(
        broker, "e1", SimulatedDrafter(lambda _seed, context: len(context) % 1000, 2048), family.text
    )


def asking(version: str, params: SamplingParams, prompt: tuple[int, ...] = PROMPT) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        sampling=params,
        limit=LENGTH,
        policy=FixedPolicy(Plan(draft_length=2, in_flight=1, qos=1)),
        ignore_eos=True,
        version=version,
    )


async def publish(broker: PrivateBroker, operator: Operator) -> None:
    async with mqtt_link(LinkSettings(port=broker.port, client_id="operator")) as link:
        await link.wait_up(PATIENCE)
        await operator.publish(link)


def states(found: WorkerStatus) -> dict[str, str]:
    return {one.name: one.state for one in found.versions}


async def until(broker: PrivateBroker, wanted: dict[str, str]) -> dict[str, VersionStatus]:
    """Wait until the worker says so; what it says."""
    found = await status(
        broker, "w1", lambda one: one.state == "online" and states(one).items() >= wanted.items()
    )
    return {one.name: one for one in found.versions}


async def check_texts(node: EdgeNode, family: Family, heads: dict[str, str]) -> None:
    """Write with all versions at once, so that they share forwards, and compare each with its head alone."""
    texts = [
        (node.generate(asking(version, params)), head, params)
        for version, head in heads.items()
        for params in (SamplingParams(), WARM)
    ]
    for (generation, head, params), (tokens, finish) in zip(
        texts, await asyncio.gather(*(read(generation) for generation, _, _ in texts)), strict=True
    ):
        assert finish.error is None
        assert tokens == family.write(head, params), (
            f"{generation.request.version} is not what {head!r} writes"
        )


async def test_versions_of_one_worker_write_what_each_alone_writes(
    own_mosquitto: PrivateBroker, family: Family, tmp_path: Path
) -> None:
    broker = own_mosquitto
    await publish(broker, family.operator)
    assert family.write("v1", SamplingParams()) != family.write("", SamplingParams())
    async with worker(broker, family, tmp_path), edge(broker, family) as node:
        said = await until(broker, {"base": "ready", "v0": "ready", "v1": "ready"})
        assert {one.exactness for one in said.values()} == {""}  # the worker's, which is exact
        await check_texts(node, family, {"base": "", "v0": "", "v1": "v1"})

        # Another head while texts are written, one whose weights are not those of its canaries, and one without any.
        running = node.generate(asking("v1", WARM))
        second = family.publish_head("v2")
        canary = Canary(PROMPT, family.write("v1", SamplingParams()))
        bad, silent = family.publish_head("v3", (canary,)), family.publish_head("v4", ())
        operator, now = family.operator, time.time()
        operator.catalogue = editing.publish(operator.current, now - 60, name="v2", digest=second)
        for name, head, at in (("v3", bad, now - 50), ("v4", silent, now - 40)):
            state = VersionState.DRAINING
            operator.catalogue = editing.publish(operator.current, at, name=name, digest=head, state=state)
        await publish(broker, family.operator)
        assert (await read(running))[0] == family.write("v1", WARM)
        said = await until(broker, {"v2": "ready", "v3": "refused", "v4": "refused"})
        assert "canaries" in said["v3"].why
        assert "no canaries" in said["v4"].why
        await check_texts(node, family, {"v0": "", "v1": "v1", "v2": "v2"})
