"""Which addresses only this machine can reach: what listens there needs neither TLS nor a login."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than ``localhost`` counts as reachable by others.

    Args:
        host: name or address, without a port.
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
