"""Which engine runs a target, what a worker measures when it starts, and how its status tells that."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from cloud_worker.engine import draft, target
from cloud_worker.engine.interface import Facts
from cloud_worker.engine.timing import Timings, timed
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq.codec import Codec
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import Drafted, DraftRequest
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.exact import ExactModel
from flexspec_mq.models.load import LoadedText, load_text, recommended
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.shape import UnknownModel
from flexspec_mq.scheduling.worker_drafter import WorkerDrafter
from flexspec_mq.transport.base import LinkSettings
from schemas.messages import LEFT_OPEN, PartialSampling
from schemas.status import MAX_MS, MAX_TEXT, WorkerStatus
from tests.cloud_worker.test_engine import model_of
from tests.cloud_worker.test_prefix_reuse import engine_of
from tests.daemons import FakeEngine
from tests.edge_node.api.served import speech
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama
from tests.models.tiny_models import SIZES, built


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), built("llama"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the compact engine does not know."""
    config = MistralConfig(**SIZES, sliding_window=16)
    return save(tmp_path_factory.mktemp("windowed"), MistralForCausalLM(config))


@pytest.fixture
def no_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def load(folder: Path, **settings: Any) -> target.Target:
    return target.load(WorkerSettings(target=str(folder), **settings), lambda _: None)


@pytest.mark.usefixtures("no_proofs")
def test_the_compact_engine_runs_what_it_knows(llama: Path) -> None:
    found = load(llama)
    assert isinstance(found.model, ExactModel)
    assert (found.engine, found.remembered, found.proof.exact) == ("compact", False, True)
    again = load(llama)
    assert (again.remembered, again.proof) == (True, found.proof)


@pytest.mark.usefixtures("no_proofs")
def test_transformers_runs_the_rest_and_whatever_is_asked_for(llama: Path, windowed: Path) -> None:
    assert isinstance(load(windowed).model, PackedModel)
    found = load(llama, engine="transformers")
    assert (type(found.model), found.engine) == (PackedModel, "transformers")
    assert found.proof.exact


def test_what_was_asked_for_is_not_replaced(windowed: Path) -> None:
    for asked in ({"engine": "compact"}, {"weights": "int8", "version": "eight"}):
        with pytest.raises(UnknownModel, match="sliding window"):
            load(windowed, **asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_device_that_is_not_here_is_told(llama: Path) -> None:
    with pytest.raises(ModelError, match="device 'cuda' cannot be used here"):
        load(llama, engine="compact", device="cuda")


@pytest.mark.usefixtures("no_proofs")
def test_few_bits_need_a_version_of_their_own(llama: Path) -> None:
    with pytest.raises(UsageError, match="another version") as caught:
        load(llama, weights="int8")
    assert "--version base-int8" in caught.value.hint
    found = load(llama, weights="int8", version="base-int8")
    assert found.proof.exact
    assert load(llama, weights="int8", version="base-int8").remembered


# The worker's own draft


def drafts_with(target: str, drafts: str, said: list[str], of: LoadedText | None = None) -> str | None:
    """Name of what the worker drafts with."""
    found = draft.load(WorkerSettings(target=target, draft=drafts), of or speech(), said.append)
    return None if found is None else found.name


def test_a_target_without_a_draft_is_left_to_lookups() -> None:
    said: list[str] = []
    assert drafts_with("/models/mine", "auto", said) == "lookup"
    assert drafts_with("default", "lookup", said) == "lookup"
    assert drafts_with("/models/mine", "none", said) is None
    assert said == []


def test_a_default_draft_that_does_not_load_is_told_and_left_to_lookups() -> None:
    """Its vocabulary is another one than that of this target."""
    said: list[str] = []
    assert drafts_with("default", "auto", said) == "lookup"
    assert any("left to lookups" in line for line in said)


def test_one_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        drafts_with("/models/mine", str(tmp_path / "none"), [])


def test_any_model_with_the_targets_vocabulary_drafts_whatever_its_chat_template(tmp_path: Path) -> None:
    target = load_text(
        save(tmp_path / "target", tiny_llama(), byte_level_tokenizer(("cat", "dog"), TEMPLATE))
    )
    other = save(
        tmp_path / "other", tiny_llama(head_dim=16), byte_level_tokenizer(("cat", "dog"), TEMPLATE + " ")
    )
    assert str(drafts_with("mine", str(other), [], target)).startswith("other, ")
    swapped = save(
        tmp_path / "swapped", tiny_llama(head_dim=16), byte_level_tokenizer(("dog", "cat"), TEMPLATE)
    )
    with pytest.raises(UsageError, match="2 ids mean other tokens, such as 259"):
        drafts_with("mine", str(swapped), [], target)


def told(**facts: Any) -> WorkerStatus:
    """Status of a worker whose engine has these facts."""
    engine = FakeEngine(facts=Facts(bytes(16), 100, 10, "exact", None, "cpu", "bfloat16", **facts))
    (born,) = (
        CloudWorker(WorkerSettings(worker="w"), engine).link_settings(LinkSettings(client_id="w")).birth()
    )
    return Codec().decode_status(born.payload, WorkerStatus)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (
            {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [1, 2]},
            PartialSampling(0.6, top_p=0.9),
        ),
        ({"temperature": 1, "top_k": 20, "top_p": 0.8, "min_p": 0.05}, PartialSampling(1.0, 20, 0.8, 0.05)),
        ({"eos_token_id": 2, "_from_model_config": True}, LEFT_OPEN),
        ({"do_sample": False, "temperature": 0.6}, LEFT_OPEN),
        ({"temperature": -1.0, "top_p": 0.9}, LEFT_OPEN),
        ({"temperature": "hot"}, LEFT_OPEN),
        ({"top_p": 0.0}, LEFT_OPEN),
        ({"min_p": 1.5}, LEFT_OPEN),
        ({"top_k": 2**40}, LEFT_OPEN),
        ({"temperature": None}, LEFT_OPEN),
        ({}, LEFT_OPEN),
    ],
)
def test_the_status_recommends_what_the_makers_do(
    generation: dict[str, Any], expected: PartialSampling
) -> None:
    assert told(recommended=recommended(generation)).recommended == expected


