"""What a draft's proposal and a lookup's are worth beside each other, and what each stop is worth: on held-out text.

Replays rows of target-written text that no draft was trained on (``flexspec draft collect`` writes such text; one
prompt in fifty is held out). At each position of an answer the draft, as a device runs it, the lookup and the target
choose with common dice. From that the weights of `flexspec_mq.drafting.confidence_fusion` are fitted anew, and rounds
are counted for several stops, so that a stop can be chosen without the questions that the result is published on.
What a draft would have sent after a wrong token is taken from the text's next positions, as everywhere in replays.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.confidence_fusion import better, log_odds
from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.drafting.prompt_lookup import Lookup
from flexspec_mq.drafting.prompt_lookup_confidence import LookupRecord
from flexspec_mq.drafting.proposal import proposer_of, read_calibration
from flexspec_mq.errors import UsageError
from flexspec_mq.models.compact.load import Choice, load_compact
from flexspec_mq.models.compact.model import CompactModel
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks._common import finish, parser, table
from training.draft.calibrate import newton
from training.draft.evaluate import Rounds
from training.draft.measuring import spread
from training.draft.rows import TextRows, load_rows

if TYPE_CHECKING:
    from flexspec_mq.drafting.proposal import Proposer

QUICK_ROWS = 4
STOPS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
MOST = 16
"""Drafted tokens of a round."""
CASES = ("agree", "draft, differing", "lookup, differing")


@dataclass(frozen=True, slots=True)
class Seen:
    """One position of one answer, at one temperature.

    Attributes:
        row: of the text.
        temperature: at which all choose.
        draft: the draft's proposal.
        lookup: the lookup's, if there is any.
        target: the token that the target chooses.
    """

    row: int
    temperature: float
    draft: DraftToken
    lookup: DraftToken | None
    target: int


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="text that a target wrote, .npz")
    made.add_argument("--rows", type=int, default=120, help="held-out rows at most, evenly spread")
    made.add_argument("--draft", default="default", help="checkpoint folder of the draft, or 'default'")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0], metavar="T")
    made.add_argument("--threads", type=int, default=1, help="of torch")
    return made


def look(
    text: TextRows,
    row: int,
    logits: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    proposer: Proposer,
    temperature: float,
) -> Iterator[Seen]:
    """Replay one answer.

    Args:
        text: where it comes from.
        row: which.
        logits: of draft and target, a row for each of the answer's tokens.
        proposer: makes the draft's proposals.
        temperature: of all choices.
    """
    ids = text.row(row).tolist()
    first = int(text.prompt_len[row])
    params = SamplingParams(temperature, seed=row)
    lookup, record = Lookup(), LookupRecord(temperature)
    lookup.extend(ids[:first])
    accepted_run = 0
    for place, (mine, theirs) in enumerate(zip(*logits, strict=True)):
        target = choose(theirs, params, first + place)
        drafted = proposer(mine, params, first + place, accepted_run)
        accepted_run = accepted_run + 1 if drafted.token == target else 0
        found = lookup.find()
        if found is None:
            yield Seen(row, temperature, drafted, None, target)
        else:
            looked_up = DraftToken(found.token, record.confidence(found), "lookup")
            record.count(found, right=found.token == target)
            yield Seen(row, temperature, drafted, looked_up, target)
        lookup.extend((ids[first + place],))


def fitted(seen: Sequence[Seen]) -> dict[str, tuple[tuple[float, ...], int, float]]:
    """For each of `CASES`: weights as the confidence fusion has them, positions, and the share that was right."""
    made = {}
    both = [(one, one.lookup) for one in seen if one.lookup is not None]
    agree = [(one, other) for one, other in both if one.draft.token == other.token]
    differ = [(one, other) for one, other in both if one.draft.token != other.token]
    for case, pairs, right in (
        (CASES[0], agree, [one.target == one.draft.token for one, _ in agree]),
        (CASES[1], differ, [one.target == one.draft.token for one, _ in differ]),
        (CASES[2], differ, [one.target == other.token for one, other in differ]),
    ):
        basis = np.array(
            [(1.0, log_odds(one.draft.confidence), log_odds(other.confidence)) for one, other in pairs]
        ).reshape(-1, 3)
        outcome = np.array(right, dtype=np.float64)
        weights = newton(basis, outcome, 0.01) if len(pairs) else np.zeros(3)
        share = float(outcome.mean()) if len(pairs) else 0.0
        made[case] = (tuple(map(float, weights)), len(pairs), share)
    return made


def log_loss(seen: Sequence[Seen], chosen: Callable[[Seen], DraftToken]) -> float:
    """Mean of minus the natural logarithm of the probability that was given to what happened."""
    lost = 0.0
    for one in seen:
        proposal = chosen(one)
        likely = min(max(proposal.confidence, 1e-6), 1 - 1e-6)
        lost -= math.log(likely if proposal.token == one.target else 1 - likely)
    return lost / max(1, len(seen))


def play(seen: Sequence[Seen], chosen: Callable[[Seen], DraftToken], stop: float) -> Rounds:
    """Rounds of all answers under a stop."""
    rounds = Rounds()
    by_row: dict[int, list[Seen]] = {}
    for one in seen:
        by_row.setdefault(one.row, []).append(one)
    for answer in by_row.values():
        proposals = [chosen(one) for one in answer]
        accepted = [proposal.token == one.target for proposal, one in zip(proposals, answer, strict=True)]
        confidence = [proposal.confidence for proposal in proposals]
        rounds.play(np.array(accepted), np.array(confidence), MOST, stop)
    return rounds


def by_draft(one: Seen) -> DraftToken:
    """The draft's proposal, whatever was found."""
    return one.draft


