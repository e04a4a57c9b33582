"""Addresses that people write, and which of them only this machine can reach: those need neither TLS nor a login."""

from __future__ import annotations

from ipaddress import ip_address

from flexspec_mq.errors import UsageError


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


def address(value: str, *, least_port: int = 1) -> tuple[str, int]:
    """Host and port of ``host:port``; brackets around an IPv6 address are taken off.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise UsageError(f"{value!r} is not host:port", hint="for example 127.0.0.1:1883")
    if not least_port <= int(port) < 2**16:
        raise UsageError(f"port {port} is not between {least_port} and 65535")
    return host.strip("[]"), int(port)
