"""``flexspec head watch`` beside canaries that are bad, and beside good ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import torch
from safetensors.torch import save_file

from benchmarks.serve.client import ask, unbounded
from benchmarks.serve.texts import Asked
from benchmarks.updates.place import FAMILY, Place, place
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.evolution.making.canaries import greedy, load_with_head
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, file_entry, read_head
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.heads.full import WEIGHTS
from flexspec_mq.site.process import Process, python
from flexspec_mq.site.topology import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_USERS = 8
_WITHIN = 400.0
"""Seconds after which a canary counts as undecided."""
_REVERSED = (24, 10)
"""Layers, from the top, whose order is turned round."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One canary.

    Attributes:
        name: what it is.
        bad: whether it should be aborted.
        outcome: ``aborted``, ``promoted`` or ``undecided``.
        answers: of the canary until then, as the edge counts them.
        acceptance: of the canary and of the stable version.
        why: what watch said.
    """

    name: str
    bad: bool
    outcome: str
    answers: int
    acceptance: tuple[float, float]
    why: str

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def watched(asked: Sequence[Asked], good: int, say: Callable[[str], None]) -> list[Watched]:
    """Publish canaries beside a watch, bad ones whose own canary prompts pass and good ones, and see what it does."""
    found = []
    async with place() as here:
        _, edge = await asyncio.gather(here.worker("w1"), here.edge("e1"))
        folder = here.operator.folder
        for layers in _REVERSED:
            name = f"reversed-{layers}"
            say(f"a head is made whose {layers} top layers are in reverse order")
            await asyncio.to_thread(damaged, folder / name, layers)
            found.append(await _canary(here, edge, asked, name, folder / name, say, bad=True))
        for number in range(good):
            path = folder / f"good-{number}"
            await asyncio.to_thread(_like_the_base, path, number)
            found.append(await _canary(here, edge, asked, path.name, path, say, bad=False))
    return found


def damaged(folder: Path, layers: int) -> None:
    """Write a full head of the base's own upper layers with the last ones in reverse order; `base` lies beside it.

    What it writes greedily is its canaries' text, so that nothing but acceptance tells it from a good head.
    """
    path = default_model_path()
    base = read_head(folder.parent / "base")
    model = load_with_head(path, None, kind="base", dtype="bfloat16")
    order = list(range(base.layers))
    order[base.layers - layers :] = reversed(order[base.layers - layers :])
    source = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in source.items():
        parts = name.split(".")
        if name.startswith("model.layers.") and int(parts[2]) >= base.floor:
            tensors[name] = source[".".join((*parts[:2], str(order[int(parts[2])]), *parts[3:]))].clone()
            assert tensor.shape == tensors[name].shape  # noqa: S101  layers are alike
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model.load_state_dict(tensors, strict=False)
    ends: tuple[int, ...] = ()
    canaries = tuple(Canary(one.prompt, greedy(model, [one.prompt], 16, ends)[0]) for one in base.canaries)
    _write(folder, base, "full", canaries, folder / WEIGHTS)


def _like_the_base(folder: Path, number: int) -> None:
    """The base once more, under another digest: as good as the stable version by construction."""
    base = read_head(folder.parent / "base")
    folder.mkdir()
    _write(folder, base, "base", base.canaries[: number + 1])


def _write(folder: Path, base: Manifest, kind: str, canaries: tuple[Canary, ...], *files: Path) -> None:
    made = Manifest(
        kind=kind,  # type: ignore[arg-type]  # one of the three
        base=base.base,
        tokenizer=base.tokenizer,
        layers=base.layers,
        floor=base.floor,
        files=tuple(map(file_entry, files)),
        canaries=canaries,
    )
    (folder / MANIFEST).write_bytes(made.encode())


async def _canary(
    here: Place,
    edge: Daemon,
    asked: Sequence[Asked],
    name: str,
    folder: Path,
    say: Callable[[str], None],
    *,
    bad: bool,
) -> Watched:
    """Publish one and let users ask until the watch decides.

    Raises:
        FlexSpecError: a text failed, or the watch ended.
    """
    operator = here.operator
    flags = (*operator.signing(), "--state-dir", str(operator.folder / "state" / "watch"))
    watch = await here.here.start("watch", "cloud", python("flexspec_mq.cli", "head", "watch", *flags))
    try:
        await watch.line()
        await operator.publish(name, folder, "--share", "50")
        await here.holds(["w1"], name)
        async with _users(edge, asked):
            said = await _verdict(watch, name)
        listed = {one["name"]: one for one in (await operator.listed())["versions"]}
    finally:
        await watch.end()
    outcome = said.split()[0] if said else "undecided"
    if outcome == "promoted":
        await operator.head("rollback", "v0")
    await operator.head("retire", name)
    say(f"{name}: {said or 'undecided'}")
    rates = [(listed[one]["acceptance"] or [0.0, 0.0])[1] for one in (name, "v0")]
    return Watched(name, bad, outcome, listed[name]["answers"], (rates[0], rates[1]), said)


async def _verdict(watch: Process, name: str) -> str:
    """What the watch says when it decides; empty if it does not within some minutes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WITHIN):
            while True:
                line = (await watch.line(_WITHIN)).decode().strip()
                if line.startswith((f"aborted {name}", f"promoted {name}")):
                    return line
    return ""


@asynccontextmanager
async def _users(edge: Daemon, asked: Sequence[Asked]) -> AsyncIterator[None]:
    """Users who each begin a conversation of their own with every question, as long as the block lasts."""
    going, numbers = True, itertools.count()

    async def user(http: httpx2.AsyncClient) -> None:
        while going:
            number = next(numbers)
            body = {**asked[number % len(asked)].body(), "model": FAMILY, "prompt_cache_key": str(number)}
            if (answer := await ask(http, edge.url, body)).error:
                raise FlexSpecError("a text failed", hint=answer.error)

    async with unbounded() as http, asyncio.TaskGroup() as group:
        for _ in range(_USERS):
            group.create_task(user(http))
        try:
            yield
        finally:
            going = False
