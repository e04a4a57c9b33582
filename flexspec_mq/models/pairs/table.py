"""Which pairs there are, and the settings that name one: `pairs.toml`, and rows that this user has measured.

A hash is that of the file with which the figures came about. Another file under the same name is refused.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.settings import Setting

DEFAULT = "default"
"""The pair that ships: nothing of it is fetched."""

_PROTECTED = re.compile(
    r"(https://[\w.-]+|https://\[[\da-f:]+\]|http://(localhost|127(\.\d+){3}|\[::1\]))(:\d+)?(/[\w./~-]*)?"
)
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*$")]
_Repo = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class HubFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GGUF file as the hub names it.

    Attributes:
        repo: repository.
        name: name of the file there.
        revision: commit, or a branch while nobody has pinned the file.
        size: bytes; 0 while nobody has.
        sha256: hash in hex; empty while nobody has.
    """

    repo: _Repo
    name: _Name
    revision: _Name = "main"
    size: _Count = 0
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A draft and a target.

    Attributes:
        name: name for ``--pair``.
        licence: licence of both.
        draft, target: their files; None for what ships.
        round: tokens a round with K = 4, greedy, by plain questions and without lookups; 0 if nobody has measured it.
        worker_mb: memory of a process that runs the target, in MB.
        draft_mb: memory that the draft adds to a process, in MB.
        confidence: weights of the draft's, fitted to the target's answers; empty for that of the draft that ships.
    """

    name: _Name
    licence: str
    draft: HubFile | None = None
    target: HubFile | None = None
    round: Annotated[float, msgspec.Meta(ge=0)] = 0
    worker_mb: _Count = 0
    draft_mb: _Count = 0
    confidence: tuple[float, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether its figures and hashes are known, so that it may be used."""
        return self.round > 0

    @property
    def files(self) -> list[HubFile]:
        """Its files on a hub, the draft's first."""
        return [file for file in (self.draft, self.target) if file is not None]


@cache
def shipped() -> dict[str, Pair]:
    """The pairs that come with the package, by their names."""
    path = Path(__file__).with_name("pairs.toml")
    rows = msgspec.toml.decode(path.read_bytes(), type=dict[str, list[Pair]])["pairs"]
    return {pair.name: pair for pair in rows}


def pairs() -> list[Pair]:
    """All pairs, those that were measured first; a row of the user's own stands in for one that ships.

    Raises:
        ModelError: a row of the user's own is damaged.
    """
    return sorted(map(find, shipped()), key=lambda pair: not pair.measured)


def find(name: str) -> Pair:
    """The pair of a name, measured or not.

    Raises:
        UsageError: there is none.
        ModelError: the user's own row of it is damaged.
    """
    if name not in shipped():
        raise UsageError(f"there is no pair {name!r}", hint=f"`flexspec pairs`: {', '.join(shipped())}")
    try:
        path = _own(name)
        return msgspec.json.decode(path.read_bytes(), type=Pair)
    except (FileNotFoundError, ModelError):  # there may be no home either
        return shipped()[name]
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            f"the row of the pair {name} in {path} cannot be used: {error}",
            hint=f"remove it, and `flexspec pairs try {name}` makes it anew",
        ) from error


def usable(name: str) -> Pair:
    """The pair of a name, measured.

    Raises:
        UsageError: there is none, or nobody has measured it.
        ModelError: as `find`.
    """
    pair = find(name)
    if not pair.measured:
        raise UsageError(
            f"nobody has tried the pair {name}: neither its figures nor its files' hashes are known",
            hint=f"`flexspec pairs try {name}` fetches it, measures it and pins the files",
        )
    return pair


def keep(pair: Pair) -> Path:
    """Write a row of the user's own; the path of its file.

    Raises:
        ModelError: it cannot be written.
    """
    path = _own(pair.name)
    try:
        with whole(path) as part:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(pair)))
    except OSError as error:
        raise ModelError(
            f"the row of {pair.name} cannot be written to {path}: {error}",
            hint="free some space, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return path


def _own(name: str) -> Path:
    return cache_folder("pairs") / f"{name}.json"


def in_words(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def pair_setting(half: str) -> Setting:
    """The setting that stands in for the one of a daemon's half, ``target`` or ``draft``."""
    return Setting(
        help=f"named pair of models, whose {half} is fetched once, checked and used; `flexspec pairs` lists them",
        check=usable,
        replaces=half,
        default="none",
    )


def check_source(source: str) -> None:
    """Refuse what no file is fetched from.

    Raises:
        UsageError: neither a folder, nor an https URL, nor one of this machine.
    """
    if "://" in source and not _PROTECTED.fullmatch(source):
        raise UsageError(
            f"no models are fetched from {source}",
            hint="name a folder, or a hub by https://HOST; http is for this machine alone",
        )


PairSource = Annotated[
    str | None,
    Setting(
        help="where the files of --pair lie: a mirror of the hub (https, or http on this machine), or a folder",
        check=check_source,
        path_unless=(),
        default="HF_ENDPOINT, or huggingface.co",
    ),
]
