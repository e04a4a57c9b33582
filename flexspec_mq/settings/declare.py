"""Declaration of a setting, and the rules that its values keep."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from flexspec_mq.errors import UsageError

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Metadata of a section's field: ``threads: Annotated[int, Setting(help="torch threads", least=1)] = 1``.

    Attributes:
        help: text for people; with the unit where the words need it.
        unit: the value's unit, for messages.
        least: smallest value.
        above: the value is larger than this.
        most: largest value; the smallest is 0 then, or `least`.
        choices: all values.
        check: raises `UsageError` about a value, for rules that the others cannot say.
        default: the default in words, where the value says too little or is drawn for each run.
        secret: never shown, and no flag: other users of a machine can read its command lines.
        replaces: another key that this one stands in for; a value for either hides those for both from
            sources of lower precedence.
        path_unless: words that a string may be which else is a path. In a file it is relative to that if
            it begins with a dot or lies there; else it may be a name on the model hub, a URL or a key. None for
            strings that are no path.
    """

    help: str
    unit: str = ""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None
    default: str = ""
    secret: bool = False
    replaces: str = ""
    path_unless: tuple[str, ...] | None = None

    def verify(self, key: str, value: Any) -> None:
        """Refuse a value of the right type that breaks a rule; None is no value.

        Raises:
            UsageError: the message names the key, the hint says what is allowed where the message does not.
        """
        if value is None:
            return
        unit = f" {self.unit}" if self.unit else ""
        # Written so that nan, which is neither less nor more, passes none of them.
        if self.most is not None and not (self.least or 0) <= value <= self.most:
            raise UsageError(f"{key} {value} is not between {self.least or 0:g} and {self.most:.15g}{unit}")
        if self.least is not None and not value >= self.least:
            raise UsageError(f"{key} {value} is less than {self.least:g}{unit}")
        if self.above is not None and not value > self.above:
            raise UsageError(f"{key} {value} is not above {self.above:g}{unit}")
        if self.choices and value not in self.choices:
            raise UsageError(f"{key} {value!r} is none of {', '.join(self.choices)}")
        if self.check is not None:
            for item in value if isinstance(value, tuple) else (value,):
                self.check(item)


Kind = Literal["default", "file", "environment", "flag"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: ``file`` and ``edge.toml:3``, ``environment`` and a name, ``flag`` and a flag."""

    kind: Kind
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".rstrip()


@dataclass(frozen=True, slots=True)
class DeclaredSetting:
    """A setting of a daemon.

    Attributes:
        key: name in the file.
        section: field of the daemon's settings that holds it.
        type: type of its value, without the metadata.
        setting: metadata of the field.
        default: value if nobody gives one; None also if it is drawn for each run.
    """

    key: str
    section: str
    type: Any
    setting: Setting
    default: Any

    @property
    def flag(self) -> str:
        """Its flag."""
        return "--" + self.key.replace("_", "-")

    @property
    def kind(self) -> Any:
        """Its type where there is a value."""
        if typing.get_origin(self.type) in (typing.Union, types.UnionType):
            return next(option for option in typing.get_args(self.type) if option is not types.NoneType)
        return self.type

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return typing.get_origin(self.kind) is tuple


@dataclass(frozen=True, slots=True)
class Program(Generic[C]):
    """A daemon.

    Attributes:
        name: short name, as ``edge``.
        settings: type of its settings.
        without_flags: keys that are set in the file or the environment only.
        usual: keys whose flags ``--help`` explains, where ``--help-all`` is for the others; empty explains all.
    """

    name: str
    settings: type[C]
    without_flags: frozenset[str] = frozenset()
    usual: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        """Prefix of its variables in the environment."""
        return f"FLEXSPEC_{self.name.upper()}_"

    def variable(self, key: str) -> str:
        """The name of a setting in the environment."""
        return self.prefix + key.upper()

    @property
    def sections(self) -> dict[str, type[Any]]:
        """Sections by their names."""
        hints = typing.get_type_hints(self.settings)
        return {field.name: hints[field.name] for field in dataclasses.fields(self.settings)}  # type: ignore[arg-type]

    @property
    def entries(self) -> dict[str, DeclaredSetting]:
        """All settings by their keys, in the order of the sections and of their fields."""
        entries: dict[str, DeclaredSetting] = {}
        for section, kind in self.sections.items():
            for entry in _entries(section, kind):
                if entry.key in entries:
                    raise TypeError(
                        f"{entry.key} is a setting of {entries[entry.key].section} and of {section}"
                    )
                entries[entry.key] = entry
        return entries


def _entries(section: str, kind: type[Any]) -> Iterator[DeclaredSetting]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if typing.get_origin(hint) is not typing.Annotated:
            continue
        bare, *extras = typing.get_args(hint)
        setting = next((extra for extra in extras if isinstance(extra, Setting)), None)
        if setting is not None:
            default = None if field.default is dataclasses.MISSING else field.default
            yield DeclaredSetting(field.name, section, bare, setting, default)


def verify(section: Any) -> None:
    """Refuse a section that breaks a rule of its settings; for a ``__post_init__`` that has more to refuse.

    Raises:
        UsageError: naming the first value that does.
    """
    for entry in _entries("", type(section)):
        entry.setting.verify(entry.key, getattr(section, entry.key))


class Section:
    """Base of a section that has no rules but those of its settings.

    Raises:
        UsageError: a value breaks one; names the first that does.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        """Refuse what no daemon can be made of."""
        verify(self)
