"""What the script that writes training prompts makes of its sources."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from training.examples.draft_prompts import clean, cut, documents, wikitext

if TYPE_CHECKING:
    from pathlib import Path


def test_markup_becomes_plain_text() -> None:
    assert clean("<p>R&uuml;gen\n  ist <b>sch&ouml;n</b></p>") == "Rügen ist schön"
    assert wikitext("'''Oslo''' ([[Norway|Norge]]) is{{citation|{{x}}}} big.<ref name='a'/>") == (
        "Oslo (Norge) is big."
    )
    assert wikitext("See [https://example.org the site] and [[Bergen]].") == "See the site and Bergen."


@given(text=st.text("ab. ", max_size=300), characters=st.integers(10, 80))
def test_a_cut_text_is_a_beginning_of_whole_sentences_or_words(text: str, characters: int) -> None:
    short = cut(text, characters)
    assert text.startswith(short)
    assert len(short) <= characters
    if len(text) <= characters:
        assert short == text


def test_texts_and_questions_are_found_inside_instructions(tmp_path: Path) -> None:
    article = "Rain fell on the town for days. " * 20
    rows = [
        {"source": "t0/xsum_summarise", "prompt": f"Summarise:\n\n{article}\n\nSummary:"},
        {"source": "t0/wiki_qa_found", "prompt": "Question: how do birds find their way?\nAnswer:"},
        {"source": "gsm8k-train", "prompt": "How many apples are left?"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    texts, questions = documents(path)
    assert texts == [article.strip()]
    assert questions == ["how do birds find their way?"]
    assert documents(None) == ([], [])
