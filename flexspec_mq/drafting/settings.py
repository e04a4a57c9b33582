"""Settings of a draft's loader: an edge's, or a worker's."""

from dataclasses import dataclass
from typing import Annotated

from flexspec_mq.settings import Section, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSettings(Section):
    """Which draft, and how; `Setting.help` has the words. An edge's settings are such."""

    draft: Annotated[
        str,
        Setting(
            help="draft: checkpoint folder or GGUF file, 'default', or 'none' to use no draft model",
            path_unless=("default", "none"),
        ),
    ] = "default"
    tokenizer: Annotated[
        str | None,
        Setting(
            help="model folder or hub name whose tokenizer the target has, where the draft has another vocabulary",
            default="of the draft",
            path_unless=("default",),
        ),
    ] = None
    lookup: Annotated[
        bool,
        Setting(help="draft what a text has said before from its own tokens, where that is expected to win"),
    ] = True
    threads: Annotated[int, Setting(help="threads that the draft may take", least=1)] = 1
