"""Engines beside ours: the weights that they get, the forwards that they are asked for, what the times say."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.benchmarks import engine
from lab.benchmarks.peers import gguf_file
from lab.benchmarks.peers.compare import CASES, GROWTH, MOST, OURS, PREFILL, PeerTexts, chosen
from lab.benchmarks.peers.engines import Engine, Ours, Transformers
from lab.benchmarks.peers.gguf_file import (
    FORMATS,
    CannotConvertError,
    interleaved_halves,
    is_plain_llama,
    tensor_format,
    write_gguf,
)
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
TEXTS = [[(7 * i + 3 * j) % 250 + 3 for j in range(20 + GROWTH)] for i in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny"), tiny_llama(**SIZES), byte_level_tokenizer())


@given(st.integers(1, 4), st.sampled_from([2, 4, 8, 64]))
def test_values_that_are_turned_together_become_neighbours(heads: int, size: int) -> None:
    """The value i of a head with i + size / 2, which llama.cpp has as 2 i and 2 i + 1."""
    rows = np.arange(heads * size, dtype=np.float32)[:, None]
    for head, moved in enumerate(interleaved_halves(rows, heads).reshape(heads, size // 2, 2)):
        assert np.array_equal(moved[:, 0], head * size + np.arange(size // 2))
        assert np.array_equal(moved[:, 1], moved[:, 0] + size // 2)


@pytest.mark.parametrize("form", FORMATS)
def test_gguf_holds_the_weights(form: str, checkpoint: Path, tmp_path: Path) -> None:
    import gguf

    folder, path = copytree(checkpoint, tmp_path / "model"), tmp_path / "out" / "model.gguf"
    (folder / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    path.parent.mkdir()
    assert gguf_file.main([str(path), "--target", str(folder), "--form", form]) == 0
    assert list(path.parent.iterdir()) == [path]
    read = gguf.GGUFReader(path)
    tensors = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in read.tensors}
    state = tiny_llama(**SIZES).state_dict()
    near = {"BF16": 2**-8, "Q8_0": 2**-6, "Q4_1": 0.2}[form]
    for name, theirs in (
        ("blk.1.ffn_down", "layers.1.mlp.down_proj"),
        ("blk.0.attn_v", "layers.0.self_attn.v_proj"),
        ("token_embd", "embed_tokens"),
    ):
        values = state[f"model.{theirs}.weight"].numpy()
        assert np.abs(tensors[f"{name}.weight"] - values).max() <= near * np.abs(values).max()
    query = state["model.layers.0.self_attn.q_proj.weight"].numpy()
    moved = interleaved_halves(query, 4)
    assert not np.allclose(moved, query, atol=0.01)
    assert np.abs(tensors["blk.0.attn_q.weight"] - moved).max() <= near * np.abs(query).max()
    assert len(read.fields["tokenizer.ggml.tokens"].data) == 300
    assert read.fields["llama.attention.head_count_kv"].contents() == 1
    assert read.fields["tokenizer.chat_template"].contents() == "{{ messages }}"


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen2"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_scaling": {"factor": 2.0}},
    ],
)
def test_only_plain_llamas_are_converted(change: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    assert is_plain_llama(config)
    assert not is_plain_llama({**config, **change})
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}), "utf-8")
    with pytest.raises(CannotConvertError, match="Llama"):
        write_gguf(tmp_path, tmp_path / "model.gguf", "BF16")


@pytest.mark.parametrize("kind", [Ours, Transformers])
def test_forwards_follow_their_contexts_and_are_forgotten(
    kind: type[Ours | Transformers], checkpoint: Path
) -> None:
    made: Engine = kind(str(checkpoint), "float32")
    made.hold(TEXTS, 20)
    alone = made.read(TEXTS[0][:25], 5).best
    for _ in range(2):
        assert made.forward(1, 5).best == alone
        assert made.forward(1, 1).best == alone[:1]
        many = made.forward(3, 5).best
        assert many == [best for text in TEXTS for best in made.read(text[:25], 5).best]
    assert made.forward(1, 1).ms > 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(16, 600), st.integers(0, 5))
def test_texts_are_windows_of_the_stream(stream: list[int], context: int, seed: int) -> None:
    texts = PeerTexts.cut(stream, context, seed)
    assert len(texts.sessions) == MOST
    assert {len(text) for text in texts.sessions} == {context + GROWTH}
    assert len(texts.prompt) == PREFILL
    around = stream * (2 + max(context + GROWTH, PREFILL) // len(stream))
    joined = bytes(around)
    assert all(bytes(text) in joined for text in [*texts.sessions, texts.prompt])
    assert texts == PeerTexts.cut(stream, context, seed)


def test_llama_cpp_has_a_file_and_the_others_the_folder_and_rows_fill_blocks() -> None:
    folder, file = Path("folder"), Path("target-Q4_1.gguf")
    assert [engine[2] for engine in chosen("float32", folder, [file])] == [folder, file, folder]
    assert [engine[2] for engine in chosen("float32", file, [file])] == [file, file, file]
    with pytest.raises(CannotConvertError, match="a row of blk has 48"):
        tensor_format("blk", (10, 48), "Q8_0")


def test_engines_side_by_side(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that fails is left out, and its error is printed."""
    engines = [(OURS, "float32", checkpoint), ("nobody", "int4", checkpoint)]
    monkeypatch.setattr(engine, "chosen", lambda *_: engines)
    flags = ["--target", str(checkpoint), "--dtype", "float32", "--context", "64", "--turns", "2"]
    assert engine.main(flags) == 0
    printed = capsys.readouterr().out
    assert (
        "nobody, int4: the nobody, int4 ended with code 1: ValueError: there is no engine nobody" in printed
    )
    found = json.loads(printed.splitlines()[-1])["results"]["peers"]
    assert set(found["left_out"]) == {"nobody, int4"}
    assert set(found["ms"]) == {"ours, float32"}
    for by_case in found["ms"].values():
        assert set(by_case) == set(CASES)
        assert all(len(turns) == 2 and min(turns) > 0 for turns in by_case.values())
