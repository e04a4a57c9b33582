"""Settings as flags of a command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from flexspec_mq.settings.declare import Entry, Origin, Program
from flexspec_mq.settings.load import converted, give, given


class _Give(argparse.Action):
    """Keeps the converted value, and that it was given; a list grows with each flag."""

    def __init__(self, *args: Any, entry: Entry, **more: Any) -> None:
        super().__init__(*args, **more)
        self._entry = entry

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        raw: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        """Convert and keep.

        Raises:
            argparse.ArgumentError: the value is of another type.
        """
        text: Any = raw
        if self.nargs == 0:
            text = "false" if (option or "").startswith("--no-") else "true"
        try:
            value = converted(
                self._entry, [raw] if self._entry.many else text, Origin("flag", self._entry.flag)
            )
        except UsageError as error:
            raise argparse.ArgumentError(self, error.message) from error
        if self._entry.many and self.dest in given(namespace):
            value = getattr(namespace, self.dest) + value
        give(namespace, self.dest, value, self._entry.flag)


def add_flags(
    parser: argparse.ArgumentParser,
    program: Program[Any],
    *,
    titles: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    inner: bool = False,
) -> None:
    """Add ``--config`` and a flag for each setting.

    Args:
        parser: a command's.
        program: whose settings they are.
        titles: headings of sections in the help; a section without one has none.
        defaults: values of settings that have others in this command.
        without: keys that mean nothing to this command; a file may hold them all the same.
        inner: the parser is of a subcommand, and an outer one has the same flags.
    """
    titles, defaults = titles or {}, defaults or {}
    usual = f"$XDG_CONFIG_HOME/flexspec-mq/{program.name}.toml"
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS if inner else None,
        help=f"TOML file with settings (default: {usual} if it exists; env {program.variable('config')})",
    )
    if defaults:
        parser.set_defaults(setting_defaults=dict(defaults))
    groups: dict[str | None, Any] = {}
    for key, entry in program.entries.items():
        if key in without:
            continue
        title = titles.get(entry.section)
        if title not in groups:
            groups[title] = parser if title is None else parser.add_argument_group(title)
        group = groups[title]
        default = defaults.get(key, entry.default)
        words = explained(program, entry, key in defaults, default)
        if entry.setting.secret:
            group.description = f"{group.description or ''} No flag, `{key}`: {words}.".strip()
            continue
        switch = entry.kind is bool
        names = [entry.flag, f"--no-{entry.flag[2:]}"] if switch else [entry.flag]
        group.add_argument(
            *names,
            action=_Give,
            entry=entry,
            dest=key,
            default=argparse.SUPPRESS if inner else default,
            nargs=0 if switch else None,
            metavar=entry.setting.metavar,
            help=words.replace("%", "%%"),
        )


def explained(program: Program[Any], entry: Entry, own: bool, default: Any) -> str:
    """Help text of a setting: what it is, its default and its variable.

    Args:
        program: whose it is.
        entry: the setting.
        own: whether the command has a default of its own.
        default: value to tell, or the usual one.
    """
    words = entry.setting.default if entry.setting.default and not own else shown(default)
    choices = f": {', '.join(entry.setting.choices)}" if entry.setting.choices else ""
    return f"{entry.setting.help}{choices} (default: {words}; env {program.variable(entry.key)})"


def shown(value: Any) -> str:
    """A value for people."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
