"""Keeps transformers' warnings and progress bars off the user's terminal.

Errors reach the user as our own typed ones; transformers' remarks on tokenizer classes,
attention back ends or unused weights are for its developers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the remarks and bars of transformers and the hub client, and Python's warnings, in the block.

    These settings are global: blocks must not overlap on several threads.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    with_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    hub_logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if with_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
