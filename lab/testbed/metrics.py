"""A daemon of this machine over HTTP: its figures in Prometheus' text format."""

import asyncio
import re
from collections.abc import Mapping

_ANSWER_WITHIN = 10.0
_SAMPLE = re.compile(r"^([\w:]+(?:\{[^}]*\})?) ([-+.\w]+)$", re.MULTILINE)


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page on loopback.

    Raises:
        OSError: there is none within ten seconds.
    """
    async with asyncio.timeout(_ANSWER_WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            # HTTP/1.0: a body without chunks that ends with the connection.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            page = await reader.read()
        finally:
            writer.close()
    head, _, body = page.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/"):
        raise OSError(f"port {port} of loopback does not speak HTTP")
    return int(head.split()[1]), body.decode()


async def figures(port: int) -> dict[str, float]:
    """The figures that a daemon serves, by name with labels; errors as of `get`."""
    return parse_figures((await get(port, "/metrics"))[1])


def parse_figures(page: str) -> dict[str, float]:
    """The samples of a page in Prometheus' text format, by name with labels."""
    return {name: float(value) for name, value in _SAMPLE.findall(page)}


def live_sessions(figures: Mapping[str, float], kind: str = "worker") -> float:
    """Sessions that go on at a worker, or texts that are being written at an edge, of all versions."""
    names = f"flexspec_{kind}:num_requests_running", f"flexspec_{kind}:num_requests_waiting"
    return sum(value for name, value in figures.items() if name.startswith(names))


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much each figure has risen."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
