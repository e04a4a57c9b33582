"""Settings of the family that a daemon follows."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Section, Setting
from flexspec_mq.settings.declare import verify


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyOptions(Section):
    """The family whose catalogue says which versions there are; `Setting.help` has the words."""

    family: Annotated[
        str | None,
        Setting(
            help="family of targets to follow; its signed catalogue names the versions",
            check=partial(topics.checked, "family"),
        ),
    ] = None
    root_key: Annotated[
        str | None,
        Setting(
            help="public key that signs the family's key sets: 64 hex digits, or a file that holds them",
            path_unless=(),
        ),
    ] = None
    state_dir: Annotated[
        Path | None,
        Setting(
            help="folder for the newest catalogue seen, so that no older one is taken up after it, for remembered "
            "answers and for the outbox",
            default="in the cache; the outbox in $XDG_STATE_HOME/flexspec-mq",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse a family of which nothing can be believed.

        Raises:
            UsageError: one of family and root key is missing, or the family cannot have that name.
        """
        verify(self)
        if self.family is not None and self.root_key is None:
            raise UsageError(
                f"nothing says who signs for the family {self.family}",
                hint="give its public root key with --root-key; `flexspec head keygen` shows it",
            )
        if self.family is None and self.root_key is not None:
            raise UsageError("a root key without a family is of no use", hint="name the family with --family")
