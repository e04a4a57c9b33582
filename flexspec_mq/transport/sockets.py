"""The connected socket of a link, TLS included. Every wait is bounded and can be cancelled; no threads."""

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import Callable

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import on_thread
from flexspec_mq.errors import LinkDown, LinkRefused
from flexspec_mq.settings.values import is_loopback
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.certificates import complaint_about

TCP_RTO_MAX_MS = 44
"""Option of Linux since 6.15, for which Python has no name."""
_GIVES_UP_MS = round(1000 * waiting.QUEUED)
"""How often it tried decides when it gives up by itself, and it tries more often."""


async def open_socket(settings: LinkSettings, plain: socket.socket | None = None) -> socket.socket:
    """Connect, and agree on keys where the link is to have TLS.

    Args:
        settings: settings of the link.
        plain: connected already, by `connect`; closed if this fails.

    Returns:
        A non-blocking socket.

    Raises:
        LinkDown: names the host, the port and the system's reason.
        LinkRefused: the broker's certificate is not trusted, or our TLS files cannot be used.
    """
    if plain is None:
        plain = await connect(settings)
    return plain if settings.tls is None else await _secure(plain, settings, settings.tls)


async def connect(settings: LinkSettings) -> socket.socket:
    """Connect to the first address of the host that answers, with Nagle's algorithm off and attempts close together.

    With Nagle on, a round trip at QoS 1 costs two of the peer's delayed acknowledgements, some 88 ms.
    See `try_often` for the other.

    Returns:
        A non-blocking socket, without TLS.

    Raises:
        LinkDown: names the host, the port and the system's reason.
    """
    try:
        async with asyncio.timeout(settings.connect_timeout):
            return await _first_that_answers(settings)
    except (OSError, UnicodeError) as error:
        message, hint = why_unreachable(settings, error)
        raise LinkDown(message, hint=hint) from None


def try_often(sock: socket.socket, seconds: float) -> None:
    """Have TCP send again after so many seconds at the latest, where the kernel can (Linux since 6.15).

    Otherwise the time between two attempts doubles each time, and after an outage nothing goes out for up to as long
    as it lasted.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, round(1000 * seconds))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GIVES_UP_MS)


def why_unreachable(settings: LinkSettings, error: OSError | UnicodeError) -> tuple[str, str]:
    """Why nothing answers at the broker's address, and what to do."""
    where, host = settings.address, settings.host
    if isinstance(error, socket.gaierror | UnicodeError):  # a name that is none cannot be encoded
        said = getattr(error, "strerror", None) or error
        return (
            f"the broker is to be at {where}, and the host name {host} is not known here: {said}",
            "check the spelling of --broker, and this machine's DNS; an address works without DNS",
        )
    if isinstance(error, ConnectionRefusedError):
        start = "`flexspec-broker run --port 1883` starts one here" if is_loopback(host) else "start it there"
        return f"nothing listens at {where}", f"is the broker running, on that port? {start}"
    if isinstance(error, TimeoutError):
        return (
            f"{where} did not answer within {settings.connect_timeout:g} s",
            "check the address, whether that machine is up, and the firewalls on the way",
        )
    known = errno.errorcode.get(error.errno or 0, "")
    return (
        f"{where} is unreachable: {error.strerror or error}",
        "this machine has no way there: check its network and routes"
        if known in {"EHOSTUNREACH", "ENETUNREACH"}
        else "check the address and this machine's network",
    )


async def _first_that_answers(settings: LinkSettings) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try_often(sock, 2 * settings.answer_timeout)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("the name has no address")


async def _secure(plain: socket.socket, settings: LinkSettings, tls: TlsSettings) -> ssl.SSLSocket:
    where = settings.address
    try:
        context = tls_context(tls)
        plain.getpeername()  # of one that was reset `wrap_socket` makes another socket, and leaks it
        secured = context.wrap_socket(plain, server_hostname=settings.host, do_handshake_on_connect=False)
    except OSError as error:  # it was reset since it was connected
        plain.close()
        raise LinkDown(f"the broker at {where} ended the connection: {error}") from None
    except BaseException:
        plain.close()
        raise
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await _shake_hands(secured)
    except ssl.SSLCertVerificationError as error:
        secured.close()
        message, hint = await on_thread(complaint_about, settings, tls, error)  # it asks once more
        raise LinkRefused(message, hint=hint) from None
    except TimeoutError:
        secured.close()
        raise LinkDown(
            f"the broker at {where} did not finish the TLS handshake within {settings.connect_timeout:g} s",
            hint="is this its TLS port?",
        ) from None
    except OSError as error:
        secured.close()
        raise LinkDown(
            f"the TLS handshake with the broker at {where} failed: {error}", hint="is this its TLS port?"
        ) from None
    except BaseException:
        secured.close()
        raise
    return secured


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    """Do the TLS handshake of a non-blocking socket; asyncio's own operations refuse TLS sockets."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(sock: socket.socket, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
    ready = asyncio.Event()
    add(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        remove(sock.fileno())


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make the TLS context: the broker's certificate and name are always checked.

    Raises:
        LinkRefused: a file is missing or not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        files = ", ".join(str(f) for f in (tls.ca, tls.certificate, tls.key) if f is not None)
        raise LinkRefused(
            f"the TLS files {files} cannot be used: {error}", hint="give PEM files that this user can read"
        ) from None
    return context
