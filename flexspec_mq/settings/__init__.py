"""The settings of a daemon: from a TOML file, the environment and flags, typed, each value with its origin.

A daemon declares a frozen dataclass whose fields are sections; a section is a frozen dataclass whose fields
carry a `Setting`. All keys of a daemon share one flat namespace, so that ``threads`` is ``--threads`` as a
flag, ``FLEXSPEC_EDGE_THREADS`` in the environment and ``threads`` in the file.

msgspec, which the messages use too, converts the values: strictly where the file has types of its own, and
from text elsewhere. Nothing here knows a daemon: its sections are in its ``settings.py``, the
broker's address in `transport.arguments`, logs in `daemon.logs`. A value that cannot be used is a `UsageError`.
"""

from flexspec_mq.settings.declare import Program, Section, Setting, verify
from flexspec_mq.settings.flags import add_flags
from flexspec_mq.settings.load import Loaded, give, load, named_after_user
from flexspec_mq.settings.show import add_show_command, show

__all__ = [
    "Loaded",
    "Program",
    "Section",
    "Setting",
    "add_flags",
    "add_show_command",
    "give",
    "load",
    "named_after_user",
    "show",
    "verify",
]
