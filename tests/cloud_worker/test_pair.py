"""`flexspec pair` counts the rounds that its models would write in; its forecast is what one reckons by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_worker.__main__ import main
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.pair.forecast import LENGTHS, Figures, forecast, runs
from cloud_worker.pair.measure import PairText, measure, write
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.errors import Cancelled
from flexspec_mq.links import LINKS, LinkProfile
from lab.testbed.link.profiles import built_in
from schemas.messages import Identity, Sampling
from tests.cloud_worker import works
from tests.lab.traditional.noisy_models import checkpoint, packed
from tests.models.tiny_checkpoints import byte_fallback_tokenizer, save, tiny_llama
from tests.terminated import terminated_at


def in_rounds(
    engine: ModelEngine, drafter: ModelDrafter, text: PairText, k: int
) -> tuple[tuple[int, ...], int]:
    """Write a text as one batch in flight does; its tokens, and how many rounds they took."""

    def drafts(answer: tuple[int, ...]) -> tuple[int, ...]:
        committed, draft = text.prompt + answer, tuple[int, ...]()
        while len(draft) < min(k, text.identity.limit - len(answer) - 1) and drafter.fits(committed + draft):
            (proposed,) = drafter.draft([DraftRequest(-1, committed + draft, text.identity, len(committed))])
            draft += tuple(each.token for each in proposed or ())
        return draft

    written = works.write(engine, text.identity, text.prompt, drafts, version="")
    drafter.free(-1)
    return written


def test_rounds_are_those_of_the_product(tmp_path: Path) -> None:
    """A pass of the draft over the target's texts gives the rounds in which both write them, for each K."""
    engine = ModelEngine(packed(checkpoint(tmp_path / "target", 0.0)))
    drafter = ModelDrafter(
        packed(checkpoint(tmp_path / "draft", 0.02)), max_context=70
    )  # some texts go beyond
    asked = [
        PairText(
            tuple(3 + (7 * place + i * i) % 290 for i in range(5 + 40 * (place % 3))),
            Identity(2, bytes(16), Sampling(float(place % 2), 0, 1.0, place), (17, 80), False, 40),
        )
        for place in range(6)
    ]
    texts = write(engine, asked, lambda _: None)
    figures = measure(engine, drafter, texts, lambda _: None)
    assert engine.idle()
    assert {len(text.answer) for text in texts} > {40}  # some have an end
    for length in LENGTHS:
        written = [in_rounds(engine, drafter, text, length) for text in asked]
        assert [answer for answer, _ in written] == [text.answer for text in texts]
        assert [rounds for _, rounds in written] == [len(runs(right, length)) for right in figures.right]
        tokens, rounds = sum(len(answer) for answer, _ in written), sum(rounds for _, rounds in written)
        assert tokens > rounds > len(texts)
        assert figures.tokens_per_round(length) == tokens / rounds
    assert figures.forwards.keys() == {0, *LENGTHS}
    assert min(*figures.forwards.values(), figures.target_reads, figures.draft_reads, figures.token) > 0


def test_misfits_are_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = save(tmp_path / "draft", tiny_llama())
    save(tmp_path / "target", tiny_llama(), byte_fallback_tokenizer())
    (tmp_path / "target" / "model.safetensors").unlink()
    assert main(["pair", str(draft), str(tmp_path / "target")]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert f"error: {draft} cannot draft for {tmp_path / 'target'}: " in err


def pair(*, right: bool) -> Figures:
    """A target of 100 ms a forward and 4 ms a row, with a draft of 10 ms a token, on four texts of 64 tokens."""
    forwards = {rows: 0.1 + 0.004 * rows for rows in (0, *LENGTHS)}
    return Figures([[right] * 64] * 4, 50.0, forwards, target_reads=0.2, draft_reads=0.5, token=0.01)


def test_forecasts_by_hand() -> None:
    link = LinkProfile(trip=40.0, up=1e9, down=1e9)
    wrong = forecast(pair(right=False), link, 64)
    first = 0.0415 + 0.2 + 0.1  # round trip, prompt, forward
    assert wrong.streamed == pytest.approx(first + 63 * 0.1)
    assert (wrong.device, wrong.worker) == pytest.approx((wrong.streamed, wrong.streamed))  # nobody drafts
    ideal = forecast(pair(right=True), link, 64)
    assert ideal.device_plan.endswith("ahead")
    assert ideal.device < ideal.streamed
    # Eight rounds of nine tokens at the most, behind a prompt that the worker's draft reads as well.
    assert ideal.worker == pytest.approx(first + 0.5 + 63 * (0.08 + 0.132) / 8)
    assert ideal.worker_plan == "worker drafts K=8"
    # Until the device has read the prompt the worker writes alone; then forwards follow one another, each with a
    # batch that was drafted during the one before, or the worker waits for seventeen tokens a round.
    late = 0.5 + 0.01 - 0.2
    rest = ideal.device - first - late
    assert 0.164 / 17 <= rest / (63 - late / 0.1) <= (0.16 + 0.0415 + 0.164) / 17


@pytest.mark.parametrize("name", [name for name in LINKS if name != "loopback"])
def test_links_are_those_of_the_laboratory(name: str) -> None:
    (state,) = built_in().profiles[name].states
    trip = sum(way.delay_ms.value + way.jitter_ms.value for way in (state.up, state.down))
    link = LINKS[name]
    assert (link.trip, link.up, link.down) == pytest.approx(
        (trip, state.up.rate_mbit.value, state.down.rate_mbit.value)
    )


def test_whoever_ends_it_is_told_what_is_known_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is a first forecast, long before all texts are written."""
    monkeypatch.setattr("cloud_worker.pair.command._PASSES", ((2, 0.1), (6, 60.0)))
    folder = str(save(tmp_path / "model", tiny_llama(max_position_embeddings=256, head_dim=16)))
    code, out, said = terminated_at("time over streaming's: ", main, "pair", folder, folder)
    assert code == Cancelled.exit_code, said
    assert "the two fit; " in said
    assert f"{folder} and {folder} fit" in out
    assert "an answer of " in out
    assert "\nsatellite " in out
    assert "\nended early, by 2 texts of " in out
