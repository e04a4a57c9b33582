"""From sources to a typed object: flags before the environment before the file before the defaults."""

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.declare import DeclaredSetting, Origin, Program

C = TypeVar("C")

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
}


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """Settings in force.

    Attributes:
        settings: all sections, checked.
        program: whose they are.
        values: value of each key; None for those that are drawn for each run.
        origins: origin of each key.
        file: path of the file that was read, if any was.
    """

    settings: C
    program: Program[C]
    values: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, Origin]
    file: Path | None


def load(
    program: Program[C], args: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> Loaded[C]:
    """Settings from flags that `add_flags` made, the environment and the file.

    Args:
        program: the daemon.
        args: parsed; ``config`` names the file, else the environment does, else the usual place is tried.
        environ: the process's own by default.

    Raises:
        UsageError: an unknown key or an impossible value, with its origin and what is allowed.
    """
    environ = os.environ if environ is None else environ
    entries = program.entries
    values = {key: entry.default for key, entry in entries.items()}
    origins = {key: Origin("default") for key in entries}
    file = _file(program, getattr(args, "config", None), environ)
    by_rising_precedence = (
        {} if file is None else _from_file(entries, file),
        _from_environment(program, entries, environ),
        {key: (getattr(args, key), Origin("flag", flag)) for key, flag in given(args).items()},
    )
    for source in by_rising_precedence:
        for hidden in _hidden(entries, source):
            values[hidden], origins[hidden] = entries[hidden].default, Origin("default")
        for key, (value, origin) in source.items():
            try:
                entries[key].setting.verify(key, value)
            except UsageError as error:
                raise _refused(entries[key], error.message, origin, error.hint) from error
            values[key], origins[key] = value, origin
    chosen = {key for key in entries if origins[key].kind != "default"}
    sections = {
        name: kind(**{key: values[key] for key in entries if entries[key].section == name and key in chosen})
        for name, kind in program.sections.items()
    }
    return Loaded(program.settings(**sections), program, values, origins, file)


def named_after_user(loaded: Loaded[C], section: str, kind: str) -> Loaded[C]:
    """Settings of a daemon that was given no name of its own: it is named as its MQTT user, if there is one.

    Args:
        loaded: settings of a daemon with a section ``link``.
        section: name of the section that holds the name.
        kind: ``edge`` or ``worker``, which is also the key of the name.

    Raises:
        UsageError: the user's name cannot stand in a topic.
    """
    config: Any = loaded.settings
    if loaded.origins[kind].kind != "default" or config.link.username is None:
        return loaded
    try:
        name = topics.checked(kind, config.link.username)
    except UsageError as error:
        raise UsageError(error.message, hint=f"give one with --{kind}; {error.hint}") from error
    return replace(
        loaded,
        settings=replace(config, **{section: replace(getattr(config, section), **{kind: name})}),
        values={**loaded.values, kind: name},
        origins={**loaded.origins, kind: loaded.origins["username"]},
    )


def converted(entry: DeclaredSetting, raw: Any, origin: Origin) -> Any:
    """A value of the setting's type.

    Args:
        entry: the setting.
        raw: text, or what the file's own types made of it.
        origin: text from anywhere but a file may stand for a number.

    Raises:
        UsageError: it is of another type.
    """
    strict = origin.kind == "file"
    if entry.many and isinstance(raw, str) and not strict:
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        return msgspec.convert(raw, entry.type, strict=strict, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        word = "a list of strings" if entry.many else _WORDS.get(entry.kind, str(entry.kind))
        shown = "the value" if entry.setting.secret else repr(raw)
        choices = ", ".join(entry.setting.choices or ())
        wrong = f"{shown} is none of {choices}" if choices else f"{shown} is not {word}"
        raise _refused(entry, f"{entry.key}: {wrong}", origin) from error


def give(args: argparse.Namespace, key: str, value: Any, flag: str) -> None:
    """Keep a flag's value, and that it was given; in attributes of their own, which outlive nested parsers."""
    setattr(args, key, value)
    setattr(args, f"given_{key}", flag)


def given(args: argparse.Namespace) -> dict[str, str]:
    """Keys that flags gave, and the flags."""
    return {
        name.removeprefix("given_"): flag for name, flag in vars(args).items() if name.startswith("given_")
    }


def _to_path(kind: type[Any], raw: Any) -> Any:
    if kind is Path and isinstance(raw, str):
        return Path(raw)
    raise TypeError


def usual_place(name: str, environ: Mapping[str, str]) -> Path | None:
    """``$XDG_CONFIG_HOME/flexspec-mq/NAME.toml``, or the same in ``~/.config``; None without a home directory."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117  the base directory specification ignores relative ones
        home = environ.get("HOME", "")
        if not home:
            return None
        base = f"{home}/.config"
    return Path(base, "flexspec-mq", f"{name}.toml")


def _file(program: Program[Any], flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    variable = environ.get(program.variable("config"))
    if flag is not None or variable:
        return flag if flag is not None else Path(variable or "")
    usual = usual_place(program.name, environ)
    return usual if usual is not None and usual.exists() else None


def _from_file(entries: Mapping[str, DeclaredSetting], path: Path) -> dict[str, tuple[Any, Origin]]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(
            f"the settings file {path} cannot be read: {error.strerror}", hint="see --config"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the settings file {path} is not UTF-8", hint=str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"the settings file {path} is no TOML: {error}",
            hint='one setting a line, for example threads = 2 or broker = "127.0.0.1:1883"',
        ) from error
    values: dict[str, tuple[Any, Origin]] = {}
    for key, raw in document.items():
        where = f"{path}{_line_of(key, text)}"
        if key not in entries:
            raise UsageError(f"{where}: unknown key {key!r}", hint=_near(key, entries))
        origin = Origin("file", where)
        value = converted(entries[key], raw, origin)
        if isinstance(value, Path):
            value = path.parent / value
        elif (words := entries[key].setting.path_unless) is not None:
            parts = [_beside(path.parent, part, words) for part in (value if entries[key].many else [value])]
            value = tuple(parts) if entries[key].many else parts[0]
        values[key] = (value, origin)
    return values


def _line_of(key: str, text: str) -> str:
    """``:LINE`` of a key in a file's text; empty if it is written in a way that hides it."""
    begins = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = text.splitlines()
    for number, line in enumerate(lines):
        # A line inside of a string of several lines looks like a key too; text that ends there is no TOML.
        if begins.match(line) and _is_toml("\n".join(lines[:number])):
            return f":{number + 1}"
    return ""


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _beside(folder: Path, value: str, words: Collection[str]) -> str:
    """A string of a file in `folder`, which may be a path: see `Setting.path_unless`."""
    if not value or value in words:
        return value
    path = (folder / value).absolute()
    return str(path) if value.startswith(("./", "../")) or path.exists() else value


def _from_environment(
    program: Program[Any], entries: Mapping[str, DeclaredSetting], environ: Mapping[str, str]
) -> dict[str, tuple[Any, Origin]]:
    variables = {program.variable(key): key for key in entries}
    values: dict[str, tuple[Any, Origin]] = {}
    for name, raw in environ.items():
        if not name.startswith(program.prefix) or name == program.variable("config"):
            continue
        if name not in variables:
            raise UsageError(f"environment: unknown variable {name}", hint=_near(name, variables))
        key = variables[name]
        if raw:  # an empty variable is as good as none, also for shells and service managers
            origin = Origin("environment", name)
            values[key] = (converted(entries[key], raw, origin), origin)
    return values


def _hidden(entries: Mapping[str, DeclaredSetting], source: Collection[str]) -> list[str]:
    """Keys whose values from lower sources a source hides: see `Setting.replaces`."""
    pairs = [(key, entry.setting.replaces) for key, entry in entries.items() if entry.setting.replaces]
    return [key for pair in pairs if any(either in source for either in pair) for key in pair]


def _refused(entry: DeclaredSetting, message: str, origin: Origin, allowed: str = "") -> UsageError:
    hint = f"set by {origin} ({entry.setting.help})"
    return UsageError(message, hint=f"{allowed}; {hint}" if allowed else hint)


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}Known: {', '.join(sorted(known))}"
