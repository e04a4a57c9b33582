"""OpenVINO's runtime on a graph that is built here as its converters build it: keys and values are states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lab.benchmarks.peers.interface import Answer, CannotConvertError, Stopwatch, is_plain_llama, weights

Node = Any


class OpenVino:
    """A checkpoint folder of a model built like Llama.

    Args:
        folder: the checkpoint.
        form: ``bf16``, or ``int8`` with one scale for each row of a matrix, as its tools compress by default.
    """

    def __init__(self, folder: str, form: str) -> None:
        import openvino as ov

        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        model = _Graph(config, _tensors(Path(folder)), form).model()
        self._compiled = ov.Core().compile_model(
            model,
            "CPU",
            {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16"},
        )
        self._ov = ov
        self._requests: dict[int, Any] = {}
        self._held: dict[int, dict[str, npt.NDArray[Any]]] = {}
        self._texts = np.empty((0, 0), np.int64)
        self._length = 0
        self.weight_bytes = weights(Path(folder)) * (1 if form == "int8" else 2)

    def hold(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """See `Engine`."""
        self._texts, self._length = np.array(texts, np.int64), length

    def forward(self, sessions: int, rows: int) -> Answer:
        """See `Engine`. States cannot be cut: what the contexts left in them is put back before, untimed."""
        texts, length = self._texts[:sessions], self._length
        if sessions not in self._held:
            self._infer(texts[:, :length], 0, 1)
            states = self._requests[sessions].query_state()
            self._held[sessions] = {state.name: np.array(state.state.data) for state in states}
        for state in self._requests[sessions].query_state():
            state.state = self._ov.Tensor(self._held[sessions][state.name])
        return self._infer(texts[:, length : length + rows], length, rows)

    def read(self, ids: Sequence[int], rows: int) -> Answer:
        """See `Engine`."""
        return self._infer(np.array([list(ids)], np.int64), 0, rows)

    def _infer(self, ids: npt.NDArray[np.int64], start: int, rows: int) -> Answer:
        sessions, count = ids.shape
        request = self._requests.setdefault(sessions, None) or self._compiled.create_infer_request()
        self._requests[sessions] = request
        if not start:
            request.reset_state()
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((sessions, start + count), np.int64),
            "position_ids": np.tile(np.arange(start, start + count), (sessions, 1)),
            "beam_idx": np.arange(sessions, dtype=np.int32),
            "rows": np.array([-rows], np.int64),
        }
        watch = Stopwatch()
        request.infer(given)
        logits = request.get_output_tensor(0).data
        return Answer(*watch.stop(), logits.argmax(-1).flatten().tolist())


class _Graph:
    """The operations of a Llama, with the names of its inputs as OpenVINO's own tools call them.

    One input more, ``rows`` (minus the last rows that logits are wanted for), spares a prompt the LM head's product.
    """

    def __init__(self, config: dict[str, Any], values: dict[str, torch.Tensor], form: str) -> None:
        import openvino as ov
        from openvino import opset13

        if not is_plain_llama(config):
            raise CannotConvertError("only a Llama without biases is built here")
        self._ov, self._op, self._values, self._form = ov, opset13, values, form
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._kv_heads: int = config.get("num_key_value_heads") or self._heads
        self._size: int = config.get("head_dim") or config["hidden_size"] // self._heads
        self._eps: float = config["rms_norm_eps"]
        rope = config.get("rope_parameters") or config
        self._theta = float(rope.get("rope_theta") or 10_000.0)
        self._sinks: list[Node] = []

    def model(self) -> Any:
        """Build it."""
        op, ov = self._op, self._ov
        ids, mask, positions = (
            self._input(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask", "position_ids")
        )
        beam, rows = self._input("beam_idx", [-1], np.int32), self._input("rows", [1], np.int64)
        table = self._weight("model.embed_tokens.weight")
        hidden = op.gather(table, ids, self._ints(0))
        batch = op.gather(op.shape_of(ids), self._ints([0]), self._ints(0))
        context = op.gather(op.shape_of(mask), self._ints([1]), self._ints(0))
        turn, visible = self._rotation(positions), self._visible(ids, context, batch)
        for layer in range(self._layers):
            hidden = self._layer(f"model.layers.{layer}.", hidden, (turn, visible, beam, batch, context))
        last = op.slice(hidden, rows, self._ints([2**31 - 1]), self._ints([1]), self._ints([1]))
        normed = self._norm(last, "model.norm.weight")
        head = table if "lm_head.weight" not in self._values else self._weight("lm_head.weight")
        logits = op.matmul(normed, head, transpose_a=False, transpose_b=True)
        logits.output(0).set_names({"logits"})
        return ov.Model([op.result(logits)], self._sinks, [ids, mask, positions, beam, rows], "llama")

    def _layer(self, prefix: str, hidden: Node, shared: tuple[Any, Node, Node, Node, Node]) -> Node:
        op = self._op
        turn, visible, beam, batch, context = shared
        normed = self._norm(hidden, prefix + "input_layernorm.weight")
        query = self._turned(self._split(normed, prefix + "self_attn.q_proj.weight", self._heads), turn)
        key = self._turned(self._split(normed, prefix + "self_attn.k_proj.weight", self._kv_heads), turn)
        value = self._split(normed, prefix + "self_attn.v_proj.weight", self._kv_heads)
        keys = self._grown(key, prefix + "key", beam, batch)
        values = self._grown(value, prefix + "value", beam, batch)
        mixed = op.scaled_dot_product_attention(
            query, self._shared(keys, batch, context), self._shared(values, batch, context), visible
        )
        joined = op.reshape(
            op.transpose(mixed, self._ints([0, 2, 1, 3])),
            self._ints([0, 0, self._heads * self._size]),
            special_zero=True,
        )
        hidden = op.add(hidden, self._product(joined, prefix + "self_attn.o_proj.weight"))
        normed = self._norm(hidden, prefix + "post_attention_layernorm.weight")
        gate = op.swish(self._product(normed, prefix + "mlp.gate_proj.weight"))
        up = self._product(normed, prefix + "mlp.up_proj.weight")
        return op.add(hidden, self._product(op.multiply(gate, up), prefix + "mlp.down_proj.weight"))

    def _grown(self, new: Node, name: str, beam: Node, batch: Node) -> Node:
        """Append to a state: what CPUs fuse with the attention that follows."""
        op, util = self._op, self._ov.op.util
        shape = self._ov.PartialShape([-1, self._kv_heads, -1, self._size])
        variable = util.Variable(_info(util, shape, self._ov.Type.f32, name))
        empty = op.broadcast(
            self._floats(0.0), op.concat([batch, self._ints([self._kv_heads, 0, self._size])], 0)
        )
        before = op.gather(op.read_value(empty, variable), beam, self._ints(0))
        after = op.concat([before, new], 2)
        self._sinks.append(op.assign(after, variable))
        return after

    def _shared(self, states: Node, batch: Node, context: Node) -> Node:
        """Repeat every head of keys or values for the heads of queries that read it."""
        if self._heads == self._kv_heads:
            return states
        op, groups = self._op, self._heads // self._kv_heads
        wide = op.concat([batch, self._ints([self._kv_heads, groups]), context, self._ints([self._size])], 0)
        repeated = op.broadcast(op.unsqueeze(states, self._ints(2)), wide, broadcast_spec="BIDIRECTIONAL")
        return op.reshape(repeated, self._ints([0, self._heads, -1, self._size]), special_zero=True)

    def _rotation(self, positions: Node) -> tuple[Node, Node]:
        op = self._op
        rates = self._theta ** (-np.arange(0, self._size, 2, dtype=np.float64) / self._size)
        where = op.unsqueeze(op.convert(positions, "f32"), self._ints(2))
        angles = op.multiply(where, self._floats(rates[None, None, :]))
        both = op.unsqueeze(op.concat([angles, angles], -1), self._ints(1))
        return op.cos(both), op.sin(both)

    def _turned(self, states: Node, turn: tuple[Node, Node]) -> Node:
        op, half = self._op, self._size // 2
        step, axis = self._ints([1]), self._ints([3])
        first = op.slice(states, self._ints([0]), self._ints([half]), step, axis)
        second = op.slice(states, self._ints([half]), self._ints([self._size]), step, axis)
        swapped = op.concat([op.multiply(second, self._floats(-1.0)), first], -1)
        return op.add(op.multiply(states, turn[0]), op.multiply(swapped, turn[1]))

    def _visible(self, ids: Node, context: Node, batch: Node) -> Node:
        """Float mask [batch, 1, rows, context]: 0 where a row may look, a large negative number elsewhere."""
        op = self._op
        rows = op.gather(op.shape_of(ids), self._ints([1]), self._ints(0))
        zero, one = self._ints(0), self._ints(1)
        end = op.squeeze(context, self._ints(0))
        columns = op.unsqueeze(op.range(zero, end, one, "i64"), self._ints(0))
        begin = op.squeeze(op.subtract(context, rows), self._ints(0))
        lines = op.unsqueeze(op.range(begin, end, one, "i64"), self._ints(1))
        seen = op.select(op.less_equal(columns, lines), self._floats(0.0), self._floats(-65504.0))
        wide = op.concat([batch, self._ints([1]), rows, context], 0)
        return op.broadcast(seen, wide, broadcast_spec="BIDIRECTIONAL")

    def _norm(self, hidden: Node, name: str) -> Node:
        op = self._op
        squares = op.reduce_mean(op.power(hidden, self._floats(2.0)), self._ints([-1]), keep_dims=True)
        scale = op.divide(self._floats(1.0), op.sqrt(op.add(squares, self._floats(self._eps))))
        return op.multiply(op.multiply(hidden, scale), self._floats(self._values[name].float().numpy()))

    def _split(self, normed: Node, name: str, heads: int) -> Node:
        op = self._op
        rows = op.reshape(
            self._product(normed, name), self._ints([0, 0, heads, self._size]), special_zero=True
        )
        return op.transpose(rows, self._ints([0, 2, 1, 3]))

    def _product(self, given: Node, name: str) -> Node:
        return self._op.matmul(given, self._weight(name), transpose_a=False, transpose_b=True)

    def _weight(self, name: str) -> Node:
        op, ov, values = self._op, self._ov, self._values[name]
        if self._form == "int8":
            scales = values.float().abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            whole = (values.float() / scales).round().to(torch.int8).numpy()
            read = op.convert(ov.op.Constant(whole), "f16")
            scaled = op.multiply(read, ov.op.Constant(scales.to(torch.float16).numpy()))
            return op.convert(scaled, "f32")
        bits = np.ascontiguousarray(values.to(torch.bfloat16).view(torch.int16).numpy())
        tensor = ov.Tensor(ov.Type.bf16, ov.Shape(list(bits.shape)))
        tensor.data.view(np.int16)[:] = bits
        return op.convert(ov.op.Constant(tensor), "f32")

    def _input(self, name: str, shape: list[int], kind: type) -> Node:
        made = self._op.parameter(shape, kind, name)
        made.output(0).set_names({name})
        return made

    def _ints(self, values: int | list[int]) -> Node:
        return self._ov.op.Constant(np.array(values, np.int64))

    def _floats(self, values: float | npt.NDArray[Any]) -> Node:
        return self._ov.op.Constant(np.array(values, np.float32))


def _info(util: Any, shape: Any, kind: Any, name: str) -> Any:
    made = util.VariableInfo()
    made.data_shape, made.data_type, made.variable_id = shape, kind, name
    return made


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        name: one for path in sorted(folder.glob("*.safetensors")) for name, one in load_file(path).items()
    }
