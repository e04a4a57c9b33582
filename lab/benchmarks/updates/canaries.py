"""Heads that are published as canaries: bad ones that a worker takes all the same, and good ones."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flexspec_mq.evolution.canaries import greedy, load_with_head
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, file_entry, read_head
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.heads.files import ADAPTER, CONFIG, FULL
from lab.benchmarks.updates.place import EXAMPLES

REVERSED = (24, 10)
"""Layers, from the top, whose order is turned round."""
MILD = ("mathematics", "format", "style")
"""Heads that ship and whose texts the draft guesses as well as the base's."""
WILD = "reasoning"
"""A head that ships and whose texts the draft guesses half as well."""
SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
"""Of the additions of good canaries."""
MOST_GOOD = 1 + len(SCALES) * len(MILD)
_CANARY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Head:
    """What is published.

    Attributes:
        name: of the version.
        make: writes it into a folder; `base` lies beside it.
        bad: whether it should be aborted.
        apart: a worker of its own serves it, which has a part of a core's time only.
    """

    name: str
    make: Callable[[Path], None]
    bad: bool = False
    apart: bool = False


def bad_heads() -> Sequence[Head]:
    """Upper layers in reverse order, a head of which half as much is accepted, and a slow version."""
    return (
        *(Head(f"reversed-{layers}", partial(reverse, layers=layers), bad=True) for layers in REVERSED),
        Head("half-accepted", partial(scaled, source=EXAMPLES / WILD), bad=True),
        Head("slow", partial(base_again, shorter=2), bad=True, apart=True),
    )


def good_heads(count: int) -> Sequence[Head]:
    """The base once more, then the mild heads, each scaled less and less.

    Args:
        count: how many, at most `MOST_GOOD`.
    """
    made = [Head("base-again", base_again)]
    for scale, name in itertools.product(SCALES, MILD):
        made.append(Head(f"{name}-{scale:.2f}", partial(scaled, source=EXAMPLES / name, scale=scale)))
    return made[:count]


def reverse(folder: Path, layers: int) -> None:
    """Write a full head of the base's own upper layers with the last ones in reverse order.

    What it writes greedily is its canaries' text, so that nothing but acceptance tells it from a good head.
    """
    base = _base_of(folder)
    model = load_with_head(default_model_path(), None, kind="base", dtype="bfloat16")
    order = list(range(base.layers))
    order[base.layers - layers :] = reversed(order[base.layers - layers :])
    source = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    for name in source:
        parts = name.split(".")
        if name.startswith("model.layers.") and int(parts[2]) >= base.floor:
            tensors[name] = source[".".join((*parts[:2], str(order[int(parts[2])]), *parts[3:]))].clone()
    folder.mkdir()
    save_file(tensors, folder / FULL, metadata={"format": "pt"})
    model.load_state_dict(tensors, strict=False)
    _write(folder, base, "full", _written(model, base), folder / FULL)


def scaled(folder: Path, source: Path, scale: float = 1.0) -> None:
    """Write a LoRA head as it is or, with its additions scaled, with canaries that are what it then writes."""
    shutil.copytree(source, folder)
    if scale == 1.0:
        return
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config["lora_alpha"] *= scale
    (folder / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    model = load_with_head(default_model_path(), folder, kind="lora", dtype="bfloat16")
    like = read_head(source)
    _write(folder, like, "lora", _written(model, like), folder / CONFIG, folder / ADAPTER)


def base_again(folder: Path, shorter: int = 1) -> None:
    """Write the base under another digest: as good as the stable version by construction.

    Args:
        folder: to write.
        shorter: tokens that its canaries' texts have less; one digest for each number.
    """
    base = _base_of(folder)
    folder.mkdir()
    canaries = tuple(Canary(one.prompt, one.text[:-shorter]) for one in base.canaries)
    _write(folder, base, "base", canaries)


def _base_of(folder: Path) -> Manifest:
    return read_head(folder.parent / "base")


def _written(model: Any, like: Manifest) -> tuple[Canary, ...]:
    """What a model writes behind the prompts of another head's canaries."""
    prompts = [one.prompt for one in like.canaries]
    return tuple(map(Canary, prompts, greedy(model, prompts, _CANARY_TOKENS, ())))


def _write(folder: Path, like: Manifest, kind: str, canaries: tuple[Canary, ...], *files: Path) -> None:
    made = Manifest(
        kind=kind,  # type: ignore[arg-type]  # one of the three
        base=like.base,
        tokenizer=like.tokenizer,
        layers=like.layers,
        floor=like.floor,
        files=tuple(map(file_entry, files)),
        canaries=canaries,
    )
    (folder / MANIFEST).write_bytes(made.encode())
