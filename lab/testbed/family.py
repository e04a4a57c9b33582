"""A family's operator on a deployment: makes its keys, and publishes versions, by ``flexspec head``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from flexspec_mq.chat.api import ApiClient
from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from lab.testbed.deployment import LocalDeployment
from lab.testbed.process import output

EXAMPLES = Path(str(files("flexspec_mq_default") / "heads"))
HEADS = tuple(sorted(one.name for one in EXAMPLES.iterdir() if one.is_dir()))
"""Heads that ship."""
_SERVED_WITHIN = 120.0


@dataclass(slots=True)
class Operator:
    """Made by `Operator.create`, which makes the keys and publishes the key set.

    Attributes:
        deployment: processes with a broker.
        family: name of the family.
        folder: place of keys, heads and records.
        root: the public root key.
        login: flags by which the operator connects to a broker that lets not everybody in.
    """

    deployment: LocalDeployment
    family: str
    folder: Path
    root: str
    login: Sequence[str] = ()

    @classmethod
    async def create(cls, deployment: LocalDeployment, family: str, folder: Path, *login: str) -> Operator:
        """Make a family: a root key, an online key, and the key set that says so.

        Raises:
            FlexSpecError: a command failed.
        """
        root = (await _head(deployment, "keygen", str(folder / "root.key"))).strip()
        online = (await _head(deployment, "keygen", str(folder / "online.key"))).strip()
        found = cls(deployment, family, folder, root, login)
        signer = ("--root", str(folder / "root.key"), "--signer", online, "--serial", "1")
        await _head(deployment, "trust", *signer, *found._at_broker())
        return found

    @property
    def heads(self) -> Path:
        """Where workers fetch heads."""
        return self.folder / "heads"

    def follow(self, daemon: str) -> Sequence[str]:
        """Flags of a worker or edge node that follows the family, with a memory of its own."""
        state = str(self.folder / "state" / daemon)
        return ("--family", self.family, "--root-key", self.root, "--state-dir", state)

    async def base(self) -> Path:
        """Write the base as a version; the folder of its head."""
        folder = self.folder / "base"
        await _head(self.deployment, "base", "--out", str(folder))
        return folder

    async def publish(self, name: str, folder: Path, *flags: str) -> str:
        """Publish a head; what the command says. The machine is the workers', who look at it with its base."""
        return await self.head("publish", str(folder), "--name", name, "--base", "none", *flags)

    async def begin(self, name: str, folder: Path) -> str:
        """Publish the first version, which is stable."""
        return await self.publish(name, folder, "--first", "--state", "stable", "--heads", str(self.heads))

    async def listed(self) -> dict[str, Any]:
        """Output of ``flexspec head list``."""
        found: dict[str, Any] = json.loads(
            await _head(self.deployment, "list", "--json", "--wait", "1", *self._at_broker())
        )
        return found

    async def head(self, action: str, *arguments: str) -> str:
        """A command that signs with the online key; what it says.

        Raises:
            FlexSpecError: it failed.
        """
        return await _head(self.deployment, action, *arguments, *self.signing())

    def signing(self) -> Sequence[str]:
        """Flags of a command that signs with the online key."""
        return (*self._at_broker(), "--key", str(self.folder / "online.key"))

    def _at_broker(self) -> Sequence[str]:
        state = str(self.folder / "state" / "operator")
        family = ("--family", self.family, "--root-key", self.root, "--state-dir", state)
        return (*self.deployment.at_broker, *family, *self.login)


async def _head(deployment: LocalDeployment, action: str, *arguments: str) -> str:
    command = deployment.on("cloud", python("flexspec_mq.cli", "head", action, *arguments))
    return await output(f"flexspec head {action}", command)


async def until_listed(api: ApiClient, name: str) -> None:
    """Wait until an edge node's ``/v1/models`` has a name: a worker serves it.

    Raises:
        FlexSpecError: it has not in two minutes.
    """
    ends = time.monotonic() + _SERVED_WITHIN
    while name not in await api.models():
        if time.monotonic() > ends:
            raise FlexSpecError(f"no worker serves {name} after {_SERVED_WITHIN:.0f} s")
        await asyncio.sleep(0.05)
