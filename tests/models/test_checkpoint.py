"""Checkpoints read without transformers: same result, and whatever might differ is left to transformers."""

import json
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from flexspec_mq.errors import UsageError
from flexspec_mq.models.checkpoint import read_plainly
from flexspec_mq.models.default import default_draft_path, default_model_path
from flexspec_mq.models.fingerprint import TokenizerContents
from flexspec_mq.models.load import load_text
from flexspec_mq.models.onnx.write import write_onnx
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.text import Turn, encode_turns, render_turns
from flexspec_mq.models.tokenizer import PlainTokenizer, Tokenizer
from tests.models.tiny_checkpoints import (
    TEMPLATE,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
    edit,
    save,
    tiny_llama,
    write,
)

STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + TEMPLATE
ALL = (
    "{% set ns = namespace(last='', n=0) %}{% for m in messages[::-1] if m.role is defined %}{% set ns.last = m.role %}"
    "{% set ns.n = ns.n + 1 %}{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}"
    "{{ bos_token }}{{ ns.last ~ ns.n }}"
    "{% if tools %}{{ tools | tojson }}{% elif custom_tools is not defined and enable_thinking is not defined %}"
    "{{ {'é<': messages[0], 'b': [1.5, none]} | tojson }}{{ messages | tojson(indent=2) }}{% endif %}"
    "{{ strftime_now('%Y-%m-%d') }}{{ dict(a=1) | tojson }}"
    "{% generation %}{{ messages[-1]['content'].strip().split('c')[-1] }}{% endgeneration %}"
    "{% if add_generation_prompt %}{{ '<s>assistant' + '\\n' }}{% endif %}"
)
"""Template with what Llama 3's, Qwen 3's, SmolLM3's and Gemma's use."""
TURNS = [{"role": "user", "content": " </s>né\n"}, {"role": "assistant", "content": "日 cat"}]
TEXTS = (
    "",
    "the cat",
    " </s><s> two\n\n",
    "naïve 日本 \N{GRINNING FACE}\r\n\t",
    "<unk>a  b",
    "def f(x):\n    return 1",
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "tiny"
    return save(path, tiny_llama(), byte_level_tokenizer(("cat",), TEMPLATE))


@cache
def both(folder: Path) -> tuple[PlainTokenizer, Any]:
    found = read_plainly(folder)
    assert found is not None
    return found[1], AutoTokenizer.from_pretrained(folder)


def assert_same(ours: Tokenizer, theirs: Tokenizer) -> None:
    assert (
        TokenizerContents.from_tokenizer(ours).digest() == TokenizerContents.from_tokenizer(theirs).digest()
    )
    assert len(ours) == len(theirs)
    assert (ours.model_max_length, ours.eos_token_id) == (theirs.model_max_length, theirs.eos_token_id)
    assert ours.chat_template == theirs.chat_template
    # The bound on a prompt's length before it is encoded is computed from the backend.
    backends = [json.loads(cast("Any", each).backend_tokenizer.to_str()) for each in (ours, theirs)]
    assert backends[0] == backends[1]
    for token in (0, 2, 5, len(ours) - 1):
        assert ours.convert_ids_to_tokens(token) == theirs.convert_ids_to_tokens(token)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            flags = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": False}
            ids = ours.encode(text)
            assert ours.decode(ids, **flags) == theirs.decode(ids, **flags)
    if ours.chat_template:
        for going_on in (True, False):
            options: dict[str, Any] = {"add_generation_prompt": going_on, "tokenize": False}
            written = cast("Any", theirs).apply_chat_template(TURNS, **options)
            turns = [Turn(cast("Any", turn["role"]), turn["content"]) for turn in TURNS]
            assert render_turns(ours, turns, answered=not going_on) == written
        assert_goes_on_as_theirs(ours, theirs, "日 cat")


def assert_goes_on_as_theirs(ours: Tokenizer, theirs: Any, content: str) -> None:
    turns = [Turn("user", "hello"), Turn("assistant", content, continued=True)]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    known = theirs.apply_chat_template(messages, continue_final_message=True, return_dict=False)
    assert encode_turns(ours, turns, max_context=10_000) == tuple(known)


@pytest.mark.parametrize(
    "made",
    [
        byte_level_tokenizer(),
        byte_level_tokenizer(("cat", "dog"), TEMPLATE),
        byte_level_tokenizer((), STRICT),
        byte_level_tokenizer((), ALL),
        byte_fallback_tokenizer(),
    ],
    ids=["base", "chat", "strict", "all of a template", "byte fallback"],
)
def test_tiny_tokenizers_are_read_as_transformers_reads_them(made: Any, tmp_path: Path) -> None:
    assert_same(*both(save(tmp_path / "m", tiny_llama(), made)))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "64 MB"),
        ("{% for m in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "64 MB"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    ],
)
def test_a_template_without_an_end_is_refused(folder: Path, template: str, why: str) -> None:
    backend = both(folder)[0].backend_tokenizer
    tokenizer = PlainTokenizer(backend, {}, template, 100)
    with pytest.raises(UsageError, match=why):
        encode_turns(tokenizer, (Turn("user", "hello"),), max_context=100)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40), ids=st.lists(st.integers(0, 259), max_size=20))
