"""Leaves are priced by what rounds with them would really commit, and by the arithmetic that is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.errors import UsageError
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.figures.bootstrap import Floats
from lab.benchmarks.leaves import __main__ as leaves
from lab.benchmarks.leaves.choices import RANKS, Choices, rank_of, ranked, read_choices, store
from lab.benchmarks.leaves.clients import Accelerator, Drafting, clients, fits
from lab.benchmarks.leaves.compared import Played, Rates, Ratio, play_all, ratio
from lab.benchmarks.leaves.prices import trip_ms
from lab.benchmarks.leaves.rules import PLAIN, RULES, SECOND, Rule, Sums, play, unsure, worth
from lab.benchmarks.leaves.seconds import Place, StepPrice, ascending, read_step, token_ms
from lab.benchmarks.leaves.tables import judged

BOTH = Rule("two at each", lambda _reach, _p: 2)


def text(ranks: str, confidence: float = 0.6, row: int = 0) -> Choices:
    return Choices(row, 0.0, tuple(map(int, ranks)), (confidence,) * len(ranks))


def simulated(ranks: str, k: int, most_rank: int) -> list[int]:
    """Tokens of each round, decided token by token with the draft's choices spelled out."""
    target = list(range(len(ranks)))
    found, position = [], 0
    while position < len(target):
        tree = [
            [target[place] if rank == int(ranks[place]) else -1 for rank in range(most_rank + 1)]
            for place in range(position, min(position + k, len(target)))
        ]
        committed, on_chain = 0, True
        while on_chain and committed < len(tree) and tree[committed][0] == target[position + committed]:
            committed += 1
        last = committed < len(tree) and target[position + committed] in tree[committed][1:]
        found.append(min(committed + 1 + last, len(target) - position))
        position += found[-1]
    return found


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("most_rank", [0, 1, 2])
def test_rounds_commit_what_the_tree_holds_of_the_text(k: int, most_rank: int) -> None:
    rng = np.random.default_rng(7)
    rule = (PLAIN, SECOND, BOTH)[most_rank]
    for _ in range(50):
        ranks = "".join(map(str, rng.choice([0, 1, 2, 3], size=rng.integers(1, 30), p=[0.5, 0.2, 0.1, 0.2])))
        sums = play(text(ranks), k, rule)
        wanted = simulated(ranks, k, most_rank)
        assert (sums.tokens, sums.rounds) == (len(ranks), len(wanted))


def test_rows_and_leaves_are_counted() -> None:
    sums = play(text("00120"), 2, SECOND)
    # 0 0 and the token behind them (rank 1, never drafted); then rank 2, which is no leaf; then the last.
    assert sums == Sums(5, 3, drafted=5, leaves=5, by_leaf=0, by_rows=Counter({5: 2, 3: 1}))
    assert play(text("01000"), 2, SECOND) == Sums(
        5, 2, drafted=4, leaves=4, by_leaf=1, by_rows=Counter({5: 2})
    )
    assert play(text("01000"), 2, PLAIN) == Sums(
        5, 2, drafted=4, leaves=0, by_leaf=0, by_rows=Counter({3: 2})
    )


def test_a_right_leaf_at_the_end_of_a_text_gives_nothing() -> None:
    assert play(text("01"), 4, SECOND).by_leaf == 0
    assert play(text("010"), 4, SECOND).by_leaf == 1


def test_rules_choose_by_confidence_and_reach() -> None:
    low, high = text("0" * 8, 0.4), text("0" * 8, 0.9)
    assert play(low, 4, unsure(0.5)).leaves == 4 + 3
    assert play(high, 4, unsure(0.5)).leaves == 0
    # Of 0.4, 0.4 x 0.6, 0.16 x 0.6 and 0.064 x 0.6 the chance to end there is 0.6, 0.24, 0.096 and 0.038.
    assert play(low, 4, worth(0.1)).leaves == 2 + 2
    assert play(low, 4, worth(0.05)).leaves == 3 + 3