def by_both(one: Seen) -> DraftToken:
    """What a device with lookups takes."""
    return better(one.draft, one.lookup)


def measure(options: Namespace) -> int:
    """Measure and print."""
    if not options.text:
        raise UsageError("there is nothing to replay", hint="--text names a file that a target wrote")
    if options.rows < 1:
        raise UsageError(f"--rows {options.rows} is less than 1")
    torch.set_num_threads(options.threads)
    text = load_rows(*options.text)
    held_out = [int(row) for row in np.flatnonzero(text.is_held_out())]
    rows = spread(held_out, min(options.rows, QUICK_ROWS) if options.quick else options.rows)
    if not rows:
        raise UsageError("the text has no held-out rows", hint="give text of more prompts")
    seen = list(_seen(options, text, rows))
    made = fitted(seen)
    print(
        table(
            ("case", "positions", "right", "constant", "by draft", "by lookup"),
            [(case, count, share, *weights) for case, (weights, count, share) in made.items()],
        )
    )
    results: dict[str, Any] = {"rows": len(rows), "positions": len(seen), "weights": made}
    for temperature in options.temperatures:
        mine = [one for one in seen if one.temperature == temperature]
        lines: list[list[Any]] = []
        for stop in STOPS:
            both = (play(mine, chosen, stop).figures() for chosen in (by_draft, by_both))
            figures = [one[name] for one in both for name in ("tokens_per_round", "accepted_per_drafted")]
            lines.append([stop, *figures])
        losses = log_loss(mine, by_draft), log_loss(mine, by_both)
        print(
            f"\nT = {temperature:g}; log loss of the draft's confidence {losses[0]:.4f}, with lookups {losses[1]:.4f}"
        )
        print(table(("stop", "tokens/round", "accepted/drafted", "with lookups", "accepted/drafted"), lines))
        results[f"{temperature:g}"] = {"log_loss": losses, "stops": lines}
    finish("opinions", results, quick=options.quick)
    return 0


def _seen(options: Namespace, text: TextRows, rows: Sequence[int]) -> Iterator[Seen]:
    folder = default_draft_path(say) if options.draft == "default" else Path(options.draft)
    loaded = load_text(str(folder), progress=say)
    draft = load_compact(folder, loaded, Choice())
    proposer = proposer_of(read_calibration(folder), draft.ids)
    target = load_target(options.target, progress=say).model
    said = time.monotonic()
    for done, row in enumerate(rows):
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"{done} of {len(rows)} answers")
        ids = text.row(row)
        first = int(text.prompt_len[row])
        with torch.inference_mode():
            whole = target(
                input_ids=torch.from_numpy(ids)[None], use_cache=False, logits_to_keep=len(ids) - first + 1
            )
        logits = _read(draft, ids.tolist(), len(ids) - first), to_numpy(whole.logits[0, :-1].float())
        for temperature in options.temperatures:
            yield from look(text, row, logits, proposer, temperature)


def _read(draft: CompactModel, ids: list[int], answer: int) -> npt.NDArray[np.float32]:
    return to_numpy(draft.forward([ModelInput(draft.new_kv(), ids[:-1], answer)]))


def say(line: str) -> None:
    """Tell people how far things are."""
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
