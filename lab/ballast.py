"""A model with the bytes and the seconds of a larger one: further decoder layers that change nothing.

    python -m lab.ballast MODEL --like 7B --out FILE.gguf
    python -m lab.ballast MODEL --like 7B --out FOLDER

The further layers are copies of the model's own, in turn, but for their last products, ``o_proj`` and ``down_proj``,
which are zero: they add nothing to the residual stream. So texts, and the share of drafts that is accepted, are the
model's own; bytes and seconds are a larger model's. A real one has fewer and wider layers: fewer operations, and a KV
cache of another size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer, stages
from flexspec_mq.drafting.export import checkpoint_folder
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import Progress, whole_folder
from flexspec_mq.models.gguf.architecture import KINDS, ROPE_TENSORS
from flexspec_mq.models.gguf.convert import gguf_tensors
from flexspec_mq.models.gguf.tensors import open_gguf
from flexspec_mq.models.weights import WEIGHTS, Tensors, TensorsWriter

_FAMILIES = {*KINDS.values(), "mistral"}
"""Model types whose residual stream passes such layers unchanged."""
_LAYER = re.compile(r"(model\.layers\.|blk\.)(\d+)\.(.+)")
_LAST = re.compile(r"(self_attn\.o_proj|mlp\.down_proj|attn_output|ffn_down)\.(weight|bias)")
_BY_LAYER = ("layer_types", "no_rope_layers")
"""Lists of a ``config.json`` that have an item for each layer."""
_MOST = 512
"""Layers that llama.cpp reads at most."""
_MARK = "flexspec.ballast"


class Ballast(NamedTuple):
    """Tensors of a model with further layers.

    Attributes:
        before: decoder layers of the model.
        after: decoder layers with the further ones.
        tensors: name of the model's own tensor behind each, and whether zeros stand in its place.
        parameters: parameters of the model, and with the further layers.
    """

    before: int
    after: int
    tensors: dict[str, tuple[str, bool]]
    parameters: tuple[int, int]

    def shown(self, tell: Progress) -> Iterator[tuple[str, bool]]:
        """The tensors in order; says now and then how many have been taken."""
        last = 0.0
        for number, tensor in enumerate(self.tensors.values()):
            if time.monotonic() > last + 5:
                last = time.monotonic()
                tell(f"writing {self.after} layers: {number / len(self.tensors):.0%}")
            yield tensor


def with_ballast(sizes: Mapping[str, int], like: float) -> Ballast:
    """Add as many layers as bring the parameters nearest to `like`, to a model with tensors of these sizes.

    Raises:
        UsageError: the model has as many parameters, or the layers are too many.
    """
    found = {name: match for name in sizes if (match := _LAYER.fullmatch(name))}
    before = 1 + max(int(match[2]) for match in found.values())
    layers, whole = sum(sizes[name] for name in found), sum(sizes.values())
    after = round((like - whole + layers) * before / layers)
    if not before < after <= _MOST:
        raise UsageError(
            f"with {like:,.0f} parameters it has {after} layers, and {before} with its own {whole:,}",
            hint=f"choose a --like for more layers than its own, and at most {_MOST}",
        )
    tensors = {name: (name, False) for name in sizes}
    for index in range(before, after):
        for name, match in found.items():
            if int(match[2]) == index % before:
                tensors[f"{match[1]}{index}.{match[3]}"] = name, bool(_LAST.fullmatch(match[3]))
    return Ballast(before, after, tensors, (whole, sum(sizes[name] for name, _ in tensors.values())))


def write_folder(source: Path, out: Path, like: float, mark: str, tell: Progress) -> Ballast:
    """Write a checkpoint folder in bfloat16; errors as of `with_ballast`, and ModelError where it cannot be read."""
    config = json.loads((source / "config.json").read_text("utf-8"))
    if config.get("model_type") not in _FAMILIES or config.get("quantization_config"):
        raise ModelError(f"{source} is none of {', '.join(sorted(_FAMILIES))} in floating point")
    tensors = Tensors(source)
    made = with_ballast({name: tensors.read(name).numel() for name in tensors.names}, like)
    for values in (config[key] for key in _BY_LAYER if config.get(key)):
        values += [values[index % made.before] for index in range(made.before, made.after)]
    config |= {"num_hidden_layers": made.after, "dtype": "bfloat16", _MARK: mark}
    shapes = {name: ("BF16", tensors.read(own).shape) for name, (own, _) in made.tensors.items()}
    with whole_folder(out) as work:
        for file in source.iterdir():
            if file.suffix in {".json", ".jinja", ".txt", ".model"} and ".safetensors." not in file.name:
                shutil.copy(file, work)
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        with TensorsWriter(work / WEIGHTS, shapes) as writer:
            for own, zero in made.shown(tell):
                values = tensors.read(own)
                writer.write((torch.zeros_like(values) if zero else values).to(torch.bfloat16))
    return made


def write_file(source: Path, out: Path, like: float, mark: str, tell: Progress) -> Ballast:
    """Write a GGUF file, its tensors in the types of the model's; errors as of `write_folder`."""
    from gguf import GGUFWriter

    gguf_tensors(source)  # refuses files that would not be read
    reader = open_gguf(source)
    arch = reader.fields["general.architecture"].contents()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sizes = {name: int(each.n_elements) * (name not in ROPE_TENSORS) for name, each in tensors.items()}
    made = with_ballast(sizes, like)
    if arch == "gemma3" and 62 in made[:2]:
        raise UsageError("Gemma 3 of 62 layers scales its scores otherwise", hint="take another --like")
    size = sum(int(tensors[own].n_bytes) for own, _ in made.tensors.values())
    if (free := shutil.disk_usage(out.absolute().parent).free) < size:
        raise ModelError(f"it takes {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free for {out}")
    part = out.with_suffix(f".part-{os.getpid()}")
    writer = GGUFWriter(part, arch)
    writer.data_alignment = reader.alignment
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":  # the writer's own
            value = made.after if key == f"{arch}.block_count" else field.contents()
            writer.add_key_value(key, value, field.types[0], field.types[-1])
    writer.add_string(_MARK, mark)
    for name, (own, _) in made.tensors.items():
        data = tensors[own].data
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensors[own].tensor_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for own, zero in made.shown(tell):
            data = tensors[own].data
            writer.write_tensor_data(np.zeros_like(data) if zero else data)
        writer.close()
        part.rename(out)
    finally:
        part.unlink(missing_ok=True)
    return made


