"""The programs of others that we start."""

from __future__ import annotations

import shutil

from flexspec_mq.errors import BrokerError

_PACKAGES = {"mosquitto": "mosquitto"}
_SYSTEM = "/usr/sbin:/usr/local/sbin:/sbin"


def program(name: str) -> str:
    """Path of a program, also where ordinary users' PATH does not look.

    Raises:
        BrokerError: it is not installed; names the Debian package.
    """
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM)
    if found is None:
        package = _PACKAGES[name]
        raise BrokerError(f"{name} is not installed", hint=f"apt install {package}")
    return found
