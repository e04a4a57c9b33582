"""Engines beside ours: the weights that they get, the forwards that they are asked for, what the times say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import FingerprintError, FlexSpecError
from lab.benchmarks import engine
from lab.benchmarks.peers import gguf_file
from lab.benchmarks.peers.child import make
from lab.benchmarks.peers.compare import GROWTH, Texts, bench_core
from lab.benchmarks.peers.crowd import OURS_K, OURS_PLAIN, SERVER, agreement_of_texts, show
from lab.benchmarks.peers.figures import (
    CASES,
    FIVE,
    MANY,
    MOST,
    NINE,
    ONE,
    PREFILL,
    READ,
    Bar,
    Measured,
    agreement,
    bar_table,
    bars,
    ratio_rows,
    rows,
)
from lab.benchmarks.peers.gguf_file import FORMATS, interleaved_halves, tensor_format, write_gguf
from lab.benchmarks.peers.interface import CannotConvertError, Engine, is_plain_llama, weights
from lab.benchmarks.peers.llama_server import serving
from lab.benchmarks.peers.memory import Memory
from lab.benchmarks.peers.our_rounds import OurRounds, steady
from lab.benchmarks.peers.specs import KINDS, OURS, Spec, chosen, how_to_install
from lab.benchmarks.peers.torch_engines import Ours, Transformers
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_llama(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, max_position_embeddings=1024
    )
    return save(tmp_path_factory.mktemp("tiny"), model, byte_level_tokenizer())


def turned(rows: Floats, position: int, *, pairs: bool) -> Floats:
    """One head's values at a position: the value i with i + size / 2, or 2 i with 2 i + 1."""
    size = len(rows)
    angles = position * 10_000.0 ** (-np.arange(size // 2) * 2 / size)
    first, second = (rows[0::2], rows[1::2]) if pairs else (rows[: size // 2], rows[size // 2 :])
    moved = first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)
    return np.concatenate(moved)


@given(st.integers(1, 4), st.sampled_from([2, 4, 8, 64]), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_permuted_queries_and_keys_meet_as_before(heads: int, size: int, distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=(2, heads * size, 1)).astype(np.float32)
    moved = [interleaved_halves(one, heads).reshape(heads, size) for one in (query, key)]
    for head in range(heads):
        plain = [one.reshape(heads, size)[head] for one in (query, key)]
        ours = turned(plain[0], distance, pairs=False) @ turned(plain[1], 0, pairs=False)
        theirs = turned(moved[0][head], distance, pairs=True) @ turned(moved[1][head], 0, pairs=True)
        assert theirs == pytest.approx(ours, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "form", "expected"),
    [
        ("blk.0.attn_norm.weight", (64,), "Q4_1", "F32"),
        ("blk.0.ffn_up.weight", (96, 64), "Q4_1", "Q4_1"),
        ("token_embd.weight", (300, 64), "Q4_1", "Q8_0"),
        ("token_embd.weight", (300, 64), "BF16", "BF16"),
    ],
)
def test_how_tensors_are_written(name: str, shape: tuple[int, ...], form: str, expected: str) -> None:
    assert tensor_format(name, shape, form) == expected


def test_rows_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(CannotConvertError, match="a row of blk has 48"):
        tensor_format("blk", (10, 48), "Q8_0")


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
    state = tiny_llama(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, max_position_embeddings=1024
    ).state_dict()
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


def test_a_file_that_cannot_be_written_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none" / "model.gguf"
    assert gguf_file.main([str(missing), "--target", str(checkpoint)]) == 2
    assert f"{missing.parent} is no folder" in capsys.readouterr().err


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


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_one_token_are_counted(tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=tied)
    expected = sum(
        one.numel()
        for name, one in model.named_parameters()
        if one.dim() == 2 and (tied or "embed_tokens" not in name)
    )
    assert weights(save(tmp_path, model)) == expected


@pytest.mark.parametrize("kind", [Ours, Transformers])
def test_forwards_follow_their_contexts_and_are_forgotten(
    kind: type[Ours | Transformers], checkpoint: Path, one_thread: None
) -> None:
    del one_thread
    made: Engine = kind(str(checkpoint), "float32")
    assert made.weight_bytes == 4 * weights(checkpoint)
    texts = [[(7 * i + 3 * j) % 250 + 3 for j in range(20 + GROWTH)] for i in range(3)]
    made.hold(texts, 20)
    alone = made.read(texts[0][:25], 5).best
    for _ in range(2):
        assert made.forward(1, 5).best == alone
        assert made.forward(1, 1).best == alone[:1]
        many = made.forward(3, 5).best
        assert many == [best for text in texts for best in made.read(text[:25], 5).best]
    assert made.forward(1, 1).ms > 0


def joined(lists: Iterable[list[int]]) -> list[int]:
    return [one for some in lists for one in some]


@pytest.mark.parametrize(
    ("kind", "form", "module"),
    [
        ("llama.cpp", "BF16", "llama_cpp"),
        ("llama.cpp", "Q8_0", "llama_cpp"),
        ("openvino", "bf16", "openvino"),
        ("openvino", "int8", "openvino"),
    ],
)
def test_what_is_installed_finds_the_ids_that_transformers_finds(
    kind: str, form: str, module: str, checkpoint: Path, tmp_path: Path, one_thread: None
) -> None:
    """Of 3 texts of 25 tokens. Numbers are rounded, so near ties may go either way."""
    del one_thread
    pytest.importorskip(module)
    made = make({"kind": kind, "form": form, "folder": str(checkpoint), "cache": str(tmp_path)})
    reference = Transformers(str(checkpoint), "float32")
    texts = [[(7 * i + 3 * j) % 250 + 3 for j in range(20 + GROWTH)] for i in range(3)]
    own = [reference.read(text[:25], 25).best for text in texts]
    read = [made.read(text[:25], 25).best for text in texts]
    assert agreement(joined(own), joined(read)) >= 0.9
    made.hold(texts, 20)
    for _ in range(2):
        assert agreement(joined(best[20:] for best in own), made.forward(3, 5).best) >= 0.8
        assert agreement(own[0][20:], made.forward(1, 5).best) >= 0.8


def test_the_memory_is_read(one_thread: None) -> None:
    del one_thread
    assert 0.01 < Memory(2**24).speed() < 10_000


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(16, 600), st.integers(0, 5))
def test_texts_are_windows_of_the_stream(stream: list[int], context: int, seed: int) -> None:
    texts = Texts.cut(stream, context, seed)
    assert len(texts.sessions) == MOST
    assert {len(text) for text in texts.sessions} == {context + GROWTH}
    assert len(texts.prompt) == PREFILL
    around = stream * (2 + max(context + GROWTH, PREFILL) // len(stream))
    joined = bytes(around)
    assert all(bytes(text) in joined for text in [*texts.sessions, texts.prompt])
    assert texts == Texts.cut(stream, context, seed)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_agreement_is_the_share_of_equal_ids(pairs: list[tuple[int, int]]) -> None:
    share = agreement([a for a, _ in pairs], [b for _, b in pairs])
    assert share * len(pairs) == pytest.approx(sum(a == b for a, b in pairs))


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1], []), ([1, 2], [1])])
def test_texts_that_cannot_be_compared_are_refused(ours: list[int], theirs: list[int]) -> None:
    with pytest.raises(ValueError, match="same length"):
        agreement(ours, theirs)