def test_the_status_names_the_target() -> None:
    assert told(target="SmolLM2-135M-Instruct").target == "SmolLM2-135M-Instruct"
    assert told(target="a" * 999).target == "a" * MAX_TEXT


def test_timings_are_told_within_bounds() -> None:
    status = told(timings=Timings(((1, 0, 40.123), (1, 8, 44.123), (4, 0, 50.0)), ((1, 4.0), (4, 1e9)), 1.0))
    assert (status.forward_ms, status.row_ms, status.draft_ms, status.draft_read_ms) == (40.12, 0.5, 4.0, 1.0)
    slow = told(timings=Timings(((1, 0, 1e9), (1, 8, 1.0))))
    assert (slow.forward_ms, slow.row_ms, slow.draft_ms) == (MAX_MS, 0.0, None)
    untimed = told()
    assert (untimed.forward_ms, untimed.row_ms, untimed.draft_ms) == (None, None, None)


def test_recommendations_are_those_of_the_target() -> None:
    engine = engine_of("w", {"do_sample": True, "temperature": 0.6, "top_k": 50, "eos_token_id": 2})
    assert engine.facts.recommended == PartialSampling(temperature=0.6, top_k=50)


# Times that a worker measures when it starts


def test_forwards_of_target_and_draft_are_timed_and_nothing_of_that_stays() -> None:
    model = ModelDrafter(model_of(), max_context=4096, prefill=16)
    drafter = HybridDrafter(model, PromptLookupDrafter(max_context=4096))
    timings = timed(model_of(), WorkerDrafter(drafter, "draft"))
    assert [(sessions, rows) for sessions, rows, _ in timings.forwards] == [(1, 0), (1, 8), (4, 0), (4, 32)]
    assert [sessions for sessions, _ in timings.calls] == [1, 4]
    assert min(ms for *_, ms in (*timings.forwards, *timings.calls)) > 0
    assert timings.read is not None
    assert timings.read > 0
    assert timings.holds_up == timings.read
    assert not model._sessions
    assert timed(model_of(), WorkerDrafter(drafter, "draft", beside=True)).holds_up == 0.0


def test_lookups_alone_take_no_forward_of_a_draft() -> None:
    timings = timed(model_of(), WorkerDrafter(PromptLookupDrafter(max_context=4096), "lookup"))
    assert (timings.calls, timings.read, timings.token) == ((), None, None)
    assert timed(model_of(), None).calls == ()


def test_a_draft_that_fails_is_left_to_those_who_use_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(PromptLookupDrafter):
        def unread(self, one: DraftRequest) -> int:  # noqa: ARG002
            return 5

        def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:  # noqa: ARG002
            raise MemoryError("no room")

    with caplog.at_level(logging.ERROR):
        timings = timed(model_of(), WorkerDrafter(Broken(max_context=4096), "draft"))
    assert (len(timings.forwards), timings.calls) == (4, ())
    assert "no room" in caplog.text
