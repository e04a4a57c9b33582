"""Loading: what a model says of itself, and an error that helps for everything that can be wrong with it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from flexspec_mq.errors import ModelError
from flexspec_mq.models.fingerprint import TokenizerContents
from flexspec_mq.models.load import UNSTATED_CONTEXT, find_model, load_target
from tests.models.tiny_checkpoints import (
    TEMPLATE,
    byte_level_tokenizer,
    edit,
    edit_tensors,
    save,
    tiny_llama,
    write,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny", tiny_llama(), byte_level_tokenizer(("cat",), TEMPLATE))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> None:
        pytest.fail(f"network used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_folder_loads_quietly_and_without_the_network(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_target(folder, dtype="float32")
    assert (
        loaded.fingerprint
        == TokenizerContents.from_tokenizer(byte_level_tokenizer(("cat",), TEMPLATE)).digest()
    )
    assert (loaded.eos, loaded.vocab_size, loaded.max_context, loaded.name) == ((2,), 300, 64, "tiny")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.model(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits)
    assert capfd.readouterr() == ("", "")


def test_progress_names_the_model(folder: Path) -> None:
    said: list[str] = []
    load_target(folder, progress=said.append)
    assert said == ["loading tiny"]


def test_models_that_state_no_context(tmp_path: Path) -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2))
    folder = save(tmp_path / "bloom", bloom)
    assert load_target(folder, attn_implementation="eager").max_context == UNSTATED_CONTEXT
    edit("tokenizer_config.json", model_max_length=48)(folder)
    assert load_target(folder, attn_implementation="eager").max_context == 48
    with pytest.raises(ModelError, match="with attention 'sdpa'") as caught:
        load_target(folder)
    assert "eager" in caught.value.hint


def test_another_architecture(tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    loaded = load_target(save(tmp_path / "g", gpt2), dtype="float32")
    assert (type(loaded.model).__name__, loaded.max_context, loaded.vocab_size) == (
        "GPT2LMHeadModel",
        32,
        300,
    )


def test_find_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(folder) == folder
    assert find_model(str(folder)) == folder
    assert find_model("owner/model-1.5") == "owner/model-1.5"
    assert find_model("gpt2") == "gpt2"
    monkeypatch.chdir(folder.parent)
    assert find_model("tiny") == Path("tiny")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model("~/tiny") == folder


@pytest.mark.parametrize("missing", ["/no/such/folder", "./nothing", "~/nothing", "a/b/c", "two words"])
def test_missing_paths(missing: str) -> None:
    with pytest.raises(ModelError, match="there is no folder") as caught:
        find_model(missing)
    assert "checkpoint folder" in caught.value.hint


def test_what_is_no_checkpoint_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="neither a checkpoint folder nor a GGUF file"):
        find_model(folder / WEIGHTS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no checkpoint folder"):
        load_target("")  # the current folder


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
NO_WEIGHTS, NO_CONFIGURATION = "cannot load the weights", "cannot read the configuration"
NO_TOKENIZER = "cannot load the tokenizer"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda folder: os.truncate(folder / WEIGHTS, 20_000), NO_WEIGHTS),
    "garbled weights": (write(WEIGHTS, b"\xff" * 4096), NO_WEIGHTS),
    "no weights": (remove(WEIGHTS), NO_WEIGHTS),
    "a tensor less": (edit_tensors(WEIGHTS, {UP: None}), rf"lacks 1 tensors .* {UP}"),
    "a tensor of another shape": (edit_tensors(WEIGHTS, {NORM: torch.ones(8)}), f"{NORM}|{NO_WEIGHTS}"),
    "no configuration": (remove("config.json"), "no config.json"),
    "broken configuration": (write("config.json", "{"), NO_CONFIGURATION),
    "unknown architecture": (write("config.json", '{"model_type": "nonesuch"}'), NO_CONFIGURATION),
    "configuration of wrong types": (
        write("config.json", '{"model_type": "llama", "vocab_size": "many"}'),
        NO_CONFIGURATION,
    ),
    "no tokenizer": (remove("tokenizer.json"), NO_TOKENIZER),
    "broken tokenizer": (write("tokenizer.json", "{"), NO_TOKENIZER),
    "tokenizer of another kind": (write("tokenizer.json", '{"model": 3}'), NO_TOKENIZER),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage(kind: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_target(folder)
    assert caught.value.hint
    assert str(folder) in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_that_knows_more_tokens_than_the_model(tmp_path: Path) -> None:
    save(tmp_path / "m", tiny_llama(vocab_size=200))
    with pytest.raises(ModelError, match=r"the tokenizer has 259 tokens, the model only 200"):
        load_target(tmp_path / "m")


def test_models_that_do_not_predict_the_next_token(tmp_path: Path, folder: Path) -> None:
    bert = BertConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    t5 = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for model in (BertForMaskedLM(bert), T5ForConditionalGeneration(t5)):
        name = type(model).__name__
        with pytest.raises(ModelError, match=f"no causal language model but {name}"):
            load_target(save(tmp_path / name, model))
    nameless = edit("config.json", architectures=None)
    nameless(tmp_path / "BertForMaskedLM")
    with pytest.raises(ModelError, match="no causal language model but bert"):
        load_target(tmp_path / "BertForMaskedLM")
    nameless(folder)  # of a kind that can be no other
    assert load_target(folder).vocab_size == 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"dtype": name}, f"unknown dtype '{name}'") for name in ("float64", "bf16", "load")),
        *(({"device": name}, f"unknown device '{name}'") for name in ("gpu", "cpu:x", "")),
        ({"device": "cuda:63"}, "device 'cuda:63' cannot be used here"),
        ({"device": "meta"}, "'meta' computes nothing"),
        ({"attn_implementation": "nonesuch"}, "with attention 'nonesuch'"),
    ],
)
def test_settings_that_cannot_be_had(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_target(folder, **settings)
    assert caught.value.hint


class _Hub(BaseHTTPRequestHandler):
    """Knows no model, and says so as the hub does."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815 - the parent's name for it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name for it
        del format, args


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_that_the_hub_does_not_know(hub: str, tmp_path: Path) -> None:
    out = run_python(LOAD_FROM_HUB, HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    assert out.startswith("neither a folder nor a public model on the hub: owner/model")


def test_a_hub_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """As where there is no network: the hub's own client tries again for more than a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        out = run_python(LOAD_FROM_HUB, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    assert out.startswith("there is no folder owner/model, and the model hub does not answer within 5 s")
    assert "name a checkpoint folder" in out
    assert time.monotonic() - began < 60


def run_python(code: str, **environment: str) -> str:
    """Run code in a process of its own: the hub client reads its settings when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


LOAD_FROM_HUB = """
from flexspec_mq.errors import ModelError
from flexspec_mq.models.load import load_target
try:
    load_target("owner/model")
except ModelError as error:
    print(error)
"""


@pytest.mark.model
def test_the_default_model() -> None:
    loaded = load_target()
    assert (loaded.name, loaded.eos, loaded.vocab_size, loaded.max_context) == (
        "SmolLM2-135M-Instruct",
        (2,),
        49_152,
        8192,
    )
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.fingerprint.hex() == "c14b9d10116e8dbfe4a06e47c1a2d448"
    weights = loaded.model.state_dict()
    assert weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr()
    ids = torch.tensor([loaded.tokenizer.encode("The capital of France is")])
    best = int(loaded.model(input_ids=ids).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([best]) == " Paris"
