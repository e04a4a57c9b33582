"""Record of what vLLM's own kernels draw and choose: `vllm_noise.json`.

``python -m tests.sampling.vllm_noise WHEEL`` records it anew from an unpacked wheel of vLLM (0.33 so far), by Triton's
interpreter on a processor: ``pip install triton numpy==2.2.6``, since it does not run with numpy 2.4. It runs the
files of the second model runner as they are, but for one conversion of a loop's index that the interpreter lacks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FILE = Path(__file__).with_suffix(".json")
CASES = [
    *[(temperature, 0, 1.0, 0.0, 5000) for temperature in (0.5, 1.0, 2.0)],
    *[(temperature, top_k, 1.0, 0.0, 1003) for temperature in (0.7, 3.0) for top_k in (1, 7, 20)],
    *[(temperature, 20, top_p, 0.0, 1003) for temperature in (1.0, 3.0) for top_p in (0.5, 0.95)],
    *[(temperature, 0, top_p, 0.0, 1003) for temperature in (0.7, 1.0, 3.0) for top_p in (0.5, 0.9)],
    *[(temperature, *kept, 1003) for temperature in (3.0, 8.0) for kept in ((0, 1.0, 0.5), (200, 0.8, 0.5))],
]
"""Temperature, top-k, top-p, min-p, size of the vocabulary."""
_ROWS = 16
_PROCESSORS = 132
"""Streaming multiprocessors of an H100, by which work is split."""

_DRAW_EIGHT = """

@triton.jit
def draw_eight(seed, position, ids, words, noise):
    places = tl.arange(0, 8)
    at, where, keys = tl.load(seed), tl.load(position), tl.load(ids + places)
    tl.store(words + places, murmur3_hash32(at, where, keys))
    tl.store(noise + places, -tl.log(-_log1p_neg_stable(murmur3_uniform32(at, where, keys))))
"""


def recorded() -> Any:
    """The record: `rows` of words with their noise, and `choices` by parameters."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def logits_of(row: int, vocabulary: int) -> npt.NDArray[np.float32]:
    """Eighths from 0 to 32, few of them large, with many ties; by integers, so the same everywhere."""
    mixed = (np.arange(vocabulary, dtype=np.int64) * 2_654_435_761 + row * 40_503_001) % 2**32 >> 16
    return ((mixed**3 >> 40) / 8).astype(np.float32)


