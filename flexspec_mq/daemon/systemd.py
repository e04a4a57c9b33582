"""Tells the service manager that started us that we are ready, or about to end: systemd's notification protocol.

The manager names a datagram socket in ``NOTIFY_SOCKET`` and waits for a line ``READY=1`` on it (``Type=notify``).
Without that variable there is nobody to tell. It is no setting: nobody configures it, and it must not appear in
``config show``. So it is read here, in one place, and not with the settings.

A daemon works just as well unheard: a socket that does not take the message is logged, and nothing else.
"""

import logging
import os
import socket

from flexspec_mq import waiting

_log = logging.getLogger(__name__)


def ready(status: str) -> bool:
    """The daemon serves; `status` is a line for ``systemctl status``. Tells whether somebody was told."""
    return _send(f"READY=1\nSTATUS={status}")


def stopping(status: str) -> bool:
    """The daemon is about to end, which may take as long as its sessions do; see `ready`."""
    return _send(f"STOPPING=1\nSTATUS={status}")


def _send(message: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract namespace, which no file system shows
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(waiting.FAREWELL)
            manager.sendto(message.encode(), address)
    except OSError as error:
        _log.warning("the service manager at NOTIFY_SOCKET could not be told: %s", error)
        return False
    return True