def test_any_text_and_any_ids(folder: Path, text: str, ids: list[int]) -> None:
    ours, theirs = both(folder)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    turns = [Turn("user", f"hello {text}")]
    assert render_turns(ours, turns) == render_turns(theirs, turns)


HEADED = "{% for m in messages %}{{ '<s>' + m.role + '\n' + BODY + '</s>\n' }}{% endfor %}"
BODIES = {
    "as it is": "m.content",
    "trimmed": "m.content | trim",
    "without thoughts": "(m.content.split('</think>') | last).lstrip('\n')",
    "repeated": "m.content + '|' + (m.content | trim)",
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([*BODIES]), parts=st.lists(st.sampled_from(["a", " ", "\n", "</think>", "é"])))
def test_an_answer_goes_on_as_transformers_has_it(folder: Path, kind: str, parts: list[str]) -> None:
    content = "".join(parts) or "a"
    assume(content.strip())
    ours, theirs = both(folder)
    template = HEADED.replace("BODY", BODIES[kind])
    plain = PlainTokenizer(ours.backend_tokenizer, ours.special_tokens_map, template, 10_000)
    changed = copy(theirs)
    changed.chat_template = template
    try:
        assert_goes_on_as_theirs(plain, changed, content)
    except (UsageError, ValueError):  # a thought at the end: neither goes on with what is left out
        assert kind == "without thoughts"
        with pytest.raises(UsageError, match="leaves out what is to be continued"):
            assert_goes_on_as_theirs(plain, theirs, content)
        with pytest.raises(ValueError, match="does not appear"):
            changed.apply_chat_template(
                [{"role": "assistant", "content": content}], continue_final_message=True
            )


def test_a_template_may_refuse(tmp_path: Path) -> None:
    for tokenizer in both(save(tmp_path / "m", tiny_llama(), byte_level_tokenizer((), STRICT))):
        with pytest.raises(UsageError, match="user first"):
            render_turns(tokenizer, [Turn("assistant", "hello")])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 2, "eos_token_id": [2, 9]},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}},
    ],
)
def test_sizes_are_those_that_transformers_reads(changes: dict[str, Any], tmp_path: Path) -> None:
    found = read_plainly(save(tmp_path / "m", tiny_llama(**changes)))
    assert found is not None
    theirs = AutoConfig.from_pretrained(tmp_path / "m").get_text_config().to_dict()
    assert Shape.from_config(found[0]) == Shape.from_config(theirs)
    keys = ("max_position_embeddings", "vocab_size", "eos_token_id")
    assert {key: found[0][key] for key in keys} == {key: theirs[key] for key in keys}


