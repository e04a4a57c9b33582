"""The settings of a daemon: from a TOML file, the environment and flags, typed, each value with its origin.

A daemon declares a frozen dataclass whose fields are sections; a section is a frozen dataclass whose fields
carry a `Setting`. All keys of a daemon share one flat namespace, so that ``threads`` is ``--threads`` as a
flag, ``FLEXSPEC_EDGE_THREADS`` in the environment and ``threads`` in the file.

msgspec, which the messages use too, converts the values: strictly where the file has types of its own, and
from text elsewhere. Nothing here knows a daemon; each turns `SettingError` into an error of its own.
"""

from flexspec_mq.settings.declare import Complaint, Entry, Origin, Program, Setting, SettingError, complaints
from flexspec_mq.settings.flags import add_flags
from flexspec_mq.settings.load import Loaded, give, load
from flexspec_mq.settings.show import as_json, as_table

__all__ = [
    "Complaint",
    "Entry",
    "Loaded",
    "Origin",
    "Program",
    "Setting",
    "SettingError",
    "add_flags",
    "as_json",
    "as_table",
    "complaints",
    "give",
    "load",
]
