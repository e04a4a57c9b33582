"""Whether second choices are worth a row each: leaves of a chain, priced before they are built.

Texts that the target wrote with known dice are replayed with the draft that ships: at each place its first three
choices, by the same dice. A round with leaves commits one token more where the chain's first wrong token has the
target's among its leaves. Seconds and clients follow from prices, all of them flags; nothing here runs the target.
One batch is in flight, without run-ahead. Intervals (95 %) are by the bootstrap over texts. Chains have the length
that is best in each draw, but for a device's, which is the default.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.benchmarks._common import finish, parser
from lab.benchmarks.leaves import prices
from lab.benchmarks.leaves.choices import Choices, read_choices, store
from lab.benchmarks.leaves.clients import Accelerator, Drafting, clients
from lab.benchmarks.leaves.compared import Played, Ratio, play_all, ratio
from lab.benchmarks.leaves.record import load_drafter, record
from lab.benchmarks.leaves.rules import RULES
from lab.benchmarks.leaves.seconds import Place, StepPrice, token_ms
from lab.benchmarks.leaves.tables import gains, judged, show_gains, show_ratios
from lab.benchmarks.pricing.asked import say

TEXT = Path(__file__).parents[1] / "data" / "further-text.npz"
"""Written with seed 0; a fiftieth of its prompts is held out from all training."""
QUICK_ROWS, QUICK_TOKENS = 4, 32
DEVICE_LENGTH = 4
"""Tokens that a device drafts by default."""
SECONDS_BAR, CLIENTS_BAR = 0.04, 0.05
"""What leaves have to save of the seconds on a channel, or to add to the clients at a rate."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--text", type=Path, default=TEXT, help="text that the target wrote, .npz")
    made.add_argument("--collected-seed", type=int, default=0, help="seed of the text's dice")
    made.add_argument("--draft", default="default", help="folder of the draft, or 'default'")
    made.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], metavar="T")
    made.add_argument("--rows", type=int, default=100, help="texts of each temperature at most")
    made.add_argument("--tokens", type=int, default=112, help="of each text at most")
    made.add_argument("--most", type=int, default=8, help="tokens of the longest chain")
    made.add_argument(
        "--choices", type=Path, metavar="FILE", help="the draft's choices: read if there, else kept (.npz)"
    )
    prices.add_arguments(made)
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for name, least in (("rows", 1), ("tokens", 2), ("most", DEVICE_LENGTH)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)} is less than {least}")
    if options.choices is not None and options.choices.suffix != ".npz":
        raise UsageError(f"--choices {options.choices} does not end in .npz")
    prices.check(options)


def choices(options: Namespace) -> list[Choices]:
    """The draft's choices, from ``--choices`` if they are there."""
    about = " ".join(
        str(one)
        for one in (
            *(options.text.name, options.collected_seed, options.draft),
            *(options.rows, options.tokens, *options.temperatures),
        )
    )
    if options.choices is not None and options.choices.exists():
        return read_choices(options.choices, about)
    found = record(
        load_drafter(options.draft, say),
        options.text,
        options.temperatures,
        rows=options.rows,
        tokens=options.tokens,
        seed=options.collected_seed,
        say=say,
    )
    if options.choices is not None:
        store(options.choices, found, about)
    return found


def seconds(
    played: Sequence[Played], places: Sequence[Place], price: StepPrice
) -> dict[str, dict[str, Ratio]]:
    """Milliseconds of a token with each rule over those of the chain alone, by place."""
    steps = [price.of(one.rates) for one in played]
    plain = played[0]
    return {
        place.name: {
            one.rule.name: ratio(
                plain,
                one,
                token_ms(plain.rates, steps[0], place),
                token_ms(one.rates, step, place),
                least=True,
            )
            for one, step in zip(played, steps, strict=True)
        }
        for place in places
    }


def carried(played: Sequence[Played], rate: float, chip: Accelerator, drafting: Drafting) -> dict[str, Ratio]:
    """Clients with each rule over those of the chain alone."""
    plain = played[0]
    without = clients(rate, plain.rates, chip, drafting, plain.lengths)
    return {
        one.rule.name: ratio(
            plain, one, without, clients(rate, one.rates, chip, drafting, one.lengths), least=False
        )
        for one in played
    }


def in_json(by_case: Mapping[str, Mapping[str, Ratio]]) -> dict[str, Any]:
    """As the JSON line gives it."""
    return {case: {name: one.in_json() for name, one in found.items()} for case, found in by_case.items()}


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        options.rows = min(options.rows, QUICK_ROWS)
        options.tokens = min(options.tokens, QUICK_TOKENS)
    texts = choices(options)
    results = {}
    for temperature in options.temperatures:
        mine = [text for text in texts if text.temperature == temperature]
        print(
            f"\n== T = {temperature:g}: {len(mine)} texts, {sum(len(text.rank) for text in mine):,} tokens\n"
        )
        results[f"{temperature:g}"] = priced(mine, options)
    finish("leaves", {"temperatures": results}, quick=options.quick)
    return 0


def priced(texts: Sequence[Choices], options: Namespace) -> dict[str, Any]:
    """Everything about one temperature, printed; the results."""
    played = play_all(texts, range(options.most + 1), RULES, options.seed)
    fixed = [one.only(DEVICE_LENGTH) for one in played]
    price = prices.step_price(options)
    devices, workers = prices.places(options)
    chip, draftings = prices.accelerator(options)
    gained = gains(played, DEVICE_LENGTH)
    took = seconds(fixed, devices, price) | seconds(played, workers, price)
    crowds = {
        f"{drafting.name}, {rate:g} tokens/s": carried(played, rate, chip, drafting)
        for drafting in draftings
        for rate in options.client_rates
    }
    show_gains(gained, DEVICE_LENGTH)
    print()
    show_ratios("ms a token", took, least=True)
    print()
    show_ratios("clients", crowds, least=False)
    return {
        "texts": len(texts),
        "tokens": sum(len(text.rank) for text in texts),
        "gains": gained,
        "seconds": in_json(took),
        "clients": in_json(crowds),
        "judged": {
            "seconds": judged(took, SECONDS_BAR, least=True),
            "clients": judged(crowds, CLIENTS_BAR, least=False),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
