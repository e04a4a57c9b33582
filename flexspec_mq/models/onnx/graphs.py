"""Graphs of a decoder: one from embeddings to the last hidden state, one for the LM head.

Their weights are in few bits as ONNX Runtime's MatMulNBits reads them: blocks of a row share a scale and a middle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.models.rounding import BLOCK, round_to

if TYPE_CHECKING:
    from flexspec_mq.models.onnx.decoder import Decoder
    from flexspec_mq.models.onnx.offered_decoder import OfferedDecoder

    Given = Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]]
    Floats = npt.NDArray[np.float32]
    Bytes = npt.NDArray[np.uint8]

_CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
_OPSET, _IR = 21, 10
_ACCURACY = 4
"""Products whose input is rounded to 8 bits: what processors have instructions for."""
_INLINE = 256
"""Bytes up to which a constant stands in the graph's own file."""


_PRECISE = 128
"""Columns of a row that a screened product computes in 8 bits."""
_COARSE_BLOCK, _COARSE_FROM = 128, 896
"""Weights of a row that share a scale in wide models, and the width of a hidden state from which a model is one: less
is read for a token, and prompts are read faster, for hardly a draft. Narrow models lose more by it than they gain."""


class Graph:
    """A graph under construction; every method adds to it and gives the name of what it computes.

    Args:
        width: width of the model's hidden state.
        given: gives the weights of a name, of the shape and type of an array; None where the array is the weights.
    """

    def __init__(self, width: int, given: Given | None = None) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._helper: Any = helper
        self._given = given
        self._block = BLOCK if width < _COARSE_FROM else _COARSE_BLOCK
        self._types = {"float": TensorProto.FLOAT, "int32": TensorProto.INT32}
        self._of_array = numpy_helper.from_array
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: str, shape: list[int | str]) -> str:
        """Something that a run is given; names in its shape are free sizes."""
        self._inputs.append(self._helper.make_tensor_value_info(name, self._types[kind], shape))
        return name

    def output(self, name: str, shape: list[int | str]) -> None:
        """Add an output of a run, float32."""
        self._outputs.append(self._helper.make_tensor_value_info(name, self._types["float"], shape))

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """A weight."""
        if self._given is not None and array.dtype != np.int64:
            array = self._given(name, array)
        self._constants.append(self._of_array(np.ascontiguousarray(array), name))
        return name

    def node(
        self, kind: str, inputs: list[str], outputs: list[str], *, domain: str = _CONTRIB, **facts: Any
    ) -> str:
        """An operator; gives the name of its first output."""
        self._nodes.append(
            self._helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **facts)
        )
        return outputs[0]

    def product(self, name: str, x: str, weight: Floats, bits: int, bias: Floats | None = None) -> str:
        """Product of `x` [.., width] and the transposed weight [rows, width], in 2, 4 or 8 bits, or 32."""
        if bits == 32:
            plain = self.node(
                "MatMul",
                [x, self.constant(f"{name}.weight", weight.T)],
                [f"{name}.plain" if bias is not None else name],
                domain="",
            )
            return (
                plain
                if bias is None
                else self.node("Add", [plain, self.constant(f"{name}.bias", bias)], [name], domain="")
            )
        rows, width = weight.shape
        few = round_to(bits, weight if self._given is None else weight[:1], self._block)
        inputs = [x] + [
            self.constant(f"{name}.{part}", np.broadcast_to(array, (rows, *array.shape[1:])))
            for part, array in zip(("codes", "scales", "middles"), few, strict=True)
            if array is not None
        ]
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [self.constant(f"{name}.bias", bias)]
        return self.node(
            "MatMulNBits",
            inputs,
            [name],
            K=width,
            N=rows,
            bits=bits,
            block_size=self._block,
            accuracy_level=_ACCURACY,
        )

    def screened_product(self, name: str, x: str, weight: Floats) -> str:
        """Product of `x` [rows, width] and a transposed weight [columns, width], precise in a row's largest columns.

        A product in 2 bits estimates all columns. The largest by it are computed in 8 bits, by weights that are read
        from the mapped file as they are wanted.
        """

        def plain(kind: str, inputs: list[str], output: str, **facts: Any) -> str:
            return self.node(kind, inputs, [f"{name}.{output}"], domain="", **facts)

        rough = self.product(f"{name}.rough", x, weight, 2)
        most, last = self.constant("most", np.array([_PRECISE])), self.constant("last", np.array([-1]))
        self.node("TopK", [rough, most], ["largest", "places"], domain="", axis=-1, sorted=0)
        codes, scales, _ = round_to(8, weight, weight.shape[1])
        signed = np.bitwise_xor(codes[:, 0], 128).view(np.int8)
        rows = plain("Gather", [self.constant(f"{name}.codes", signed), "places"], "rows")
        scale = plain("Gather", [self.constant(f"{name}.scales", scales[:, 0]), "places"], "scale")
        floats = plain("Cast", [rows], "floats", to=self._types["float"])
        products = plain("MatMul", [floats, plain("Unsqueeze", [x, last], "upright")], "products")
        precise = plain("Mul", [plain("Squeeze", [products, last], "flat"), scale], "precise")
        return self.node("ScatterElements", [rough, "places", precise], [name], domain="", axis=-1)

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """All weights by their names."""
        from onnx import numpy_helper

        arrays = {constant.name: numpy_helper.to_array(constant) for constant in self._constants}
        return {name: array for name, array in arrays.items() if array.dtype != np.int64}

    def save(self, path: Path) -> None:
        """Write the graph, and its weights beside it in a file of their own, which is mapped when it is loaded."""
        import onnx

        graph = self._helper.make_graph(self._nodes, path.stem, self._inputs, self._outputs, self._constants)
        opsets = [self._helper.make_opsetid("", _OPSET), self._helper.make_opsetid(_CONTRIB, 1)]
        model = self._helper.make_model(
            graph, producer_name="flexspec-mq", opset_imports=opsets, ir_version=_IR
        )
        onnx.save(
            model, path, save_as_external_data=True, location=weights_of(path.name), size_threshold=_INLINE
        )


