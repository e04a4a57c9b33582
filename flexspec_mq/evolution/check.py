"""``flexspec head check``: whether a worker would take a head. Importing it imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.evolution import offline
from flexspec_mq.heads.manifest import CANARY_SHARE, MANIFEST, HeadError, Manifest, digest, read_head

if TYPE_CHECKING:
    import argparse

    from flexspec_mq.models.load import LoadedText


def add_check_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check``; it sets ``func``, which returns an exit code."""
    check = commands.add_parser(
        "check",
        help="see whether a head is whole, and only changes what heads may",
        description="Compare a head with its manifest and its base: files, layers, shapes, dtypes, fingerprints. "
        "Then its canaries: they must come out with its weights as they are, and not with them in a random order.",
    )
    check.set_defaults(func=_check)
    check.add_argument("folder", type=Path, metavar="FOLDER", help="the head")
    add_base(check)
    offline.add_numbers(check)


def add_base(parser: argparse.ArgumentParser) -> None:
    """``--base`` of a command that checks heads; `base_path` reads it."""
    about = "checkpoint folder of the base; 'none' leaves out what needs it (default: the default model)"
    parser.add_argument("--base", default="default", metavar="FOLDER", help=about)


def base_path(args: argparse.Namespace) -> Path | None:
    """The folder that ``--base`` names; None for ``none``.

    Raises:
        UsageError: it names no folder.
        ModelError: the default model cannot be made.
    """
    return None if args.base == "none" else offline.base_path(args)


def check_head(folder: Path, base: Path | None) -> dict[str, Any]:
    """Check a head in all ways.

    Args:
        folder: folder of the head.
        base: checkpoint folder; None leaves out what cannot be seen without it: shapes, fingerprints and canaries.

    Returns:
        Figures for people: ``canaries`` and ``shuffled`` are shares of the canaries' tokens (0-1).

    Raises:
        HeadError: a worker would refuse this head, or nobody could tell it from a damaged one.
        ModelError: the base cannot be read, or torch is not installed.
    """
    from flexspec_mq.models.checkpoint import need_libraries

    need_libraries()
    from flexspec_mq.evolution.contents import check_contents
    from flexspec_mq.models.load import load_text

    manifest = read_head(folder)
    if not manifest.canaries:
        raise HeadError("the head has no canaries, so a damaged one looks as good")
    text = None if base is None else load_text(base)
    if base is not None and text is not None:
        _check_base(manifest, text, base)
    figures: dict[str, Any] = {
        "kind": manifest.kind,
        "digest": digest((folder / MANIFEST).read_bytes()).hex(),
        "bytes": sum(file.size for file in manifest.files),
        **check_contents(folder, manifest, text),
    }
    if manifest.kind == "base" or base is None:
        return figures
    return {**figures, **_check_canaries(folder, manifest, base)}


def _check_base(manifest: Manifest, text: LoadedText, base: Path) -> None:
    from flexspec_mq.models.head import weights_fingerprint

    layers = int(text.config["num_hidden_layers"])
    if (fingerprint := weights_fingerprint(base)) != manifest.base:
        raise HeadError(
            f"the head is of a base with fingerprint {manifest.base}; {base} has {fingerprint}",
            hint="name its base with --base; `--base none` leaves out what needs it",
        )
    if text.fingerprint.hex() != manifest.tokenizer:
        raise HeadError(
            f"it is of a tokenizer with fingerprint {manifest.tokenizer}, not {text.fingerprint.hex()}"
        )
    if manifest.layers != layers or not manifest.floor < layers:
        raise HeadError(f"floor {manifest.floor} of {manifest.layers} layers does not fit a base of {layers}")
    largest = max((max(*canary.prompt, *canary.text) for canary in manifest.canaries), default=0)
    if largest >= text.vocab_size:
        raise HeadError(f"a canary has token {largest}; the base has {text.vocab_size}")


def _check_canaries(folder: Path, manifest: Manifest, base: Path) -> dict[str, float]:
    from flexspec_mq.evolution.canaries import head_weights, load_with_head, share, shuffle

    model = load_with_head(base, folder, kind=manifest.kind, dtype=manifest.dtype)
    whole = share(model, manifest.canaries)
    if whole < CANARY_SHARE:
        raise HeadError(f"only {whole:.0%} of the canaries' tokens come out, less than {CANARY_SHARE:.0%}")
    shuffle(model, head_weights(model, manifest.kind, folder))
    shuffled = share(model, manifest.canaries)
    if shuffled >= CANARY_SHARE:
        raise HeadError(
            f"{shuffled:.0%} of the canaries' tokens come out with the head's weights in a random order, so that "
            "they prove nothing",
            hint="train the head for longer, or on more that the base would write otherwise",
        )
    return {"canaries": whole, "shuffled": shuffled}


def _check(args: argparse.Namespace) -> int:
    base = base_path(args)
    offline.prepare(args)
    offline.print_figures(check_head(args.folder, base))
    return 0
