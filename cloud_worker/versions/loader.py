"""Getting a head ready beside the base: fetched, whole, made for this worker, and writing what its canaries say.

All of it is done on a thread of its own, beside the steps of running sessions; see `HeadHolder`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from flexspec_mq.daemon import logs
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.heads.fetch import fetch_head
from flexspec_mq.heads.manifest import CANARY_SHARE, HeadError, read_head
from flexspec_mq.models.memory import trim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cloud_worker.engine.interface import Engine, Exactness, HeadHolder
    from cloud_worker.engine.thread import EngineThread
    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.heads.manifest import Manifest

_log = logging.getLogger(__name__)

MOST_DRAFTERS = 4
"""Drafters of versions beside the worker's own: some 65 MB each of the default draft."""


class HeadLoader:
    """Gets heads ready for an engine.

    Args:
        version: name of the worker's own version, which is the base and nothing else.
        base: Manifest that the base itself has here.
        engine: Engine that serves them.
        heads: Holder of them beside the engine's base.
        cache: Folder that they are fetched into.
        drafter: Makes the drafter for a version of its head's folder; None where the head has no LoRA of the draft.
    """

    def __init__(
        self,
        version: str,
        base: Manifest,
        engine: Engine,
        heads: HeadHolder,
        cache: Path,
        drafter: Callable[[Path], PricedDrafter | None] = lambda _: None,
    ) -> None:
        self._version, self._base = version, base
        self._drafter = drafter
        self._held: dict[str, bytes] = {}
        self._drafted: set[str] = set()
        self._heads = heads
        self._engine = engine
        self._cache = cache

    def load(self, name: str, digest: bytes, url: str, thread: EngineThread) -> Exactness:
        """Fetch a head, hold it in the engine's model under the name of its version, and check it.

        Raises:
            FetchError: it cannot be had now.
            UsageError: heads are not read from such a URL, or nothing here can.
            ModelError: it is bad, or not for this worker. The engine holds nothing of it.
        """
        folder = fetch_head(url, digest, self._cache)
        manifest = read_head(folder, digest)
        self._check_base(name, manifest)
        if manifest.kind == "base":
            self._check_canaries("", manifest, thread)
            thread.submit(partial(self._hold, name, digest, "")).result()
            return self._engine.facts.exactness
        self._heads.hold(name, folder, manifest, thread.submit)
        try:
            self._check_canaries(name, manifest, thread)
            exactness = self._heads.prove(name, digest, thread.submit)
            thread.submit(partial(self._hold, name, digest, name)).result()
        except BaseException:
            self._heads.drop(name, thread.submit)
            raise
        base = self._engine.facts.exactness
        return exactness if base == "exact" else base

    def load_drafter(self, name: str, digest: bytes, thread: EngineThread) -> None:
        """Give a version that is held a drafter of its own, if its head has a LoRA of the draft.

        Until then, and where the LoRA is of no use, which is logged, the worker's draft serves it as any other.
        """
        try:
            if len(self._drafted) >= MOST_DRAFTERS:
                _log.info("version %s: %d versions have drafters of their own already", name, MOST_DRAFTERS)
                return
            drafter = self._drafter(self._cache / digest.hex())
            if drafter is not None:
                thread.submit(partial(self._take_drafter, name, digest, drafter)).result()
                trim()
        except FlexSpecError as error:
            _log.warning("version %s: its LoRA of the draft is not used: %s", name, error.message)
        except Exception:  # noqa: BLE001  drafts are hints, and what runs goes on; logged
            _log.exception("version %s: its LoRA of the draft is not used", name)

    def _take_drafter(self, name: str, digest: bytes, drafter: PricedDrafter) -> None:
        """On the engine's thread: the version may be gone, or be another head by now."""
        if self._held.get(name) == digest:
            self._engine.hold_drafter(name, drafter)
            self._drafted.add(name)
            logs.tell(f"version {name} has a draft of its own")

    def drop(self, name: str, thread: EngineThread) -> None:
        """Let go of the head of a version."""
        if thread.submit(partial(self._drop, name)).result():
            self._heads.drop(name, thread.submit)

    def _hold(self, name: str, digest: bytes, head: str) -> None:
        """On the engine's thread."""
        self._engine.hold(name, head)
        self._held[name] = digest

    def _drop(self, name: str) -> str:
        """On the engine's thread."""
        self._held.pop(name, None)
        self._drafted.discard(name)
        return self._engine.drop(name)

    def _check_base(self, name: str, manifest: Manifest) -> None:
        """Refuse a head that is not for this worker."""
        for what in ("base", "tokenizer", "layers", "dtype", "weights"):
            theirs, ours = getattr(manifest, what), getattr(self._base, what)
            if theirs != ours:
                raise HeadError(
                    f"not for this worker: its {what} is {theirs}, here it is {ours}",
                    hint="start a worker with the target and settings that the head was made for; a base of its own "
                    "is published with `flexspec head base --base`",
                )
        if name == self._version and manifest.kind != "base":
            raise HeadError(
                f"{name} is this worker's own version, the base",
                hint="publish the head under another name, or start the worker with another --version",
            )

    def _check_canaries(self, head: str, manifest: Manifest, thread: EngineThread) -> None:
        if not manifest.canaries:
            raise HeadError(
                "it has no canaries, so nobody can tell it from a damaged one",
                hint="make it with `flexspec head train` or `flexspec head base`",
            )
        right = total = 0
        for canary in manifest.canaries:
            right += self._heads.count_right(head, canary, thread.submit)
            total += len(canary.text)
        if right < CANARY_SHARE * total:
            raise HeadError(
                f"{right} of its canaries' {total} tokens come out, less than {CANARY_SHARE:.0%}",
                hint="its weights are not those that the canaries were written with: publish it again",
            )