def test_choices_follow_the_product_s_own() -> None:
    rng = np.random.default_rng(3)
    ids = np.arange(200)
    for temperature, top_p in ((0.0, 1.0), (0.7, 1.0), (0.7, 0.9), (1.0, 0.5)):
        for position in range(40):
            logits = (3 * rng.standard_normal(200)).astype(np.float32)
            params = SamplingParams(temperature, 0, top_p, 5)
            found = ranked(logits, params, position, ids)
            assert len(set(found)) == RANKS
            assert found[0] == choose(logits, params, position)
            if top_p == 1.0:
                without = logits.copy()
                without[found[0]] = -1e30
                assert found[1] == choose(without, params, position)


def test_a_tie_goes_to_the_lowest_id_and_columns_may_be_fewer() -> None:
    logits = np.array([1, 5, 5, 5, 0, 5], dtype=np.float32)
    assert ranked(logits, SamplingParams(), 0, np.array([2, 4, 6, 8, 10, 12]))[0] == 4
    assert rank_of(8, (4, 8, 6)) == 1
    assert rank_of(9, (4, 8, 6)) == 3


def test_choices_are_kept_and_those_of_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.npz"
    mine = [text("0123", 0.25, row=7), text("1", 0.5, row=9)]
    store(path, mine, "these")
    assert read_choices(path, "these") == mine
    with pytest.raises(UsageError, match="other texts"):
        read_choices(path, "those")
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot read"):
        read_choices(path, "these")


def cell(value: float) -> Floats:
    return np.array([[value]])


def rates(tokens: float, drafted: float, leaves: float = 0.0, by_leaf: float = 0.0) -> Rates:
    by_rows = np.zeros((1, 1, 10))
    by_rows[0, 0, int(1 + drafted + leaves)] = 1.0
    return Rates(cell(tokens), cell(drafted), cell(leaves), cell(by_leaf), by_rows)


def test_a_token_takes_its_share_of_the_round() -> None:
    price = StepPrice(((1, 40.0), (5, 42.0), (9, 50.0)), leaf=0.25, again=2.0)
    place = Place("", draft=3.0, trip=10.0, load=60.0)
    one = rates(2.5, 4.0, 2.0, 0.5)
    found = token_ms(one, price.of(one), place)
    assert found[0, 0] == pytest.approx((46 + 0.25 * 2 + 1.0 + 60 + 10 + 12) / 2.5)


def test_a_step_is_interpolated_between_its_points_and_goes_on_behind_them() -> None:
    found = StepPrice(((2, 40.0), (4, 42.0), (8, 50.0))).by_rows(11)
    assert found.tolist() == [40, 40, 40, 41, 42, 44, 46, 48, 50, 52, 54]
    assert ascending([(5, 1.0), (1, 2.0), (5, 3.0)]) == ((1, 2.0), (5, 3.0))
    for nonsense in ("5", "0:3", "2:-1", "2:inf", "a:b"):
        with pytest.raises(UsageError, match="rows and milliseconds"):
            read_step(nonsense)


def test_a_full_step_takes_what_it_may() -> None:
    chip, k = Accelerator(weights=6.7, row=0.09, session=0.13), np.array([4.0])
    one = rates(2.5, 4.0)
    for step in (7.0, 10.0, 50.0, 400.0):
        for share in (0.0, 0.05, 0.4):
            together = fits(np.array([[step]]), one, chip, Drafting("", share), k)[0, 0]
            target = max(6.7, 0.09 * 5 * together)
            draft = 4 * max(6.7 * share, 0.09 * share * together)
            if together:
                assert target + draft + 0.13 * together == pytest.approx(step)
            else:
                assert step <= 6.7 * (1 + 4 * share)


def test_clients_without_a_draft_share_the_step_of_a_token() -> None:
    found = clients(20.0, rates(1.0, 0.0), Accelerator(), Drafting("", 0.05), (0,))
    assert found[0, 0] == pytest.approx(50 / (0.09 + 0.13))


