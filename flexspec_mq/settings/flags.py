"""Settings as flags of a command."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from flexspec_mq.settings.declare import DeclaredSetting, Origin, Program
from flexspec_mq.settings.load import converted, give, given


class _Give(argparse.Action):
    """Keeps the converted value, and that it was given; a list grows with each flag."""

    def __init__(self, *args: Any, entry: DeclaredSetting, **more: Any) -> None:
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


class _Refuse(argparse.Action):
    """Names the places of a setting that has no flag."""

    def __init__(self, *args: Any, places: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._places = places

    def __call__(self, *_: object) -> None:
        """Refuse.

        Raises:
            argparse.ArgumentError: always.
        """
        raise argparse.ArgumentError(self, f"there is no such flag; {self._places}")


class _HelpAll(argparse.Action):
    """Explains all flags, also those that ``--help`` leaves out."""

    def __init__(self, *args: Any, rare: Sequence[tuple[argparse.Action, str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self._rare = rare

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the help, and end the program."""
        for action, words in self._rare:
            action.help = words
        parser.print_help()
        parser.exit()


def add_flags(
    parser: argparse.ArgumentParser,
    program: Program[Any],
    *,
    titles: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    inner: bool = False,
) -> None:
    """Add ``--config`` and a flag for each setting.

    Args:
        parser: a command's.
        program: whose settings they are.
        titles: headings of sections in the help; a section without one has none.
        without: keys that mean nothing to this command; a file may hold them all the same.
        inner: the parser is of a subcommand, and an outer one has the same flags.
    """
    titles = titles or {}
    usual = f"$XDG_CONFIG_HOME/flexspec-mq/{program.name}.toml"
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS if inner else None,
        help=f"TOML file with settings (default: {usual} if it exists; env {program.variable('config')})",
    )
    groups: dict[str | None, Any] = {}
    rare: list[tuple[argparse.Action, str]] = []
    for key, entry in program.entries.items():
        if key in without:
            continue
        title = titles.get(entry.section)
        if title not in groups:
            groups[title] = parser if title is None else parser.add_argument_group(title)
        group = groups[title]
        words = explained(program, entry)
        if entry.setting.secret:
            group.description = f"{group.description or ''} No flag, `{key}`: {words}.".strip()
            continue
        switch = entry.kind is bool
        names = [entry.flag, f"--no-{entry.flag[2:]}"] if switch else [entry.flag]
        if key in program.without_flags:
            places = f"set {key} in {program.name}.toml, or {program.variable(key)} in the environment"
            group.add_argument(*names, action=_Refuse, places=places, nargs="?", help=argparse.SUPPRESS)
            continue
        action = group.add_argument(
            *names,
            action=_Give,
            entry=entry,
            dest=key,
            default=argparse.SUPPRESS if inner else entry.default,
            nargs=0 if switch else None,
            help=words.replace("%", "%%"),
        )
        if program.usual and key not in program.usual:
            rare.append((action, action.help))
            action.help = argparse.SUPPRESS
    if rare:
        words = f"explain all flags, {len(rare)} more"
        parser.add_argument(
            "--help-all", action=_HelpAll, rare=rare, dest=argparse.SUPPRESS, nargs=0, help=words
        )


def explained(program: Program[Any], entry: DeclaredSetting) -> str:
    """Help text of a setting: what it is, its default and its variable."""
    words = entry.setting.default or shown(entry.default)
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
