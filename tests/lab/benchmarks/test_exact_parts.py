"""The reference of exactness: its second writing of the sampling must be right by itself."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fastjsonschema
import numpy as np
import pytest
import torch

from flexspec_mq.heads.manifest import Canary, read_head
from flexspec_mq.models.default import default_model_path
from lab.bench.questions import read_tools
from lab.benchmarks.exact.grammars import Constraint, by_choice, by_lark, by_regex, by_schema
from lab.benchmarks.exact.reference import Reference, Text, fixed_order_attention
from lab.benchmarks.exact.sampling import Params, gumbel, kept, murmur
from lab.chaos.pairs import tiny_pair
from lab.testbed.family import EXAMPLES, HEADS

SAMPLING = Params(1.0, 0, 1.0, 3)
TEXT = Text(0, (5, 6), SAMPLING, 4, (2,))


def test_murmur_gives_the_published_answer() -> None:
    assert murmur([np.frombuffer(b"test", dtype="<u4")]).tolist() == [0xBA6BD213]


def test_noise_depends_on_seed_position_and_token() -> None:
    base = gumbel(1, 2, 50)
    assert len(set(base)) == 50
    assert np.array_equal(gumbel(1, 2, 9), base[:9])
    assert not np.isin(gumbel(1, 3, 50), base).any()
    assert not np.isin(gumbel(2, 2, 50), base).any()


def test_kept_ids() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.2, 0.1], dtype=np.float32))
    assert kept(logits, Params(1.0, 2, 1.0, 0)).tolist() == [False, True, True, False, False]
    assert kept(logits, Params(1.0, 0, 0.5, 0)).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(("tokens", "reason"), [([1, 2], "eos"), ([1, 1, 1], None), ([1] * 4, "length")])
def test_a_text_ends_with_end_of_text_or_length(tokens: list[int], reason: str | None) -> None:
    assert TEXT.finish(tokens) == reason


@pytest.mark.parametrize("block", [64, 256])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_attention_in_fixed_order_is_attention(rows: int, block: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    query = torch.randn((2, 4, rows, 8), generator=generator)
    key, value = torch.randn((2, 2, 2, 100, 8), generator=generator)
    mask = torch.ones(rows, 100, dtype=torch.bool).tril(100 - rows)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    found, _ = fixed_order_attention(torch.nn.Module(), query, key, value, None, 8**-0.5, block=block)
    assert torch.allclose(found.transpose(1, 2), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_pair(tmp_path_factory.mktemp("pair"))[0])


def words_of(folder: str, tokens: Sequence[int]) -> str:
    vocabulary = json.loads(Path(folder, "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    by_id = {number: word for word, number in vocabulary.items()}
    return "".join(by_id[token] for token in tokens).replace("Ġ", " ").removesuffix("</s>")


def fits(constraint: Constraint, text: str) -> bool:
    """Whether a text is allowed, by what shares nothing with llguidance."""
    fields = constraint.fields["structured_outputs"]
    if "regex" in fields:
        return re.fullmatch(fields["regex"], text) is not None
    if "choice" in fields:
        return text in fields["choice"]
    fastjsonschema.validate(fields["json"], json.loads(text))
    return True


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "on": {"type": "boolean"}},
    "required": ["name", "on"],
    "additionalProperties": False,
}


def test_a_reference_with_a_grammar_writes_what_it_allows_and_nothing_else_changes(tiny: str) -> None:
    reference = Reference(tiny, "bfloat16")
    everything = by_lark(r"start: /(.|\n)*/")
    constraints = (by_regex("( [a-e][a-z]{2}){3,9}"), by_choice(["aba", " ebi ogu ono"]), by_schema(SCHEMA))
    for temperature, top_k in ((0.0, 0), (1.0, 0), (1.0, 20)):
        sampling = Params(temperature, top_k, 1.0, 5)
        free = Text(0, (9, 40, 77), sampling, 40, (2,))
        assert reference.write(replace(free, grammar=everything.source)) == reference.write(free)
        for constraint in constraints:
            written = reference.write(replace(free, grammar=constraint.source))
            assert written.reason == "eos"
            assert fits(constraint, words_of(tiny, written.tokens))


def test_tools_have_schemas_and_things_to_ask_for() -> None:
    tools = read_tools()
    assert len({tool.name for tool in tools}) == 20
    for tool in tools:
        fastjsonschema.compile(tool.parameters)
        assert len(set(tool.asks)) == 3


def share(reference: Reference, canaries: Sequence[Canary]) -> float:
    """Share of the canaries' tokens, from the second on, that the reference finds likeliest after those before."""
    same = total = 0
    for one in canaries:
        cache, _ = reference.read([one.prompt] * reference.copies)
        rows = reference.extend(cache, [one.text[:-1]] * reference.copies)[0]
        same += sum(ours == theirs for ours, theirs in zip(rows.argmax(-1), one.text[1:], strict=True))
        total += len(one.text) - 1
    return same / total


@pytest.mark.skipif(
    "CI" in os.environ, reason="continuous integration has twelve minutes: make test-lab runs it"
)
@pytest.mark.model
def test_a_reference_with_a_head_writes_what_the_head_was_published_for() -> None:
    assert len(HEADS) == 4
    head = EXAMPLES / "style"
    canaries = read_head(head).canaries[:2]
    base = str(default_model_path())
    assert share(Reference(base, "bfloat16", str(head)), canaries) >= 0.9
    assert share(Reference(base, "bfloat16"), canaries) < 0.8
