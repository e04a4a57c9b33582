"""Settings of all commands of ``flexspec head`` that talk to a broker."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flexspec_mq import topics
from flexspec_mq.daemon.files import state_folder
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Program, Section, Setting, load
from flexspec_mq.transport.arguments import LinkOptions

if TYPE_CHECKING:
    from flexspec_mq.catalogue.signing import PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions(Section):
    """Which family, and with which keys; `Setting.help` has the words."""

    family: Annotated[
        str | None, Setting(help="the target family", check=partial(topics.checked, "family"))
    ] = None
    root_key: Annotated[
        str | None, Setting(help="public root key, 64 hex digits or a file that holds them", path_unless=())
    ] = None
    key: Annotated[
        tuple[str, ...],
        Setting(
            help="file of a private key that signs catalogues; several where the key set asks for that",
            path_unless=(),
        ),
    ] = ()
    state_dir: Annotated[
        Path | None,
        Setting(
            help="folder that remembers what was published last",
            default="$XDG_STATE_HOME/flexspec-mq/catalogues",
        ),
    ] = None

    def named_family(self) -> str:
        """The family.

        Raises:
            UsageError: none is given.
        """
        if self.family is None:
            raise UsageError("no family is given", hint="name it with --family")
        return self.family

    def root(self) -> bytes:
        """The public root key.

        Raises:
            UsageError: none is given, or it is none.
        """
        if self.root_key is None:
            raise UsageError(
                "no root key is given",
                hint="--root-key takes what `flexspec head keygen` has printed, or a file of it",
            )
        from flexspec_mq.catalogue.signing import read_public

        return read_public(self.root_key)

    def signers(self) -> Sequence[PrivateKey]:
        """The keys that sign.

        Raises:
            UsageError: none is given, or one cannot be read.
        """
        if not self.key:
            raise UsageError("no key to sign with is given", hint="name its file with --key")
        from flexspec_mq.catalogue.signing import PrivateKey

        return [PrivateKey.load(Path(file)) for file in self.key]

    def state_folder(self) -> Path:
        """Where records lie.

        Raises:
            UsageError: no folder is given and this user has no home.
        """
        if self.state_dir is not None:
            return self.state_dir.expanduser()
        if (folder := state_folder("catalogues")) is None:
            raise UsageError("this user has no home", hint="give a folder with --state-dir")
        return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """All settings of ``flexspec head``."""

    link: LinkOptions
    head: HeadOptions


PROGRAM = Program("head", HeadConfig)
"""``head.toml`` and ``FLEXSPEC_HEAD_…``."""


def head_config(args: argparse.Namespace) -> HeadConfig:
    """Settings from parsed flags, the environment and the file.

    Raises:
        UsageError: an unknown key or an impossible value.
    """
    return load(PROGRAM, args).settings


def head_options(args: argparse.Namespace) -> HeadOptions:
    """Family and keys of `head_config`."""
    return head_config(args).head
