"""``flexspec-edge memory``: the answers that this device remembers, and an end to them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.fleet.target_texts import fetched
from flexspec_mq.daemon.printable import printable
from flexspec_mq.drafting import memory
from flexspec_mq.drafting.load import text_of
from flexspec_mq.errors import UsageError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.models.target_text import unpacked_tokenizer
from flexspec_mq.models.text import decode
from flexspec_mq.models.tokenizer import PlainTokenizer, Tokenizer

if TYPE_CHECKING:
    from edge_node.settings import EdgeSettings


def run_memory(
    args: argparse.Namespace, folder: Path, settings: EdgeSettings, tell: Callable[[str], None]
) -> None:
    """Show what is remembered, of one version its texts, or forget it.

    Args:
        args: parsed flags, with the action and maybe a version.
        folder: folder of the answers.
        settings: settings that name the draft, whose tokenizer texts go through unless a worker gave theirs.
        tell: told what takes long.

    Raises:
        UsageError: nothing is remembered of the version.
    """
    if args.action == "forget":
        sys.stdout.write(f"forgot {memory.forget(folder, args.of)} files of answers in {folder}\n")
        return
    found = [pair for pair in memory.listed(folder) if args.of in (None, memory.version_of(pair[0]))]
    if not found:
        what = f"of {args.of} " if args.of else ""
        raise UsageError(
            f"no answers {what}are remembered in {folder}", hint="--state-dir names another folder"
        )
    tokenizer_of = cache(partial(_tokenizer, settings, tell))
    for path, kept in found:
        age = (time.time() - path.stat().st_mtime) / 86_400
        what = (
            "damaged"
            if kept is None
            else f"{len(kept.answers)} answers, {sum(map(len, kept.answers))} tokens"
        )
        place = "" if kept is None else f", by {kept.place}"
        sys.stdout.write(f"{memory.version_of(path)}: {what}{place}, {age:.1f} days old, {path}\n")
        if kept is None or args.of is None:
            continue
        for answer in kept.answers:
            sys.stdout.write(f"\n{printable(decode(tokenizer_of(kept.tokenizer), answer))}\n")


def _tokenizer(settings: EdgeSettings, tell: Callable[[str], None], name: str) -> Tokenizer:
    """The tokenizer that a worker gave by this name, unless the settings name one; or the draft's."""
    path = cache_folder("tokenizers") / f"{name}.zst"
    if settings.tokenizer is not None or not name or (file := fetched(path, name)) is None:
        return text_of(settings, tell).tokenizer
    from tokenizers import Tokenizer as Backend

    return PlainTokenizer(Backend.from_str(unpacked_tokenizer(file, checked=True)), {}, None, 2**31)