def test_a_device_that_is_too_far_away_carries_nobody() -> None:
    chip, far = Accelerator(), Drafting("", token=5.0, trip=300.0)
    assert clients(20.0, rates(2.5, 4.0), chip, far, (4,))[0, 0] == 0.0
    near = clients(20.0, rates(2.5, 4.0), chip, Drafting("", token=5.0, trip=10.0), (4,))[0, 0]
    assert 0.0 < near < 125 / (0.09 * 5 + 0.13) + 1e-9


def played(rows: list[str]) -> list[Played]:
    return play_all([text(one, row=row) for row, one in enumerate(rows)], range(9), RULES, 0)


def more_tokens(plain: Played, leafy: Played) -> Ratio:
    return ratio(plain, leafy, plain.rates.tokens, leafy.rates.tokens, least=False)


def test_the_first_draw_is_of_each_text_once() -> None:
    rows = ["0010200", "10010", "0000000001", "3120", "00", "1101"]
    for one in played(rows):
        for place, k in enumerate(one.lengths):
            sums = [play(text(row), k, one.rule) for row in rows]
            rounds = sum(each.rounds for each in sums)
            assert one.rates.tokens[0, place] == pytest.approx(sum(each.tokens for each in sums) / rounds)
            assert one.rates.rows[0, place] == pytest.approx(
                sum(rows * times for each in sums for rows, times in each.by_rows.items()) / rounds
            )


def test_ratios_take_the_best_length_and_their_interval_holds_the_value() -> None:
    plain, second = (one for one in played(["0010200", "10010", "0000001", "3120", "10", "1101"])[:2])
    found = more_tokens(plain, second)
    assert found.interval.low <= found.interval.value <= found.interval.high
    assert found.interval.value > 1.0
    assert found.plain == plain.rates.tokens[0].max()
    same = more_tokens(plain, plain)
    assert (same.interval.low, same.interval.value, same.interval.high) == (1.0, 1.0, 1.0)
    few = more_tokens(*played(["0010", "11"])[:2])
    assert few.interval.scaled(1.0)[1:] == [None, None]


def test_a_bar_is_reached_by_value_and_surely_by_the_worse_end() -> None:
    plain, second = played(["0010200", "10010", "0000001", "3120", "10", "1101"])[:2]
    found = more_tokens(plain, second)
    gain, worse = found.interval.value - 1.0, found.interval.low - 1.0
    between = judged({"here": {"second": found}}, (gain + worse) / 2, least=False)
    assert (between["reached"], between["surely"]) == (["here: second"], [])
    low = judged({"here": {"second": found}}, worse - 0.001, least=False)
    assert low["surely"] == ["here: second"]
    high = judged({"here": {"second": found}}, gain + 0.001, least=False)
    assert high["reached"] == []


def test_round_trips_are_those_of_the_links() -> None:
    assert trip_ms("loopback") == 0.0
    assert trip_ms("4g") == pytest.approx(2 * (8.0 + 2.5))
    with pytest.raises(UsageError):
        trip_ms("carrier-pigeon")


def test_it_prints_both_judgements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "choices.npz"
    rng = np.random.default_rng(1)
    rows = ["".join(map(str, rng.choice([0, 1, 3], size=60, p=[0.6, 0.2, 0.2]))) for _ in range(8)]
    store(
        path,
        [text(one, row=row) for row, one in enumerate(rows)],
        "further-text.npz 0 default 100 112 0.0",
    )
    assert leaves.main(["--choices", str(path), "--temperatures", "0"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])["results"]["temperatures"]["0"]
    assert (result["texts"], result["tokens"]) == (8, 480)
    assert result["gains"]["second at each"]["gain"][0] > 1.0
    assert set(result["judged"]) == {"seconds", "clients"}
    assert "second at each" in printed


@pytest.mark.parametrize(
    "flags",
    [["--rows", "0"], ["--most", "3"], ["--weights-ms", "0"], ["--trip-ms", "-1"], ["--choices", "here.txt"]],
)
def test_nonsense_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves.main(flags) != 0
    assert flags[0] in capsys.readouterr().err
