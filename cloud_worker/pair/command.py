"""The command: load both models, or say why they do not fit, measure, and print what comes of it."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec.structs import replace as changed
from rich.console import Console
from rich.table import Table

from cloud_worker.engine.draft import choice
from cloud_worker.engine.load import check_libraries
from cloud_worker.pair import MOST
from cloud_worker.pair.forecast import LENGTHS, Figures, forecast
from cloud_worker.pair.measure import PairText, drafter_for, measure, write
from cloud_worker.settings import WorkerSettings
from flexspec_mq.daemon.progress import Tell, answer, stages
from flexspec_mq.daemon.signals import ending_interrupts
from flexspec_mq.errors import Cancelled, FingerprintError, UsageError
from flexspec_mq.links import LINKS
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.models.memory import resident_mb
from flexspec_mq.models.onnx.folder import has_graphs
from flexspec_mq.models.pairs import fetch, prepare, table
from flexspec_mq.models.target_text import token_map
from flexspec_mq.models.text import PROMPTS, Turn, encode_turns, read_prompts
from schemas.messages import NOISE_VERSION, Identity, Sampling

_TOKENS = 64
"""Tokens of an answer at most."""
_PASSES = (2, 2.0), (6, 8.0), (MOST, 30.0)
"""Texts of each pass, and seconds for which the target writes on, the draft drafts, and forwards are timed at most."""
_K = 4
"""Tokens of a draft whose tokens a round are kept of a named pair."""
_SPEEDS = 10.0, 30.0, 100.0
"""Milliseconds of other targets' forwards that are forecast."""


def run(args: argparse.Namespace) -> int:
    """Compare, measure ever longer, forecast and print; what is known by then if it is ended before."""
    known: _Known | None = None

    def say(text: str, task: str = "") -> None:
        tell(f"{known.verdict() if known else 'the two fit'}; {text}", task)

    with ending_interrupts():
        try:
            with stages() as tell:
                target = load_text(args.target, progress=tell)
                differs = _difference(args, load_text(args.draft, progress=tell), target)
                prompts = _prompts(args.prompts, target)
                say("loading what runs them")
                for known in _measured(args, target, prompts, say):
                    say(f"by {len(known.texts)} texts")
        except KeyboardInterrupt:
            if known is None:
                raise Cancelled(
                    "ended before the first forecast", hint="it is there after some 20 s"
                ) from None
    assert known is not None  # noqa: S101  it has been measured
    answer(f"{args.draft} and {args.target} fit{differs and f'; {differs} differ'}")
    answer(f"target  {target.name}")
    answer(f"draft   {known.draft}")
    _tell_figures(known.figures)
    # Answers that were cut off would have gone on.
    lengths = [len(text.answer) if text.answer[-1] in target.eos else _TOKENS for text in known.texts]
    _tell_forecasts(known.figures, round(sum(lengths) / len(lengths)))
    _tell_commands(args)
    if not known.whole:
        answer(f"ended early, by {len(known.texts)} texts of {len(prompts)}")
        return Cancelled.exit_code
    return 0


def try_pair(args: argparse.Namespace) -> int:
    """Fetch both files of a named pair, measure it, keep its row with their hashes, and print that.

    Raises:
        ModelError: a file cannot be fetched or loaded, or the two do not fit.
        UsageError: there is no such pair or source, or the target answered nothing.
    """
    pair, source = table.find(args.name), args.pair_source
    if source is not None:
        table.check_source(source)
    known: _Known | None = None
    with ending_interrupts(), stages() as tell:
        if pair.draft is not None and pair.target is not None:
            draft, large = (fetch.pinned(file, source, tell) for file in pair.files)
            pair = changed(pair, draft=draft, target=large)
        found = {half: prepare.half_of(pair, half, source, tell) for half in prepare.HALVES}
        both = argparse.Namespace(**found, weights="auto")
        target = load_text(both.target, progress=tell)
        _difference(both, load_text(both.draft, progress=tell), target)
        for known in _measured(both, target, _prompts(None, target), tell):
            tell(f"{known.verdict()}; by {len(known.texts)} texts")
    assert known is not None  # noqa: S101  or it would have been told
    tokens = round(known.figures.tokens_per_round(_K), 2)
    pair = changed(pair, round=tokens, worker_mb=known.worker_mb, draft_mb=known.draft_mb)
    path = table.keep(pair)
    for line in (*prepare.told(pair), f"kept in {path}: --pair {pair.name} takes it"):
        answer(line)
    return 0


@dataclass(frozen=True, slots=True)
class _Known:
    """Figures by the texts that were measured so far; `whole` after the last pass.

    Attributes:
        worker_mb: memory of this process without the draft's, in MB.
        draft_mb: memory that the draft took, in MB.
    """

    figures: Figures
    texts: Sequence[PairText]
    draft: str
    whole: bool
    worker_mb: int
    draft_mb: int

    def verdict(self) -> str:
        """The forecast in a line."""
        shares = []
        for name, link in LINKS.items():
            told = forecast(self.figures, link, _TOKENS)
            shares.append(f"{name} {min(told.device, told.worker) / told.streamed:.2f}")
        return f"time over streaming's: {', '.join(shares)}"


def _measured(
    args: argparse.Namespace, target: LoadedText, prompts: Sequence[tuple[int, ...]], tell: Tell
) -> Iterator[_Known]:
    """Figures by ever more and longer texts. The target is not proved, which says nothing about its speed.

    Raises:
        UsageError: the target answered nothing.
    """
    # Few bits are another version than the base; its name is of no account here.
    settings = WorkerSettings(
        target=args.target, weights=args.weights, draft="none", worker="pair", version="pair"
    )
    check_libraries(settings)
    from cloud_worker.engine.engine import ModelEngine
    from cloud_worker.engine.target import candidate_of

    drafts = replace(choice(settings, args.draft), lookup=False)
    before = resident_mb()
    draft = drafter_for(args.target, drafts, tell)
    draft_mb = resident_mb() - before
    assert draft.drafter is not None  # noqa: S101  it has a name
    engine = ModelEngine(candidate_of(settings, tell)[1].build(None))
    identity = Identity(NOISE_VERSION, target.fingerprint, Sampling(), target.eos, False, _TOKENS)
    texts = [PairText(prompt, identity) for prompt in prompts]
    for most, seconds in _PASSES:
        texts[:most] = write(engine, texts[:most], tell, seconds=seconds)
        if answered := [text for text in texts if text.answer]:
            figures = measure(engine, draft.drafter, answered, tell, seconds=seconds)
            whole = most == MOST
            yield _Known(figures, answered, draft.engine, whole, resident_mb() - draft_mb, draft_mb)
    if not answered:
        raise UsageError(
            f"the target did not answer a prompt within {seconds:.0f} s",
            hint="give fewer or shorter prompts",
        )


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
    if args.weights != "auto":
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