def _size(text: str) -> float:
    return float(text.removesuffix("B")) * 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(prog="python -m lab.ballast", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a checkpoint folder, a GGUF file, a name on the hub, or 'default'")
    parser.add_argument("--like", type=_size, required=True, metavar="SIZE", help="3B, 7B, 8B, 13B, …")
    parser.add_argument("--out", type=Path, required=True, help="a GGUF file by its name, or else a folder")
    return run_main(lambda arguments: _write(parser.parse_args(arguments)), argv, extras="models,gguf")


def _write(args: Namespace) -> int:
    source, out = Path(args.model), args.out
    as_file = out.suffix == ".gguf"
    if out.exists():
        raise UsageError(f"{out} is there already", hint="name another place")
    if as_file and not source.is_file():
        hint = "python -m lab.benchmarks.peers.gguf_file makes one of a folder"
        raise UsageError(f"{source} is no GGUF file, of which another can be made", hint=hint)
    mark = (
        f"Texts, and the share of drafts that is accepted, are those of {source.name}. Only bytes and seconds are "
        f"those of {args.like / 1e9:g}B parameters: say so wherever a figure rests on it."
    )
    with stages() as tell:
        if as_file:
            made = write_file(source, out, args.like, mark, tell)
        else:
            made = write_folder(checkpoint_folder(args.model, tell), out, args.like, mark, tell)
    size = (out if as_file else out / WEIGHTS).stat().st_size
    answer(f"{out}: {made.before} layers before, {made.after} now, the further ones without effect")
    answer(f"parameters: {made.parameters[0]:,} before, {made.parameters[1]:,} now, in {size:,} bytes")
    answer(mark)
    return 0


if __name__ == "__main__":
    sys.exit(main())
