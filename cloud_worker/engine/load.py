"""The engine that a worker's settings ask for: the only door to it. Another engine is made here.

Libraries of an engine are checked and imported here, so that one without torch starts without torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cloud_worker.settings import SERVERS
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.load import byte_text, load_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.engine.interface import Engine
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.models.load import LoadedText


def check_libraries(settings: WorkerSettings) -> None:
    """Refuse to start where what the engine needs is not installed, before anything else is tried.

    Raises:
        ModelError: naming what is missing.
    """
    if settings.engine == "openai":
        need_libraries("--engine openai", "servers", ("httpx2",))
    elif settings.engine == "vllm":
        need_libraries(f"--engine {settings.engine}", "servers", ("httpx2", "tokenizers", "jinja2", "numpy"))
    else:
        need_libraries("running a target")


def load_engine(settings: WorkerSettings, tell: Callable[[str], None]) -> Engine:
    """Load the target and prove it, load the worker's draft, time both, and make an engine of them; or reach a server.

    Raises:
        ModelError: a model cannot be loaded or packed.
        UsageError: the draft is not for the target, or settings do not go together.
    """
    if settings.engine in SERVERS:
        from cloud_worker.engine.servers.load import connect

        return connect(settings, tell)
    from cloud_worker.engine import draft
    from cloud_worker.engine import target as targets
    from cloud_worker.engine.engine import build_engine
    from cloud_worker.engine.timing import timed

    draft.check(settings, tell)
    offer, offered = draft.offered(settings, tell)
    target = targets.load(settings, tell)
    drafts = draft.load(settings, target.loaded, tell)
    timings = timed(target.model, drafts)
    return build_engine(target, settings, drafts=drafts, timings=timings, offer=offer, offered=offered)


def try_models(settings: WorkerSettings) -> LoadedText:
    """Load the models as `load_engine` does, without the proof, or ask the server; return what is known of the target.

    Raises:
        ModelError: one cannot be loaded, or not be packed.
        UsageError: the draft is not for the target.
    """
    if settings.engine in SERVERS:
        from cloud_worker.engine.servers.load import connect

        engine = connect(settings, lambda _: None, patience=0.0)
        engine.close()
        if settings.engine == "openai":
            return replace(byte_text(), name=engine.facts.proof)
        return load_text(settings.target)
    from cloud_worker.engine import draft
    from cloud_worker.engine.target import candidate_of

    loaded, candidate, _ = candidate_of(settings, lambda _: None)
    candidate.build(None)
    draft.load(settings, loaded, lambda _: None)
    return loaded
