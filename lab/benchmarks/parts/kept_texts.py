"""Texts that a target wrote for a benchmark, kept in a file: another draft is measured on them later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from lab.benchmarks.parts.rounds import Job


def read_texts(
    path: Path | None, jobs: Sequence[Sequence[Job]], about: Mapping[str, Any]
) -> dict[Job, tuple[int, ...]] | None:
    """The target's texts; None if there is no such file.

    Args:
        path: of the file; None for no file.
        jobs: whose texts are wanted, all that the file has.
        about: what else decides the texts.

    Raises:
        UsageError: the file has others.
    """
    if path is None or not path.exists():
        return None
    wanted = [job for series in jobs for job in series]
    try:
        kept = json.loads(path.read_text("utf-8"))
        same = kept["about"] == about and kept["prompts"] == [_name(job) for job in wanted]
        texts = [tuple(text) for text in kept["texts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"cannot read texts from {path}: {error!r}", hint="remove it, or name another file"
        ) from error
    if not same:
        raise UsageError(
            f"{path} has the texts of other questions, temperatures, options or another version",
            hint="give the flags that it was written with, or name another file",
        )
    return dict(zip(wanted, texts, strict=True))


def keep_texts(
    path: Path,
    jobs: Sequence[Sequence[Job]],
    texts: Mapping[Job, tuple[int, ...]],
    about: Mapping[str, Any],
) -> None:
    """Write texts for `read_texts`."""
    order = [job for series in jobs for job in series]
    kept = {"about": about, "prompts": [_name(job) for job in order], "texts": [texts[job] for job in order]}
    path.write_text(json.dumps(kept), "utf-8")


def _name(job: Job) -> list[Any]:
    return [job.identity.temperature, *job.prompt]
