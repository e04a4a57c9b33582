"""Which engines there are to compare with, and which of them can run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util


@dataclass(frozen=True, slots=True)
class Spec:
    """An engine with weights in one form.

    Attributes:
        kind: what makes it; see `child.make`.
        form: of its weights.
        needs: modules that must be installed.
        same: its weights are the target's own numbers.
    """

    kind: str
    form: str
    needs: tuple[str, ...] = ()
    same: bool = True

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind}, {self.form}"

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [module for module in self.needs if util.find_spec(module) is None]


OURS = "ours"
LLAMA = "llama.cpp, BF16"
OPENVINO = "openvino, bf16"
_LLAMA_NEEDS = ("llama_cpp", "gguf")
_INSTALL = {"llama_cpp": "llama-cpp-python", "onnxruntime_genai": "onnxruntime-genai", "onnx_ir": "onnx-ir"}


def specs(dtype: str) -> list[Spec]:
    """All engines, ours first."""
    return [
        Spec(OURS, dtype),
        Spec("llama.cpp", "BF16", _LLAMA_NEEDS),
        Spec("llama.cpp", "Q8_0", _LLAMA_NEEDS, same=False),
        Spec("llama.cpp", "Q4_1", _LLAMA_NEEDS, same=False),
        Spec("openvino", "bf16", ("openvino",)),
        Spec("openvino", "int8", ("openvino",), same=False),
        Spec("onnxruntime-genai", "int4", ("onnxruntime_genai", "onnx", "onnx_ir"), same=False),
        Spec("transformers", dtype),
    ]


def chosen(dtype: str, wanted: Sequence[str] | None) -> list[Spec]:
    """Those whose kind is wanted, ours in any case; all where nothing is said."""
    return [one for one in specs(dtype) if wanted is None or one.kind in {OURS, *wanted}]


def how_to_install(missing: Sequence[str]) -> str:
    """What to tell somebody who lacks modules."""
    return f"not installed: {', '.join(_INSTALL.get(module, module) for module in missing)}"


KINDS = tuple(dict.fromkeys(one.kind for one in specs("bfloat16") if one.kind != OURS))
