"""GGUF files as models: the logits and token ids of the checkpoint that they were made from."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from cloud_worker.engine.target import candidate_of
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import ModelError
from flexspec_mq.models.compact.load_exact import Checkpoint
from flexspec_mq.models.default import _find_gguf
from flexspec_mq.models.gguf import tensors
from flexspec_mq.models.gguf.convert import gguf_checkpoint, remove_made
from flexspec_mq.models.gguf.tokenizer import read_tokenizer
from flexspec_mq.models.load import load_target, load_text, recommended
from flexspec_mq.models.text import Turn, render_turns
from flexspec_mq.models.weights import Tensors
from tests.models.tiny_packed import read

WORDS, CONTEXT = 300, 128
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": WORDS, "max_position_embeddings": CONTEXT,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5}  # fmt: skip
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 5000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 5000.0}
LONG = {"rope_type": "longrope", "rope_theta": 5000.0, "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
        "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "partial_rotary_factor": 0.75}  # fmt: skip
BY_LAYER = {"full_attention": ROPE | {"rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2 and Mistral": ("llama", {"rope_parameters": ROPE, "tie_word_embeddings": False}),
    "Llama 3": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32}),
    "linear positions": ("llama", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}}),
    "Qwen2": ("qwen2", {"rope_parameters": ROPE, "tie_word_embeddings": True}),
    "Qwen2.5 with YaRN": ("qwen2", {"rope_parameters": YARN}),
    "Qwen3": ("qwen3", {"rope_parameters": ROPE, "head_dim": 32}),
    "Gemma 3": ("gemma3", {"rope_parameters": BY_LAYER, "head_dim": 32, "num_hidden_layers": 7, "sliding_window": 16,
                           "query_pre_attn_scalar": 32}),
    "Phi-3": ("phi3", {"rope_parameters": ROPE, "sliding_window": 33}),
    "Phi-3 with long positions": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 32}),
    "SmolLM3": ("smollm3", {"rope_parameters": ROPE}),
}  # fmt: skip


def tiny(arch: str, changes: dict[str, Any]) -> Any:
    """A model with random weights that bfloat16 holds."""
    torch.manual_seed(0)
    kind = {"gemma3": "gemma3_text"}.get(arch, arch)
    config = AutoConfig.for_model(kind, **json.loads(json.dumps(SIZES | changes)))
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for name, weights in model.named_parameters():
        norm = torch.randint_like(weights, -64, 64) / 256 + (arch != "gemma3")
        values = norm if name.endswith("norm.weight") else torch.randn_like(weights) / 8
        weights.data = values.to(torch.bfloat16).float()
    return model.eval()


def words() -> tuple[list[str], list[int]]:
    """Tokens of a byte-level vocabulary, filled up as llama.cpp does, and the kind of each."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens, kinds = [*tokens, "Ġt", "<think>"], [*[3] * 3, *[1] * 257, 4]
    fill = [f"[PAD{index}]" for index in range(len(tokens), WORDS)]
    return tokens + fill, kinds + [5] * len(fill)


Floats = npt.NDArray[np.float32]
Stored = tuple[npt.NDArray[Any], gguf.GGMLQuantizationType]


def as_bf16(_name: str, values: Floats) -> Stored:
    kind = gguf.GGMLQuantizationType.BF16
    return gguf.quants.quantize(values, kind), kind


