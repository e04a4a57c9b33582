"""Texts that an outage meets: what a reader has of them, and that they go on in a real deployment."""

import json
from os.path import commonprefix
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.bench.client import StreamedAnswer
from lab.benchmarks.offline import Text, main, outages
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.testbed.link.timeline import outages_of
from schemas.openai import Provisional
from tests.lab.link.plans import needs_namespaces
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

WORDS = st.text("ab", max_size=8)


@given(WORDS, st.lists(WORDS.filter(bool), max_size=8))
def test_confirmed_pieces_eat_what_agrees_and_clear_what_does_not(guess: str, pieces: list[str]) -> None:
    answer = StreamedAnswer()
    answer.unverified(Provisional(0, guess))
    for number, piece in enumerate(pieces):
        answer.take(piece)
        written = "".join(pieces[: number + 1])
        assert answer.text == written
        assert answer.provisional == (guess[len(written) :] if guess.startswith(written) else "")
        assert answer.readable[-1][1] == max(len(written), len(written) + len(answer.provisional))


@given(st.lists(st.tuples(st.integers(0, 9), WORDS), max_size=6))
def test_provisional_text_is_told_from_where_it_differs(parts: list[tuple[int, str]]) -> None:
    answer, whole = StreamedAnswer(), ""
    for at, text in parts:
        answer.unverified(Provisional(at, text))
        whole = whole[:at] + text
        assert answer.provisional == whole
    assert not answer.text


@given(WORDS, WORDS, WORDS)
def test_characters_kept_are_those_that_were_right(confirmed: str, guess: str, rest: str) -> None:
    text = Text(
        "provisional", 0, StreamedAnswer(text=confirmed + rest), confirmed=confirmed, provisional=guess
    )
    assert text.kept == len(commonprefix([guess, rest]))  # noqa: RUF071  characters are meant


def test_the_first_characters_in_an_outage_are_new_ones_within_it() -> None:
    answer = StreamedAnswer(readable=[(9.0, 10), (10.5, 10), (12.0, 14), (21.0, 30)])
    assert Text("hold", 0, answer, at_cut=10, cut=10.0, back=20.0).first == 2.0
    assert Text("hold", 0, answer, at_cut=14, cut=10.0, back=20.0).first is None


@given(st.integers(0, 1000))
def test_texts_begin_where_nothing_goes_wrong_for_a_while(seed: int) -> None:
    plan = LinkPlan("tunnel", built_in().get("tunnel"), seed)
    calm, found = outages(plan)
    assert len(found) > 100
    assert not outages_of(plan, "down").between(calm + 1e-6, calm + 20)
    assert all(1.0 <= one.ends_s - one.starts_s <= 20.0 for one in found)


@needs_namespaces
@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(600)
def test_texts_are_measured_through_an_outage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama(max_position_embeddings=2048, head_dim=16).bfloat16()
    target = str(save(tmp_path / "target", model, byte_level_tokenizer()))
    flags = ["--answers", "1", "--tokens", "1000", "--cuts", "1.5", "--channels", "--ways", "hold", "stream"]
    assert main(["--target", target, "--draft", "none", "--edge-flags", f"--tokenizer {target}", *flags]) == 0
    (texts,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"].values()
    assert [text["way"] for text in texts] == ["hold", "stream"]
    for text in texts:
        assert text["away"] == pytest.approx(1.5)
        assert text["return_to_complete"] > 0
        assert text["reason"] == "length"
        assert text["forwards"][0] > 0
    assert texts[0]["asked_again"] is None
    assert texts[1]["asked_again"] > 0