def weights_of(name: str) -> str:
    """Name of the file with a graph's weights."""
    return name.removesuffix(".onnx") + ".weights"


class Backbone:
    """From embedded tokens to the last hidden state.

    Inputs are `embedded` float32 [sessions, tokens, width], of one session or one token of each, `last` int32
    [sessions] and `total` int32 (the last position of each, and how many the longest has with it), for each kind of
    rotary positions i `cosines.i` and `sines.i` float32 [positions, pairs that turn], and for each layer i `k.i` and
    `v.i` float32 [sessions, heads of keys, capacity, head]. Outputs are `state` float32 [sessions, tokens, width],
    behind the last norm, and `k.i.out` and `v.i.out`, which must be bound to the memory of `k.i` and `v.i`.
    """

    def __init__(self, decoder: Decoder | OfferedDecoder) -> None:
        self.graph = Graph(decoder.width, decoder.given)
        self._decoder = decoder
        self.graph.input("embedded", "float", ["sessions", "tokens", decoder.width])
        self.graph.input("last", "int32", ["sessions"])
        self.graph.input("total", "int32", [])
        for index, rotary in enumerate(decoder.rotary):
            for name in ("cosines", "sines"):
                self.graph.input(f"{name}.{index}", "float", ["positions", len(rotary.speeds)])
        self.graph.output("state", ["sessions", "tokens", decoder.width])
        self._sum = "embedded"

    def normed(self, name: str, x: str, weight: Floats) -> str:
        """RMS norm over the last dimension."""
        # ONNX Runtime registers this one of its own operators under ONNX's domain.
        return self.graph.node(
            "SimplifiedLayerNormalization",
            [x, self.graph.constant(f"{name}.norm", weight)],
            [name],
            domain="",
            axis=-1,
            epsilon=self._decoder.epsilon,
        )

    def added(self, name: str, x: str, weight: Floats, *, last: bool = False) -> str:
        """Add x to the sum of all layers, and norm it."""
        inputs = [x, self._sum, self.graph.constant(f"{name}.norm", weight)]
        outputs = ["state"] if last else [f"{name}.normed", "", "", f"{name}.sum"]
        self._sum = outputs[-1]
        return self.graph.node(
            "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=self._decoder.epsilon
        )

    def attention(self, index: int, projected: str, norms: tuple[Floats, Floats] | None = None) -> str:
        """Attention over what is held and what is new, rotary positions inside.

        Args:
            index: the layer.
            projected: queries, keys and values, one behind the other.
            norms: weights of the norms of each head of queries and keys.
        """
        decoder, attention = self._decoder, self._decoder.layers[index]
        sizes: list[int | str] = ["sessions", decoder.keys, "capacity", decoder.head]
        names = [f"{part}.{index}" for part in "kv"]
        for name in names:
            self.graph.input(name, "float", sizes)
            self.graph.output(f"{name}.out", sizes)
        parts = [projected, "", ""] if norms is None else self._head_norms(index, projected, norms)
        turns = ["", ""]
        if attention.rotary is not None:
            turns = [f"cosines.{attention.rotary}", f"sines.{attention.rotary}"]
        return self.graph.node(
            "GroupQueryAttention",
            [*parts, *names, "last", "total", *turns],
            [f"attended.{index}", *(f"{name}.out" for name in names)],
            num_heads=decoder.queries,
            kv_num_heads=decoder.keys,
            do_rotary=int(attention.rotary is not None),
            scale=decoder.scale,
            softcap=decoder.softcap,
            local_window_size=attention.window or -1,
        )

    def _head_norms(self, index: int, projected: str, norms: tuple[Floats, Floats]) -> list[str]:
        """Queries, keys and values apart, the first two normed head by head."""
        decoder, graph = self._decoder, self.graph
        widths = [heads * decoder.head for heads in (decoder.queries, decoder.keys, decoder.keys)]
        parts = [f"{part}.apart.{index}" for part in ("queries", "keys", "values")]
        split = graph.constant(f"widths.{index}", np.array(widths))
        graph.node("Split", [projected, split], parts, domain="", axis=-1)
        for place, weight in enumerate(norms):
            name = parts[place]
            heads = graph.constant(f"{name}.heads", np.array([0, 0, -1, decoder.head]))
            flat = graph.constant(f"{name}.flat", np.array([0, 0, widths[place]]))
            apart = graph.node("Reshape", [name, heads], [f"{name}.by_head"], domain="")
            normed = self.normed(f"{name}.normed", apart, weight)
            parts[place] = graph.node("Reshape", [normed, flat], [f"{name}.joined"], domain="")
        return parts

    def gated(self, index: int, widened: str) -> str:
        """The activated gate times up."""
        gate, up = f"gate.{index}", f"up.{index}"
        self.graph.node("Split", [widened], [gate, up], domain="", axis=-1, num_outputs=2)
        if self._decoder.activation == "silu":  # x · sigmoid(x) in one operator
            opened = self.graph.node("QuickGelu", [gate], [f"opened.{index}"], alpha=1.0)
        else:
            opened = self.graph.node("Gelu", [gate], [f"opened.{index}"], domain="", approximate="tanh")
        return self.graph.node("Mul", [opened, up], [f"gated.{index}"], domain="")