def write(
    path: Path, arch: str, model: Any, stored: Callable[[str, Floats], Stored] = as_bf16, /, **facts: Any
) -> Path:
    """Write the file that llama.cpp's converter would, with the names that gguf has for the tensors."""
    config = model.config
    writer = gguf.GGUFWriter(path, facts.pop("architecture", arch))
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch == "phi3":
        writer.add_rope_dimension_count(int(size * rope["partial_rotary_factor"]))
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    else:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if arch in ("gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope.get("original_max_position_embeddings", 32))
    for name in ("long", "short") if rope["rope_type"] == "longrope" else ():
        writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], np.float32))
    if rope["rope_type"] == "llama3":
        usual = 1 / rope["rope_theta"] ** (np.arange(0, size, 2) / size)
        slowed = usual / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", slowed.astype(np.float32))
    values = {"model": "gpt2", "pre": "qwen2", "eos_token_id": 0, "bos_token_id": 1, **facts}
    for key, value in values.items():
        if value is not None:
            add = writer.add_uint32 if isinstance(value, int) else writer.add_string
            add(f"tokenizer.ggml.{key}", value)
    tokens, kinds = words()
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t"])
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    writer.add_float32("general.sampling.temp", 0.7)
    (kind,) = (kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weights.numpy().astype(np.float32)
        if arch in ("llama", "smollm3") and name.split(".")[-2] in ("q_proj", "k_proj"):
            count = heads if "q_proj" in name else groups
            array = array.reshape(count, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if arch == "gemma3" and name.endswith("norm.weight"):
            array = array + 1
        data, form = (array, None) if array.ndim == 1 else stored(name, array)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")) or name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tensors, "_SLICE", 500)
    return tmp_path / "cache" / "flexspec-mq" / "models"


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_the_models_own(name: str, tmp_path: Path) -> None:
    arch, changes = SHAPES[name]
    model = tiny(arch, changes)
    ids = torch.randint(WORDS, (1, 100), generator=torch.Generator().manual_seed(1))
    found = load_target(write(tmp_path / "a.gguf", arch, model), dtype="float32")
    with torch.no_grad():
        ours, theirs = found.model(ids).logits, model(ids).logits
    assert torch.equal(ours, theirs), (ours - theirs).abs().max()
    assert found.max_context == CONTEXT


def test_text_is_as_the_file_says(tmp_path: Path) -> None:
    found = load_text(write(tmp_path / "a.gguf", "qwen2", tiny("qwen2", {})))
    assert found.eos == (0, 2)  # <|im_end|> is known by its name
    assert recommended(found.generation).temperature == pytest.approx(0.7)
    assert (len(found.tokenizer), found.vocab_size) == (261, WORDS)
    prompt = render_turns(found.tokenizer, [Turn("user", "e\u0301 <think>")], answered=True)
    ids = found.tokenizer.encode(prompt)
    assert found.tokenizer.decode(ids) == "<|im_start|>\xe9 <think><|im_end|>"
    assert found.tokenizer.decode(ids, skip_special_tokens=True) == "\xe9 <think>"


@pytest.mark.parametrize("form", ["F16", "Q8_0", "Q5_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_few_bits_are_unpacked_as_gguf_does(form: str, tmp_path: Path) -> None:
    """Formats that gguf cannot make are filled with random bits, of which it knows the values."""
    kind, made = gguf.GGMLQuantizationType[form], {}

    def stored(name: str, values: Floats) -> Stored:
        try:
            data = gguf.quants.quantize(values, kind)
        except NotImplementedError:
            shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
            data = np.random.default_rng(0).integers(0, 40, shape, np.uint8)
        made[name] = gguf.quants.dequantize(data, kind)
        return data, kind

    sizes = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "tie_word_embeddings": True,
        "rope_parameters": ROPE,
    }
    file = write(tmp_path / "a.gguf", "llama", tiny("llama", sizes), stored)
    found = Tensors(gguf_checkpoint(file))
    for name, values in made.items():
        expected = torch.from_numpy(values).to(torch.bfloat16)
        if "q_proj" in name or "k_proj" in name:
            pairs = expected.reshape(4 if "q_proj" in name else 2, -1, 2, 256)
            expected = pairs.transpose(1, 2).reshape(expected.shape)
        assert torch.equal(found.read(name), expected), name


def mixed(name: str, values: Floats) -> Stored:
    """Random weights as files of Q4_K_M mix them, which gguf reads and does not make."""
    form = "Q6_K" if name.split(".")[-2] in ("v_proj", "down_proj", "embed_tokens") else "Q4_K"
    kind = gguf.GGMLQuantizationType[form]
    rows, size = gguf.quant_shape_to_byte_shape(values.shape, kind)
    rng = np.random.default_rng(len(name))
    data = rng.integers(0, 256, (rows, size), np.uint8)
    blocks = data.reshape(-1, 210 if form == "Q6_K" else 144)
    halves = np.array([0.0004, 0.002], np.float16).view(np.uint8)
    if form == "Q6_K":
        blocks[:, 192:208] = rng.integers(1, 64, (len(blocks), 16))
        blocks[:, 208:] = halves[:2]
    else:
        blocks[:, :4] = halves
    return data, kind


def eight(_name: str, values: Floats) -> Stored:
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf.quants.quantize(values, kind), kind


@pytest.mark.parametrize("stored", [eight, mixed], ids=["Q8_0", "Q4_K_M"])
@pytest.mark.parametrize(
    ("name", "weights"),
    [("Llama 2 and Mistral", "int8"), ("Llama 3", "int8"), ("Qwen2", "int8"), ("Qwen3", "int8"),
     ("Gemma 3", "native"), ("Phi-3", "native"), ("SmolLM3", "native")],
)  # fmt: skip
def test_a_file_is_a_target_and_its_rows_are_their_own(
    name: str, weights: str, stored: Callable[[str, Floats], Stored], tmp_path: Path
) -> None:
    """Where the compact engine knows the model nothing is written but 8-bit integers and the tokenizer."""
    arch, changes = SHAPES[name]
    model = tiny(arch, {**changes, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64})
    file = write(tmp_path / "a.gguf", arch, model, stored)
    _, candidate, engine = candidate_of(WorkerSettings(target=str(file)), lambda _: None)
    assert (candidate.kind, engine) == (weights, "compact" if weights == "int8" else "transformers")
    ids = random.Random(1).choices(range(WORDS), k=60)
    target = candidate.build(None)
    found = read(target, ids, [60])
    assert torch.equal(read(target, ids, [1, 5, 1, 9, 2, 16, 26]), found)
    own = load_target(file, dtype="float32").model
    with torch.no_grad():
        wanted = own(torch.tensor([ids])).logits[0]
    distance = float((found.float() - wanted).norm() / wanted.norm())
    assert distance < 0.2, "random layers make much of little"


def test_a_target_of_a_file_has_the_bits_of_the_folder_that_it_is_converted_to(
    cache: Path, tmp_path: Path
) -> None:
    """Its embedding is read from the file itself."""
    file = write(tmp_path / "a.gguf", "llama", tiny("llama", SHAPES["Llama 3"][1]))
    direct = Checkpoint(file, load_text(file), torch.bfloat16, "int8")
    assert len([*cache.glob("a-*")]) == 2, "its text, and its integers"
    folder = gguf_checkpoint(file)
    through = Checkpoint(folder, load_text(folder), torch.bfloat16, "int8")
    ids = list(range(WORDS))
    assert torch.equal(read(direct.load(), ids, [WORDS]), read(through.load(), ids, [WORDS]))
    assert direct.candidate().architecture == through.candidate().architecture
    assert len(remove_made(folder)) == 1
    assert folder in remove_made(file)
    assert not [*cache.glob("*/")]
    with pytest.raises(ModelError, match=r"nothing in .* was made of"):
        remove_made(file)


def test_a_file_is_converted_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", "qwen2", tiny("qwen2", {}))
    said: list[str] = []
    first = gguf_checkpoint(file, said.append)
    assert said
    said.clear()
    assert gguf_checkpoint(file, said.append) == first
    assert not said
    write(file, "qwen2", tiny("qwen2", {"tie_word_embeddings": True}))
    assert gguf_checkpoint(file) != first


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def with_nan(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + np.float32("nan").tobytes())


@pytest.mark.parametrize(
    ("facts", "change", "said"),
    [
        ({"architecture": "mamba"}, None, "its architecture is 'mamba'"),
        ({"architecture": "qwen3"}, None, "of its tensors are missing, of another shape or unknown"),
        ({"model": None}, None, "it has no tokenizer"),
        ({"model": "t5"}, None, "its tokenizer is of kind 't5'"),
        ({"pre": "viking"}, None, "its tokenizer cuts texts by 'viking'"),
        ({}, shortened, "it ends too early"),
        ({}, with_nan, "no number"),
        ({}, lambda path: path.write_bytes(b""), "neither a checkpoint folder nor"),
    ],
)
def test_what_cannot_be_read_is_told(
    facts: dict[str, Any], change: Callable[[Path], object] | None, said: str, tmp_path: Path, cache: Path
) -> None:
    file = write(tmp_path / "a.gguf", "qwen2", tiny("qwen2", {}), **facts)
    if change:
        change(file)
    with pytest.raises(ModelError, match=said) as caught:
        gguf_checkpoint(file)
    assert str(file) in caught.value.message
    assert caught.value.hint
    assert not [path for path in cache.glob("*") if path.is_dir()]


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.gguf", "qwen2", tiny("qwen2", {}))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(ModelError, match="0 MB are free"):
        gguf_checkpoint(file)


def test_damage_anywhere_is_an_error_that_we_know(tmp_path: Path) -> None:
    """Or it is in the weights, which then are others; never an error of a library's, and never a hang."""
    whole = write(tmp_path / "whole.gguf", "qwen2", tiny("qwen2", {})).read_bytes()
    changes, hints, file = random.Random(0), [], tmp_path / "damaged.gguf"
    for _ in range(150):
        damaged = bytearray(whole)
        start = changes.randrange(changes.choice([200, 9000, len(whole)]))
        damaged[start : start + changes.choice([1, 8])] = changes.randbytes(changes.choice([0, 1, 8]))
        file.write_bytes(damaged[: changes.choice([len(damaged), changes.randrange(len(damaged))])])
        try:
            gguf_checkpoint(file)
        except ModelError as error:
            hints.append(error.hint)
    assert all(hints)
    assert len(hints) > 100


TEXT = "Don't 12345  77\r\n\n  x = 3.14;\tÀÉ naïve 日本語テキスト 🙂🏽 Ünï\u0301 THE'LL  \n"
CUT = {
    "qwen2": "We|'LL| do| |1|2|3|4|5|!\r\n\n| | x",
    "llama-bpe": "We|'LL| do| |123|45|!\r\n\n| | x",
    "tekken": "We|'LL| do| |1|2|3|4|5|!\r\n\n| | x",
    "gpt-4o": "We'LL| do| |123|45|!\r\n\n| | x",
    "gpt-2": "We|'|LL| do| 12345|!|\r\n\n | x",
    "smollm": "We|'|LL| do| |1|2|3|4|5|!|\r\n\n | x",
}


@pytest.mark.parametrize("pre", CUT)
def test_texts_are_cut_before_they_are_merged(pre: str) -> None:
    tokens, kinds = words()
    lists = {"tokens": tokens, "token_type": kinds, "merges": ["Ġ t"], "model": "gpt2", "pre": pre}
    backend = read_tokenizer(
        {f"tokenizer.ggml.{key}": value for key, value in lists.items()}
    ).backend_tokenizer
    pieces = CUT[pre].split("|")
    found = backend.pre_tokenizer.pre_tokenize_str("".join(pieces))
    assert ["".join(pieces)[start:end] for _, (start, end) in found] == pieces


def test_sentencepiece_merges_the_best_pair_first() -> None:
    pieces = {"<unk>": 0, "<s>": 0, "</s>": 0, **{f"<0x{byte:02X}>": 0 for byte in range(256)}}
    pieces |= {"▁": -9, "a": -8, "b": -7, "c": -6, "ab": -2, "bc": -1, "▁a": -3, "  ": -4, "\n": -5}
    kinds = [2, 3, 3, *[6] * 256, *[1] * 7, 4, 4]
    facts = {"model": "llama", "tokens": list(pieces), "scores": list(pieces.values()), "token_type": kinds}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    keys = {f"tokenizer.ggml.{key}": value for key, value in {**facts, **ids}.items()}
    for prefix, arch, text, expected in (
        (True, "llama", "abc ab   é", "<s> ▁a bc ▁ ab ▁▁ ▁ <0xC3> <0xA9>"),  # a blank before all
        (False, "llama", "abc ab\n   é", "<s> a bc ▁ ab \n ▁▁ ▁ <0xC3> <0xA9>"),
        (False, "gemma3", "abc ab   é", "<s> ab c ▁ ab ▁▁ ▁ <0xC3> <0xA9>"),  # by order, as its makers
    ):
        more = {"tokenizer.ggml.add_space_prefix": prefix, "general.architecture": arch}
        tokenizer = read_tokenizer(keys | more)
        found = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(found) == expected.split(" ")
        assert tokenizer.decode(found, skip_special_tokens=True) == text


@pytest.mark.model
def test_the_default_models_tokenizer_is_its_makers() -> None:
    """Their pipeline cuts digits one by one, then as GPT-2, which transformers' own reading forgets."""
    file, _ = _find_gguf()
    facts = {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    ours = read_tokenizer(facts)
    theirs = Tokenizer.from_str(ours.backend_tokenizer.to_str())
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert ours.get_vocab() == {token: at for at, token in enumerate(facts["tokenizer.ggml.tokens"])}
    for text in (TEXT, Path(__file__).read_text("utf-8"), "<|im_start|>user\n 1\xb2\u0663<|im_end|>"):
        ids = ours(text)["input_ids"]
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == text