class Kernels:
    """Sampling kernels of an unpacked wheel."""

    def __init__(self, wheel: Path) -> None:
        os.environ["TRITON_INTERPRET"] = "1"
        triton, language = importlib.import_module("triton"), importlib.import_module("triton.language")
        nothing = SimpleNamespace(__path__=[])
        self._stand_in("vllm", **vars(nothing))
        self._stand_in("vllm.triton_utils", tl=language, triton=triton)
        for package in ("model_executor", "model_executor.warmup", "utils"):
            self._stand_in(f"vllm.{package}", **vars(nothing))
        warm_up = "vllm.model_executor.warmup.jit_warmup"
        self._stand_in(warm_up, WarmupChoices=SimpleNamespace, WarmupIntRange=SimpleNamespace, _when=None)
        self._stand_in(
            f"{warm_up}_triton_helper",
            DispatchSpec=tuple,
            TritonWarmupTensor=SimpleNamespace,
            triton_kernel_dispatcher_with_warmup=_launcher,
        )
        on_a_gpu = SimpleNamespace(is_cuda_alike=lambda: True)
        self._stand_in("vllm.platforms", current_platform=on_a_gpu)
        self._stand_in("vllm.utils.gpu_sync_debug", gpu_sync_allowed=contextlib.nullcontext)
        self._stand_in("vllm.utils.math_utils", next_power_of_2=triton.next_power_of_2)
        self._stand_in("vllm.utils.platform_utils", num_compute_units=lambda *_: _PROCESSORS)
        folder = wheel / "vllm" / "v1"
        self.noise = self._load("vllm_gumbel", folder / "worker" / "gpu" / "sample" / "gumbel.py")
        self.likely = self._load("vllm_min_p", folder / "worker" / "gpu" / "sample" / "min_p.py")
        self.kept = self._load("vllm_kept", folder / "sample" / "ops" / "topk_topp_triton.py")

    def _stand_in(self, name: str, **contents: Any) -> None:
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module

    def _load(self, name: str, file: Path) -> Any:
        """A module by a copy of its source, which the interpreter reads."""
        copy = Path(tempfile.mkdtemp()) / f"{name}.py"
        copy.write_text(file.read_text().replace("row_id.to(tl.int64)", "row_id") + _DRAW_EIGHT)
        spec = importlib.util.spec_from_file_location(name, copy)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def draw(self, seed: int, position: int, ids: list[int]) -> dict[str, Any]:
        """Words of eight tokens behind an input position, and their noise at vLLM's defaults."""
        words, found = torch.zeros(len(ids), dtype=torch.uint32), torch.zeros(len(ids))
        asked = torch.tensor([seed]), torch.tensor([position]), torch.tensor(ids)
        self.noise.draw_eight[(1,)](*asked, words, found)
        return {
            "seed": seed,
            "input_position": position,
            "ids": ids,
            "words": words.tolist(),
            "noise": found.tolist(),
        }

    def choose(
        self,
        logits: torch.Tensor,
        case: tuple[float, int, float, float, int],
        seeds: list[int],
        positions: list[int],
    ) -> list[int]:
        """Tokens that the second model runner's sampler chooses in rows of one sampling."""
        temperature, top_k, top_p, min_p, _ = case
        rows = torch.arange(len(logits))
        temperatures = torch.full((len(logits),), temperature)
        self.noise.apply_temperature(logits, rows, temperatures)
        self.likely.apply_min_p(logits, rows, torch.full((len(logits),), min_p))
        at_most = torch.full((len(logits),), top_k, dtype=torch.int32) if top_k else None
        mass = torch.full((len(logits),), top_p) if top_p < 1.0 else None
        if at_most is None and mass is not None:  # as on a GPU, which splits such rows
            self.kept._apply_topp_split(logits, None, mass, float("-inf"), _PROCESSORS)
        elif at_most is not None:
            logits = self.kept.apply_top_k_top_p_triton(logits, at_most, mass, has_topp_only_rows=False)
        chosen: torch.Tensor = self.noise.gumbel_sample(
            logits, rows, temperatures, torch.tensor(seeds), torch.tensor(positions), False, False
        )
        ids: list[int] = chosen.tolist()
        return ids


def _launcher(kernel: Any, warmup_inputs: Any) -> Any:  # noqa: ARG001  vLLM's name
    """Stand-in for the decorator of functions that say how a kernel is launched: it launches it."""

    def decorate(launch: Any) -> Any:
        def run(*given: Any) -> None:
            names = launch.__code__.co_varnames
            grid, constants = launch(*given)
            at_hand = {name.upper(): value for name, value in zip(names, given, strict=False)}
            at_hand["LOGITS_STRIDE_0"] = given[0].stride(0)
            at_hand |= {key: value for key, value in constants.items() if key != "num_warps"}
            kernel[grid](**{name: at_hand[name] for name in kernel.arg_names})

        return run

    return decorate


def main() -> None:
    """Record."""
    kernels = Kernels(Path(sys.argv[1]))
    numbers = np.random.default_rng(33)
    places = [
        (0, 0),
        (1, 0),
        (-(2**63), 1),
        (-1, 4095),
        (2**63 - 1, 2**20),
        (42, 17),
        (0x123456789ABCDEF, 998),
    ]
    rows = [
        kernels.draw(seed, position, [0, 1, 2, 3, 1000, 49_151, 128_255, 2**24 - 1])
        for seed, position in places
    ]
    choices = []
    for case in CASES:
        seeds = numbers.integers(-(2**63), 2**63, _ROWS).tolist()
        positions = numbers.integers(0, 8000, _ROWS).tolist()
        logits = torch.from_numpy(np.stack([logits_of(row, case[-1]) for row in range(_ROWS)]))
        chosen = kernels.choose(logits, case, seeds, positions)
        choices.append({"params": case, "chosen": list(zip(seeds, positions, chosen, strict=True))})
        print(case, flush=True)  # noqa: T201
    parts = {"rows": rows, "choices": choices}
    lines = (f'"{name}": [\n' + ",\n".join(map(json.dumps, part)) + "\n]" for name, part in parts.items())
    FILE.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
