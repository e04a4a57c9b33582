"""Products with weights of 8 or 4 bits by OpenVINO, for targets on a CPU: five rows take little longer than one.

Inputs are rounded to 8 bits in groups of 32, so sums are integers within a group. Each matrix is a model of its own:
attention, norms and what heads add stay where they are. OpenVINO copies weights into its kernel's order with the first
product and keeps those that it was given, so these lie in a deleted file, whose pages are given back then.
"""

from collections.abc import Sequence
from functools import cache
from mmap import ACCESS_WRITE, MADV_DONTNEED, mmap
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import models_cache
from flexspec_mq.models.rounding import BLOCK, round_to

_PIECE = 2048
"""Rows that are rounded to 8 bits at a time."""


@cache
def _core() -> Any:
    """Start OpenVINO, once for the process.

    Each instance gives the thread an alternate stack for signals, and takes back the one before it when it goes. If
    that went first, the next signal would end the process.
    """
    import openvino as ov

    return ov.Core()


class FewBits:
    """A matrix in few bits: [n, width] → [n, rows], both bfloat16.

    Inputs are rounded, and rows keep their bits, where the width is a multiple of `BLOCK`; the proof tells otherwise.

    Args:
        bits: 8, with a scale for each row; or 4, with a scale and a middle for each `BLOCK` of a row. A width that is
            not a multiple of it gets 8.
        weight: floating point [rows, width], left as it is.
        bias: [rows].
    """

    def __init__(self, bits: int, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        import openvino as ov
        from openvino import opset13 as ops

        self._ov = ov
        self._rows, width = weight.shape
        x = ops.parameter([-1, width], ov.Type.bf16)
        decoded, self._pages = (_four if bits == 4 and width % BLOCK == 0 else _eight)(weight)
        out = ops.matmul(ops.convert(x, ov.Type.f32), decoded, False, True)
        if bias is not None:
            out = ops.add(out, ops.constant(bias.float().numpy()))
        model = ov.Model([ops.convert(out, ov.Type.bf16)], [x])
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": BLOCK,
        }
        self._request = _core().compile_model(model, "CPU", options).create_infer_request()
        self(torch.zeros((1, width), dtype=torch.bfloat16))
        self._pages.madvise(MADV_DONTNEED)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        x, out = x.contiguous(), x.new_empty((len(x), self._rows))
        self._request.set_input_tensor(self._shared(x))
        self._request.set_output_tensor(self._shared(out))
        self._request.infer()
        return out

    def _shared(self, x: torch.Tensor) -> Any:
        """The same memory as a tensor of OpenVINO's, which does not keep it."""
        return self._ov.Tensor(x.view(torch.int16).numpy(), self._ov.Shape(list(x.shape)), self._ov.Type.bf16)


def _eight(weight: torch.Tensor) -> tuple[Any, mmap]:
    """Node that decodes weights of 8 bits, [rows, width], and the pages of their codes."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty((len(weight), 1))
    for begin in range(0, len(weight), _PIECE):
        rows = slice(begin, begin + _PIECE)
        exact = weight[rows].float()
        scales[rows] = exact.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=1e-30)
        codes[rows] = (exact / scales[rows]).round_()
    steps, pages = _in_file(codes.numpy(), "i8", codes.shape)
    return _times(steps, scales.numpy()), pages


def _four(weight: torch.Tensor) -> tuple[Any, mmap]:
    """Node that decodes weights of 4 bits, [rows, width], and the pages of their codes."""
    import openvino as ov
    from openvino import opset13 as ops

    rows, width = weight.shape
    codes, scales, packed = round_to(4, weight.float().numpy())
    assert packed is not None  # noqa: S101  4 bits have middles
    # One row's behind the other's: each ends with half a byte that is free where their number is odd.
    middles = np.stack((packed & 15, packed >> 4), axis=-1).reshape(rows, -1)[:, : scales.shape[1], None]
    shape = [rows, width // BLOCK]
    steps, pages = _in_file(codes, "u4", [*shape, BLOCK])
    middle = ops.convert(ops.convert(ops.constant(middles), ov.Type.u4), ov.Type.f32)
    decoded = _times(ops.subtract(steps, middle), scales[..., None])
    return ops.reshape(decoded, ops.constant(np.array([rows, width])), False), pages


def _times(steps: Any, scales: npt.NDArray[np.float32]) -> Any:
    from openvino import opset13 as ops

    return ops.multiply(steps, ops.constant(scales))


def _in_file(codes: npt.NDArray[Any], kind: str, shape: Sequence[int]) -> tuple[Any, mmap]:
    """Node of codes as float32, and the pages that hold them, which must stay mapped as long as the node is used.

    Raises:
        ModelError: the folder of converted models cannot be written.
    """
    import openvino as ov
    from openvino import opset13 as ops

    folder = models_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(codes.tobytes())
            file.flush()
            pages = mmap(file.fileno(), 0, access=ACCESS_WRITE)
    except OSError as error:
        raise ModelError(
            f"cannot write weights in few bits to {folder}: {error}",
            hint="they take room there while they are used",
        ) from error
    tensor = ov.Tensor(np.frombuffer(pages, dtype=codes.dtype), ov.Shape(list(shape)), getattr(ov.Type, kind))
    return ops.convert(ops.constant(tensor), ov.Type.f32), pages