def measured(**ms: float) -> Measured:
    names = {"one": ONE, "five": FIVE, "nine": NINE, "many": MANY, "read": READ}
    return Measured(weight_bytes=10**9, times={names[name]: [value] * 3 for name, value in ms.items()})


def test_bars() -> None:
    ours = measured(one=15, five=15, nine=30, many=31, read=500)
    llama, openvino = measured(one=10, five=20.1, nine=40), measured(read=400)
    judged = bars(ours, llama, openvino)
    assert [bar.value for bar in judged] == pytest.approx([1.5, 15 / 20.1, 0.75, 0.8, 31 / 15])
    assert [bar.met for bar in judged] == [True, True, False, True, False]
    alone = bars(ours, Measured(), Measured())
    assert [bar.met for bar in alone] == [None, None, None, None, False]
    assert bar_table(alone).count("not measured") == 4
    assert alone[0].facts() == {"value": None, "most": 1.5, "met": None}
    assert judged[3].facts() == {"value": pytest.approx(0.8), "least": 0.8, "met": True}


@given(st.floats(0, 10), st.floats(0, 10))
def test_a_bar_is_met_on_one_side_of_its_bound(value: float, bound: float) -> None:
    most, least = Bar("", value, bound).met, Bar("", value, bound, least=True).met
    assert most or least
    assert (most and least) == (value == bound)


