"""Values that people write: addresses, and which of them only this machine can reach, and keys of the API."""

from ipaddress import ip_address
from pathlib import Path

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


def read_api_key(key: str | None, file: Path | None) -> str | None:
    """The key that settings give, itself or by a file; None if they give none.

    Raises:
        UsageError: its file cannot be read, or it cannot stand in an HTTP header.
    """
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} with the API key cannot be read: {error}") from error
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise UsageError("the API key is empty or not ASCII", hint="it travels in an HTTP header")
    return key
