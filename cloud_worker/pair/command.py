"""The command: load both models, or say why they do not fit, measure, and print what comes of it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cloud_worker.engine.draft import choice
from cloud_worker.engine.load import check_libraries, load_engine
from cloud_worker.pair import MOST
from cloud_worker.pair.forecast import LENGTHS, Figures, forecast
from cloud_worker.pair.measure import Text, drafter_for, measure, write
from cloud_worker.settings import WorkerSettings
from flexspec_mq.daemon.progress import answer, stages
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.links import LINKS
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.onnx.folder import has_graphs
from flexspec_mq.models.target_text import token_map
from flexspec_mq.models.text import PROMPTS, Turn, encode_turns, read_prompts
from schemas.messages import NOISE_VERSION, Identity

_TOKENS = 64
"""Tokens of an answer at most."""
_WRITING, _DRAFTING = 40.0, 30.0
"""Seconds that the target writes at most, and that the draft does."""
_SPEEDS = 10.0, 30.0, 100.0
"""Milliseconds of other targets' forwards that are forecast."""


def run(args: argparse.Namespace) -> int:
    """Compare, measure, forecast and print."""
    # Few bits are another version than the base; its name is of no account here.
    settings = WorkerSettings(
        target=args.target, weights=args.weights, draft="none", worker="pair", version="pair"
    )
    check_libraries(settings)
    with stages() as tell:
        target = load_text(args.target, progress=tell)
        differs = _difference(args, load_text(args.draft, progress=tell), target)
        prompts = _prompts(args.prompts, target)
        drafts = replace(choice(settings, args.draft), lookup=False)
        draft = drafter_for(args.target, drafts, tell)
        engine = load_engine(settings, tell)
        identity = Identity(
            NOISE_VERSION, target.fingerprint, 0.0, 0, 1.0, 0, target.eos, False, _TOKENS
        )  # fmt: skip
        texts = write(engine, [Text(prompt, identity) for prompt in prompts], tell, seconds=_WRITING)
        if not texts:
            raise UsageError(
                f"the target did not answer a prompt within {_WRITING:.0f} s",
                hint="give fewer or shorter prompts",
            )
        assert draft.drafter is not None  # noqa: S101  it has a name
        figures = measure(engine, draft.drafter, texts, tell, seconds=_DRAFTING)
    answer(f"{args.draft} and {args.target} fit{differs and f'; {differs} differ'}")
    answer(f"target  {engine.facts.target}, {engine.facts.proof}")
    answer(f"draft   {draft.engine}")
    _tell_figures(figures)
    # Answers that were cut off would have gone on.
    lengths = [len(text.answer) if text.answer[-1] in target.eos else _TOKENS for text in texts]
    _tell_forecasts(figures, round(sum(lengths) / len(lengths)))
    _tell_commands(args)
    return 0


def _difference(args: argparse.Namespace, draft: LoadedText, target: LoadedText) -> str:
    """How the two differ where that does no harm.

    Raises:
        FingerprintError: they cannot write a text together.
    """
    ours, theirs, tokens = draft.tokenizer_status, target.tokenizer_status, token_map(draft, target)
    if tokens.misfit:
        raise FingerprintError(
            f"{args.draft} cannot draft for {args.target}: {tokens.misfit}",
            hint="docs/models.md says what must agree",
        )
    parts = (
        ("chat templates", ours.template != theirs.template),
        ("ends of text", ours.eos != theirs.eos),
        ("added tokens", ours.vocabulary != theirs.vocabulary),
    )
    return " and ".join(name for name, other in parts if other)


def _prompts(path: Path | None, target: LoadedText) -> list[tuple[int, ...]]:
    """Token ids of at most `MOST` prompts, evenly spaced."""
    found = list(PROMPTS) if path is None else [prompt for _, prompt in read_prompts(path)]
    most = min(MOST, len(found))
    turns = [[Turn("user", found[place * len(found) // most])] for place in range(most)]
    return [encode_turns(target.tokenizer, turn, max_context=target.max_context - _TOKENS) for turn in turns]


def _tell_figures(figures: Figures) -> None:
    tokens = sum(map(len, figures.right))
    answer(f"texts   {len(figures.right)} with {tokens} tokens, greedy; drafts without lookups\n")
    rounds = [f"{figures.tokens_per_round(length):.2f}" for length in LENGTHS]
    verified = [_ms(figures.forwards[length]) for length in LENGTHS]
    _table(
        ("K", *map(str, LENGTHS)), [("tokens a round", *rounds), ("ms of the target's forward", *verified)]
    )
    answer(
        f"ms: {_ms(figures.forwards[0])} of the target for a token without drafts, {_ms(figures.token)} of the draft "
        f"for one; {_ms(figures.target_reads)} and {_ms(figures.draft_reads)} to read {figures.prompt:.0f} tokens\n"
    )


def _tell_forecasts(figures: Figures, tokens: int) -> None:
    answer(f"an answer of {tokens} tokens, as expected: seconds, and the share of them with drafts")
    rows, others = [], []
    for name, link in LINKS.items():
        told = forecast(figures, link, tokens)
        device, worker = (f"{seconds / told.streamed:.2f}" for seconds in (told.device, told.worker))
        rows.append((name, f"{told.streamed:.2f}", device, told.device_plan, worker, told.worker_plan))
        faster = [forecast(figures.with_forward(ms / 1000), link, tokens) for ms in _SPEEDS]
        others.append((name, *(f"{min(each.device, each.worker) / each.streamed:.2f}" for each in faster)))
    _table(("link", "streamed", "device", "plan", "worker", "plan"), rows)
    answer("the better of both, where the target takes so many ms for a token and the draft as here")
    _table(("link", *(f"{ms:.0f}" for ms in _SPEEDS)), others)


def _tell_commands(args: argparse.Namespace) -> None:
    name, draft = Path(args.target).name.lower().removesuffix(".gguf"), args.draft
    target = args.target
    if args.weights != "native":
        name, target = f"{name}-{args.weights}", f"{target} --weights {args.weights}"
    answer("to run them:")
    if draft != "default" and not has_graphs(Path(draft)):
        answer(f"  flexspec draft export --onnx --model {draft} --target {args.target} --out draft")
        draft = "draft"
    answer(f"  flexspec-cloud --broker HOST:1883 --target {target} --draft {draft} --version {name}")
    answer(f"  flexspec-edge serve --broker HOST:1883 --draft {draft} --version {name}")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if not place or header == "plan" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=110, highlight=False).print(table, "")