def test_the_share_of_the_memorys_speed() -> None:
    one = measured(one=100, read=256)
    assert one.share(20.0) == pytest.approx(0.5)
    assert one.read_rate == pytest.approx(2000)
    assert measured(five=1).share(20.0) is None


def test_rows_leave_out_what_was_not_measured() -> None:
    found = {
        "ours": measured(one=10, five=12),
        "other": measured(one=20),
        "missing": Measured(said=["not installed"]),
    }
    assert [row[0] for row in rows(found, 10.0)] == ["ours", "other"]
    ratios = ratio_rows(found, "ours")
    assert ratios == [["other", 0.5, *[None] * (len(CASES) - 1)]]


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 5)
)
def test_texts_agree_until_they_first_differ(texts: list[list[int]], place: int) -> None:
    changed = [[*text[:place], *(1 - token for token in text[place:])] for text in texts]
    assert agreement_of_texts(texts, changed) == pytest.approx(min(place, 4) / 4)


@given(st.lists(st.integers(0, 8), max_size=12), st.integers(1, 8))
def test_steps_count_while_all_write(decided: list[int], sessions: int) -> None:
    counted = steady([(1.0, tokens) for tokens in decided], sessions)
    assert [tokens for _, tokens in counted] == decided[1 : 1 + len(counted)]
    assert all(tokens >= sessions for _, tokens in counted)
    behind = decided[1 + len(counted) :]
    assert not behind or behind[0] < sessions


def test_what_is_not_installed_is_said() -> None:
    spec = Spec("other", "int4", ("json", "no_such_module", "llama_cpp_of_nobody"))
    assert spec.missing == ["no_such_module", "llama_cpp_of_nobody"]
    assert how_to_install(["llama_cpp", "gguf"]) == "not installed: llama-cpp-python, gguf"


def test_engines_are_chosen_by_kind() -> None:
    assert [one.kind for one in chosen("float32", ["transformers"])] == [OURS, "transformers"]
    assert {one.kind for one in chosen("float32", None)} == {OURS, *KINDS}
    names = [one.name for one in chosen("bfloat16", None)]
    assert len(set(names)) == len(names)


def test_rounds_of_the_target_as_its_own_draft(checkpoint: Path, one_thread: None) -> None:
    """All is accepted, so a round commits five tokens; with K = 0 one, and the texts are the same."""
    del one_thread
    made = OurRounds(str(checkpoint), "float32", str(checkpoint))
    prompts = [[5 + i, 9, 17 + i, 30] for i in range(3)]
    plain, drafted = made.run(prompts, 21, 0), made.run(prompts, 21, 4)
    assert plain.exact
    assert plain.texts == drafted.texts
    assert {len(text) for text in plain.texts} == {21}
    assert plain.tokens_per_round == 1.0
    assert drafted.tokens_per_round > 4.0
    assert (plain.steps, plain.tokens) == (20, 60)
    assert plain.seconds > 0


def test_a_draft_with_another_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = save(tmp_path, tiny_llama(), byte_level_tokenizer(("other", "words")))
    with pytest.raises(FingerprintError, match="different tokenizers"):
        OurRounds(str(checkpoint), "float32", str(other))


