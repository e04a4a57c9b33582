"""A settings file: TOML with the settings as top-level keys, and the line of each."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError


@dataclass(frozen=True, slots=True)
class Document:
    """Contents of a settings file.

    Attributes:
        path: as it was given.
        values: value of each key.
        text: all of it.
    """

    path: Path
    values: dict[str, Any]
    text: str

    def where(self, key: str) -> str:
        """``path:line`` of a key, or the path if it is written in a way that hides its line."""
        name = re.escape(key)
        begins = re.compile(rf"""\s*\[*\s*(?:{name}|"{name}"|'{name}')\s*[=.\]]""")
        lines = self.text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            # A line inside of a string of several lines looks like a key too; text that ends there is no TOML.
            if begins.match(line) and _is_whole("".join(lines[:number])):
                return f"{self.path}:{number + 1}"
        return str(self.path)


def read(path: Path) -> Document:
    """Read a file.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Document(path, tomllib.loads(text), text)
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


def usual_place(name: str, environ: Mapping[str, str]) -> Path | None:
    """``$XDG_CONFIG_HOME/flexspec-mq/NAME.toml``, or the same in ``~/.config``; None without a home directory."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117  the base directory specification ignores relative ones
        home = environ.get("HOME", "")
        if not home:
            return None
        base = f"{home}/.config"
    return Path(base, "flexspec-mq", f"{name}.toml")


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
