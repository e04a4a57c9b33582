"""Target-written text: what is written, by which noise, and that stopping and resuming loses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.errors import ModelError, UsageError

pytest.importorskip("transformers")

import torch

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama
from tests.models.tiny_packed import VOCABULARY, packed
from tests.training.drafts import stop_after
from training.draft.collect import PREFILL, TextOrder, write_texts
from training.draft.collecting import CollectConfig, CollectFiles, collect_text, encode_prompts, invitation
from training.draft.rows import TextRows, load_rows, make_rows, token_ranks

EOS = 2
CONFIG = CollectConfig(temperatures=(0.0, 1.0), max_new=6, at_once=3, max_prompt=40)


def alone(model: PackedModel, order: TextOrder) -> tuple[int, ...]:
    """Reference text of an order: the target token by token, without `write_texts`."""
    kv, unread, text = model.new_kv(), list(order.prompt), list[int]()
    while len(text) < order.limit and EOS not in text:
        logits = to_numpy(model.forward([ModelInput(kv, unread)]))[0]
        text.append(choose(logits, order.params(), kv.length))
        unread = text[-1:]
    return tuple(text)


@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_texts_are_those_of_each_order_alone(at_once: int) -> None:
    model = packed("grouped", torch.bfloat16)
    rng = np.random.default_rng(1)
    orders = [
        TextOrder(tuple(int(i) for i in rng.integers(3, VOCABULARY, size)), temperature, top_p, 9, seed)
        for size, temperature, top_p, seed in (
            (3, 0.0, 1.0, 0),
            (2 * PREFILL + 9, 1.0, 1.0, 0),
            (40, 0.7, 0.9, 0),
            (40, 1.0, 0.9, 5),
            (PREFILL, 0.0, 1.0, 0),
            (1, 1.0, 1.0, 0),
        )
    ]
    found: dict[TextOrder, tuple[int, ...]] = {}
    steps: list[int] = []
    write_texts(model, orders, frozenset({EOS}), found.__setitem__, at_once=at_once, on_step=steps.append)
    assert found == {order: alone(model, order) for order in orders}
    assert sum(steps) == sum(map(len, found.values()))
    assert max(steps) <= at_once


def test_dice_are_a_function_of_seed_prompt_and_temperature() -> None:
    texts = ((5, 6), 1.0, 0), ((5, 6), 1.0, 1), ((5, 7), 1.0, 0), ((5, 6), 0.7, 0)
    orders = [TextOrder(ids, temperature, seed=seed) for ids, temperature, seed in texts]
    assert len({order.params().seed for order in orders}) == 4
    assert TextOrder((5, 6), 1.0, limit=3).params() == orders[0].params()
    for prompt, limit in (((), 5), ((1,), 0)):
        with pytest.raises(UsageError, match="needs a prompt"):
            TextOrder(prompt, 0.0, limit=limit)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CollectFiles:
    folder = tmp_path_factory.mktemp("collect")
    save(folder / "base", tiny_llama(300), byte_level_tokenizer(template=TEMPLATE))
    (folder / "a.jsonl").write_text('{"prompt": "one"}\n{"turns": ["two", "no"]}\n{"prompt": " "}\n')
    (folder / "b.jsonl").write_text(
        '{"prompt": "three"}\n{"prompt": "one"}\n' + json.dumps({"prompt": "x" * 99})
    )
    return CollectFiles(folder / "base", (folder / "a.jsonl", folder / "b.jsonl"), folder / "out.npz")


def contents(rows: TextRows) -> dict[tuple[float, tuple[int, ...]], tuple[int, ...]]:
    """Answers by temperature and prompt."""
    found = {}
    for i in range(len(rows)):
        ids, size = rows.row(i).tolist(), int(rows.prompt_len[i])
        found[float(rows.temperature[i]), tuple(ids[:size])] = tuple(ids[size:])
    assert len(found) == len(rows)
    return found


def never() -> bool:
    return False


def test_a_stopped_collection_goes_on_to_the_same_texts(files: CollectFiles, tmp_path: Path) -> None:
    whole = collect_text(replace(files, out=tmp_path / "whole.npz"), CONFIG, never)
    assert whole is not None
    texts = contents(whole)
    assert len(texts) == 3 * 2  # "one" twice, a blank and a long one left out
    torn = replace(files, out=tmp_path / "torn.npz")
    assert collect_text(torn, CONFIG, stop_after(7)) is None
    some = contents(load_rows(torn.out))
    assert 0 < len(some) < 6
    assert some.items() <= texts.items()
    again = collect_text(torn, CONFIG, never)
    assert again is not None
    assert contents(again) == contents(load_rows(torn.out)) == texts
    before = torn.out.stat().st_mtime_ns
    assert collect_text(torn, CONFIG, never) is not None
    assert torn.out.stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".*"))


def test_a_limit_counts_what_is_there_and_can_be_raised(files: CollectFiles, tmp_path: Path) -> None:
    here = replace(files, out=tmp_path / "rows.npz")
    for limit in (2, 5):
        rows = collect_text(here, replace(CONFIG, limit=limit), never)
        assert rows is not None
        assert len(rows) == limit
    assert sorted(load_rows(here.out).temperature.tolist()) == [0, 0, 0, 1, 1]


def test_the_target_invents_prompts_and_goes_on_with_them(tmp_path: Path) -> None:
    # A model that says anything, so that some of its prompts end by themselves.
    folder = tmp_path / "base"
    model = tiny_llama(259, tie_word_embeddings=False, max_position_embeddings=512)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    save(folder, model, byte_level_tokenizer(template=TEMPLATE))
    config = CollectConfig(temperatures=(0.0,), invent=40, max_new=60, max_prompt=300, at_once=40)
    here = CollectFiles(folder, (), tmp_path / "rows.npz")
    assert collect_text(here, config, stop_after(30)) is None
    some = here.invented.read_text().splitlines()
    assert 0 < len(some) < 40
    rows = collect_text(here, config, never)
    assert rows is not None
    lines = [json.loads(line) for line in here.invented.read_text().splitlines()]
    assert [line["invented"] for line in lines] == list(range(40))
    assert {json.loads(line)["prompt"] for line in some} <= {line["prompt"] for line in lines}
    words = [line["prompt"] for line in lines if line["prompt"]]
    assert 0 < len(words) < 40  # one in 259 tokens ends a text, so of 40 texts of 60 tokens about 8 end
    tokenizer = load_target(folder).tokenizer
    assert {prompt for _, prompt in contents(rows)} == set(encode_prompts(tokenizer, words, 300))


def test_a_template_is_cut_where_the_users_words_begin() -> None:
    tokenizer = byte_level_tokenizer(template=TEMPLATE)
    assert tokenizer.decode(list(invitation(tokenizer))) == "<s>user:"
    with pytest.raises(ModelError, match="no chat template"):
        invitation(byte_level_tokenizer())
    with pytest.raises(ModelError, match="nothing before"):
        invitation(byte_level_tokenizer(template="{{ messages[0]['content'] }}"))


def test_without_prompts_there_is_nothing_to_do(files: CollectFiles, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prompts"):
        collect_text(CollectFiles(files.base, (), tmp_path / "rows.npz"), CONFIG, never)
    here = CollectFiles(files.base, (), tmp_path / "rows.npz")
    here.invented.write_text("{}\n")
    with pytest.raises(ModelError, match="cannot read invented prompts"):
        collect_text(here, replace(CONFIG, invent=2), never)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperatures", ()), ("temperatures", (-1.0,)), ("temperatures", (0.0, 0.0)),
     ("top_p", 0.0), ("at_once", 0), ("invent", -1), ("limit", 0)],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError):
        replace(CONFIG, **{name: value})  # type: ignore[arg-type]


def test_ranks_put_special_ids_first_and_answers_before_prompts() -> None:
    rows = make_rows([(9, 9, 8), (9, 7)], [(4, 4, 5), (5, 4, 2)], [0.0, 1.0])
    assert token_ranks(rows, [0, 1], [2, 0]).tolist() == [2, 0, 4, 5, 9, 7, 8]
    assert token_ranks(rows, [0], []).tolist() == [4, 5, 9, 8]
    assert token_ranks(rows, [0], [11]).dtype == np.int32