SERVER_PROGRAM = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert (flags["-t"], flags["-tb"], flags["-np"], flags["-c"]) == ("1", "1", "3", "96"), flags

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wanted = min(asked["n_predict"], {most})
        self.answer({{"tokens": [asked["id_slot"] + asked["prompt"][-1]] * wanted}})

    def answer(self, found):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler).serve_forever()
"""


@pytest.mark.parametrize("most", [100, 5])
async def test_every_slot_of_the_server_writes(most: int, tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text(SERVER_PROGRAM.format(python=sys.executable, most=most), "utf-8")
    program.chmod(0o755)
    prompts = [[1, 10], [2, 20], [3, 30]]
    async with serving(str(program), tmp_path / "model.gguf", slots=3, room=32, core=bench_core()) as server:
        if most < 8:
            with pytest.raises(FlexSpecError, match="wrote 5 tokens, not 8"):
                await server.run(prompts, 8)
            return
        seconds, texts = await server.run(prompts, 8)
    assert texts == [[10] * 8, [21] * 8, [32] * 8]
    assert seconds > 0


async def test_a_server_that_ends_at_once_is_said(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 1\n", "utf-8")
    program.chmod(0o755)
    with pytest.raises(FlexSpecError, match="does not start") as caught:
        async with serving(str(program), tmp_path / "model.gguf", slots=1, room=32, core=bench_core()):
            pass
    assert "no such model" in caught.value.hint


def test_a_server_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def served(rate: float) -> dict[str, Any]:
        return {
            "tokens_per_second": {"median": rate},
            "tokens_per_round": 1.0,
            "exact": rate > 250,
            "agreement": 1.0,
        }

    ours = {OURS_K: served(300.0), OURS_PLAIN: served(200.0)}
    assert show({**ours, SERVER: served(150.0)}, 80.0)["ratio"] == pytest.approx(2.0)
    assert "nearly tie" not in capsys.readouterr().out
    show({OURS_K: served(100.0)}, 80.0)
    assert "nearly tie" in capsys.readouterr().out
    assert show(ours, 1e3 * MOST / 600.0)["ratio"] == pytest.approx(0.5)
    capsys.readouterr()
    assert show(ours, None)["ratio"] is None
    assert "was not found" in capsys.readouterr().out


def test_engines_side_by_side(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--target", str(checkpoint), "--dtype", "float32", "--context", "64", "--turns", "2"]
    assert engine.main([*flags, "--sections", "peers", "--peers", "transformers"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = printed["results"]["peers"]
    assert set(found["engines"]) == {"ours, float32", "transformers, float32"}
    for one in found["engines"].values():
        assert set(one["ms"]) == set(CASES)
        assert all(0 < case["least"] <= case["median"] <= case["p95"] for case in one["ms"].values())
        assert one["agreement"] == 1.0
        assert math.isclose(
            one["share_of_memory"],
            one["weight_bytes"] / 1e6 / one["ms"][ONE]["median"] / found["memory_gb_per_second"]["median"],
        )
    assert [bar["met"] for bar in found["bars"].values()][:4] == [None] * 4
    assert found["bars"][f"{MOST} sessions of one token, of one session"]["met"] in {True, False}


def test_an_engine_that_ends_is_left_out(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = [Spec(OURS, "float32"), Spec("nobody", "int4"), Spec("other", "int4", ("no_such_module",))]
    monkeypatch.setattr(engine, "chosen", lambda _dtype, _wanted: specs)
    flags = ["--target", str(checkpoint), "--dtype", "float32", "--context", "64", "--turns", "1"]
    assert engine.main([*flags, "--sections", "peers"]) == 0
    printed = capsys.readouterr().out
    assert (
        "nobody, int4: the nobody, int4 ended with code 1: ValueError: there is no engine nobody" in printed
    )
    assert "other, int4: not installed: no_such_module" in printed
    found = json.loads(printed.splitlines()[-1])["results"]["peers"]["engines"]
    assert found["nobody, int4"]["ms"] == {}
    assert set(found["ours, float32"]["ms"]) == set(CASES)