def special_only_by_name(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    for token in found["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(found))


CONFIG, SETTINGS, TOKENIZER = "config.json", "tokenizer_config.json", "tokenizer.json"
LEFT_TO_TRANSFORMERS: dict[str, Callable[[Path], object]] = {
    "another architecture": edit(CONFIG, model_type="mistral", architectures=["MistralForCausalLM"]),
    "another head": edit(CONFIG, architectures=["LlamaForSequenceClassification"]),
    "no class": edit(CONFIG, architectures=None),
    "a default of transformers": edit(CONFIG, num_key_value_heads=None),
    "older names of rotary positions": edit(CONFIG, rope_parameters=None, rope_theta=10000.0),
    "rotary positions of no kind": edit(CONFIG, rope_parameters={"rope_theta": 10000.0}),
    "quantised weights": edit(CONFIG, quantization_config={"quant_method": "gptq"}),
    "code of its own": edit(CONFIG, auto_map={"AutoConfig": "x.Y"}),
    "a width of wrong type": edit(CONFIG, hidden_size="many"),
    "no width": edit(CONFIG, hidden_size=0),
    "a width that heads do not divide": edit(CONFIG, hidden_size=17),
    "broken configuration": write(CONFIG, "{"),
    "a tokenizer class": edit(SETTINGS, tokenizer_class="LlamaTokenizer"),
    "no tokenizer class": edit(SETTINGS, tokenizer_class=None),
    "a setting not known here": edit(SETTINGS, add_prefix_space=True),
    "a token that must be added": edit(SETTINGS, pad_token="<pad>"),  # noqa: S106
    "a token that is no text": edit(SETTINGS, eos_token={"content": "</s>"}),
    "settings of another form": write(SETTINGS, "[]"),
    "broken settings": write(SETTINGS, "[3]"),
    "a length that is none": edit(SETTINGS, model_max_length=["x"]),
    "truncation": edit(
        TOKENIZER, truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    ),
    "no post-processor": edit(TOKENIZER, post_processor=None),
    "a broken tokenizer": write(TOKENIZER, "{"),
    "a tokenizer of another kind": edit(TOKENIZER, model=3),
    "special tokens by name only": special_only_by_name,
    "more tokens in a file": write("added_tokens.json", "{}"),
    "roles in a file": write("special_tokens_map.json", "{}"),
    "a template with a foreign tag": write("chat_template.jinja", "{% strange %}x{% endstrange %}"),
    "more templates in a folder": lambda folder: (folder / "additional_chat_templates").mkdir(),
    "a broken template": write("chat_template.jinja", "{% if %}"),
}


@pytest.mark.parametrize("what", LEFT_TO_TRANSFORMERS)
def test_what_might_differ_is_left_to_transformers(what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m", tiny_llama(), byte_level_tokenizer(("cat",), TEMPLATE))
    assert read_plainly(path) is not None
    LEFT_TO_TRANSFORMERS[what](path)
    assert read_plainly(path) is None


@pytest.mark.parametrize(
    "what",
    [
        "a tokenizer class", "a setting not known here", "a token that must be added",
        "no post-processor", "special tokens by name only", "roles in a file", "another architecture",
    ],
)  # fmt: skip
def test_an_exported_tokenizer_needs_no_transformers(what: str, tmp_path: Path) -> None:
    """Whatever transformers does to a tokenizer is done when it is exported."""
    path = save(tmp_path / "m", tiny_llama(head_dim=16), byte_level_tokenizer(("cat",), ALL))
    LEFT_TO_TRANSFORMERS[what](path)
    found = read_plainly(write_onnx(path, tmp_path / "out", "int4"))
    assert found is not None
    assert_same(found[1], AutoTokenizer.from_pretrained(path))
    theirs = AutoConfig.from_pretrained(path).to_dict()
    assert {key: found[0][key] for key in theirs} == json.loads(json.dumps(theirs))


def test_recommendations_are_read_as_they_stand(tmp_path: Path) -> None:
    path = save(tmp_path / "m", tiny_llama())
    (path / "generation_config.json").write_text('{"eos_token_id": [9, 2], "temperature": 0.6, "top_k": 20}')
    found = load_text(path)
    assert (found.eos, found.generation["temperature"], found.generation["top_k"]) == ((2, 9), 0.6, 20)
    (path / "generation_config.json").write_text("{")
    assert (load_text(path).eos, load_text(path).generation) == ((2,), {})


@pytest.mark.model
def test_the_default_model_and_its_draft() -> None:
    for path in (default_model_path(), default_draft_path()):
        assert_same(*both(path))
        found = read_plainly(path)
        assert found is not None
        assert Shape.from_config(found[0]) == Shape.from_config(
            AutoConfig.from_pretrained(path).get_text_config().to_dict()
        )
