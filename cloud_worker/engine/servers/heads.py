"""Heads beside the base as a server's LoRA adapters."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from cloud_worker.engine.servers.client import ServerGone
from cloud_worker.engine.servers.server import GREEDY
from flexspec_mq.errors import ServerRefused
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.heads.place import FetchError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from cloud_worker.engine.interface import Exactness, Submit
    from cloud_worker.engine.servers.server import Server
    from flexspec_mq.heads.manifest import Canary, Manifest
    from flexspec_mq.models.load import LoadedText

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ServerHeads:
    """A `HeadHolder` over a server, which reads heads' folders itself: they lie where it can read them.

    An adapter is named by its version and digest, and shared by all workers at the server. Where another worker has
    dropped it, or the server was started anew, it is loaded `again`.

    Args:
        server: the server.
        base: Server's name for the base.
        loaded: text side of the base.
        loop: runs requests, on a thread of its own.

    Attributes:
        names: Server's name of each head that is held; the empty head is the base.
    """

    def __init__(
        self, server: Server, base: str, loaded: LoadedText, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loaded = loaded
        self.names = {"": base}
        self._places: dict[str, str] = {}
        self._server, self._loop = server, loop

    @property
    def layers(self) -> int:
        """See `HeadHolder`."""
        return int(self.loaded.config["num_hidden_layers"])

    def hold(self, name: str, folder: Path, manifest: Manifest, _submit: Submit) -> None:
        """See `HeadHolder`."""
        if manifest.kind != "lora":
            raise HeadError(
                f"it is a head of kind {manifest.kind}, and a server takes LoRA adapters only",
                hint="train it as a LoRA, or serve it by a worker with an engine of ours",
            )
        adapter, place = f"{name}-{folder.name[:12]}", str(folder.resolve())
        self._run(self._load(adapter, place))
        self._places[adapter], self.names[name] = place, adapter

    def count_right(self, name: str, canary: Canary, _submit: Submit) -> int:
        """See `HeadHolder`."""
        return self._run(self._count_right(self.names[name], canary))

    def prove(self, _name: str, _digest: bytes, _submit: Submit) -> Exactness:
        """See `HeadHolder`."""
        return "exact up to ties"

    def drop(self, name: str, _submit: Submit) -> None:
        """See `HeadHolder`."""
        adapter = self.names.pop(name)
        del self._places[adapter]
        try:
            self._run(self._server.drop_adapter(adapter))
        except FetchError as error:
            _log.warning("version %s: its adapter may stay at the server: %s", name, error.message)

    async def again(self, model: str) -> bool:
        """Have the server hold an adapter that it may have lost; False for another model. Called on the loop.

        Raises:
            ServerGone, ServerRefused: it does not hold it.
        """
        if (place := self._places.get(model)) is None:
            return False
        await self._load(model, place)
        return True

    async def _load(self, adapter: str, place: str) -> None:
        try:
            await self._server.load_adapter(adapter, place)
        except ServerRefused:
            if adapter not in await self._server.adapters():
                raise

    async def _count_right(self, model: str, canary: Canary) -> int:
        """Have the server write a canary, and begin anew behind each token that it would write otherwise."""
        right = place = 0
        while place < len(canary.text):
            before = [*canary.prompt, *canary.text[:place]]
            written = self._server.stream(model, before, 0, GREEDY, len(canary.text) - place, ())
            async with aclosing(written):
                async for row in written:
                    place += 1
                    if row.token != canary.text[place - 1]:
                        break
                    right += 1
        return right

    def _run(self, asked: Coroutine[Any, Any, T]) -> T:
        """Wait for requests on the loop.

        Raises:
            FetchError: the server cannot be asked, or will not as it was started: both may pass.
        """
        try:
            return asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        except (ServerGone, ServerRefused) as error:
            raise FetchError(error.message, hint="see the server's log") from error
