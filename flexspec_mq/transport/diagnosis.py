"""Why a broker cannot be used: what is said there on the wire, and what that means for the user.

The link itself only needs to know whether it may try again. Whoever sets a broker up needs the cause. So this asks
with sockets of its own and blocks; call it on a thread. Where the link would log in it does so as the link's user:
a broker counts who tries without as an intruder. It leaves nothing at the broker.
"""

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from paho.mqtt.properties import VariableByteIntegers

from flexspec_mq.daemon.tasks import apart
from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.certificates import complaint_about
from flexspec_mq.transport.needs import FOR_SESSIONS
from flexspec_mq.transport.properties import limits_in, reason_in
from flexspec_mq.transport.refusals import UNSUPPORTED_VERSION, connect_refusal, no_mqtt5, poor_broker
from flexspec_mq.transport.sockets import tls_context, why_unreachable

# CONNECT with a clean session, keepalive 10 s and an empty client id, by section 3.1 of either standard.
CONNECT_311 = bytes((0x10, 12, 0, 4)) + b"MQTT" + bytes((4, 2, 0, 10, 0, 0))
CONNECT_5 = bytes((0x10, 13, 0, 4)) + b"MQTT" + bytes((5, 2, 0, 10, 0, 0, 0))
DISCONNECT = bytes((0xE0, 0))
_USERNAME, _PASSWORD = 0x80, 0x40
_TLS_ALERT = b"\x15\x03"
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)
"""Errors of a server of names that has answered; EAI_AGAIN is that none could be asked."""

LOGIN_REFUSED: Final = "login refused"
Fault = Literal["broker down", "wrong port", "3.1.1 only", "broker lacking", "TLS mismatch", "login refused"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Fault that keeps us from the broker, and how to mend it.

    Attributes:
        reached: something answered at its address.
        final: trying again does not mend it; the link would not.
    """

    fault: Fault
    detail: str
    advice: str
    reached: bool = True
    final: bool = False


class _Said(Enum):
    """Reaction of the other side to a CONNECT of MQTT 5."""

    MQTT5 = "MQTT 5"
    OLDER = "an older MQTT"
    TLS = "TLS"
    OTHER = "something else"
    HUNG_UP = "it hung up"
    SILENT = "nothing"


def diagnose(settings: LinkSettings) -> Cause | None:
    """Look for what keeps us from the broker, up to the login; None if nothing does.

    Blocks for a small multiple of `settings.connect_timeout` at most, name resolution aside.
    """
    try:
        sock = _connect(settings)
    except OSError as error:
        unknown = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
        return Cause("broker down", *why_unreachable(settings, error), reached=False, final=unknown)
    tls, context = settings.tls, None
    try:
        with (
            sock
        ):  # used for all that is said first: a connection that says nothing is an error in a broker's log
            if tls is not None:
                context = tls_context(tls)
                sock = context.wrap_socket(sock, server_hostname=settings.host)
            with sock:
                said, answer = _greet(sock, login(settings))
    except LinkRefused as error:  # our files
        return Cause("TLS mismatch", error.message, error.hint, final=True)
    except (OSError, ValueError) as error:
        if tls is None:
            said, answer = _Said.HUNG_UP, b""
        elif isinstance(error, ssl.SSLCertVerificationError):
            return Cause("TLS mismatch", *complaint_about(settings, tls, error), final=True)
        else:
            return _broken_handshake(settings, tls, error)
    if said is _Said.HUNG_UP and answers_only_older(settings):
        said = _Said.OLDER
    return _judged(settings, said, answer)


def _judged(settings: LinkSettings, said: _Said, answer: bytes) -> Cause | None:
    """The meaning of the reaction to our CONNECT."""
    if said is _Said.MQTT5:
        return _unfit(settings, answer)
    if said is _Said.OLDER:
        refusal = no_mqtt5(settings)
        return Cause("3.1.1 only", refusal.message, refusal.hint, final=True)
    if settings.tls is not None and said is _Said.HUNG_UP:
        return _wants_certificate(settings, settings.tls, "it hung up after the handshake")
    if settings.tls is None and said is not _Said.OTHER and _speaks_tls(settings):
        return Cause(
            "TLS mismatch",
            f"{settings.address} speaks TLS, and we were told to connect without",
            "give --tls-ca CA.crt, the certificate authority of the broker; or a port without TLS, usually 1883",
        )
    return _no_broker(settings, said, answer)


def preflight(settings: LinkSettings, tell: Callable[[str], None], *, daemon: bool) -> None:
    """Look at the broker before a model is loaded; blocks for 2 seconds at most, whatever the network does.

    A broker that is down passes: the link tries again. So does one that could not be looked at in time.

    Args:
        settings: settings of the link.
        tell: told what is odd and may change.
        daemon: whether we outlive the broker. Names come and go with the machines that have them, so an unknown name
            is told only; a command that answers and stops ends there.

    Raises:
        LinkRefused: the broker's certificate is for another host or not to be trusted, our TLS files cannot be
            used, it does not speak MQTT 5, refuses our login, or says that it cannot carry sessions; unless
            `daemon`, also that its name is not known.
    """
    quick = replace(
        settings,
        connect_timeout=min(2 * settings.answer_timeout, settings.connect_timeout),
        needs=FOR_SESSIONS,
    )
    try:
        cause = apart(diagnose, quick).result(
            2 * settings.answer_timeout
        )  # as name resolution has no bound of its own
    except TimeoutError:
        return
    if cause is None or (not cause.final and cause.fault == "broker down"):
        return
    if cause.final and (cause.reached or not daemon):
        raise LinkRefused(cause.detail, hint=cause.advice)
    tell(f"{cause.detail}; {cause.advice}")


def answers_only_older(settings: LinkSettings) -> bool:
    """Whether the peer answers CONNECT of MQTT 3.1.1 and hangs up on that of MQTT 5, twice in turns. Blocks.

    A broker that speaks both answers both, unless the connection breaks; hence the second turn.
    """
    context = None if settings.tls is None else tls_context(settings.tls)
    asked = (_ask(settings, connect, context)[0] for connect in (CONNECT_311, CONNECT_5) * 2)
    return all(
        said is expected for said, expected in zip(asked, (_Said.OLDER, _Said.HUNG_UP) * 2, strict=True)
    )


def login(settings: LinkSettings) -> bytes:
    """`CONNECT_5` with the login of a link, and without its client id: it takes no connection's place."""
    flags, given = 2, b""
    for flag, text in ((_USERNAME, settings.username), (_PASSWORD, settings.password)):
        if text is not None:
            flags |= flag
            given += struct.pack(">H", len(text.encode())) + text.encode()
    rest = bytes((0, 4)) + b"MQTT" + bytes((5, flags, 0, 10, 0, 0, 0)) + given
    return bytes((0x10,)) + VariableByteIntegers.encode(len(rest)) + rest  # type: ignore[no-untyped-call, no-any-return]


def _connect(settings: LinkSettings) -> socket.socket:
    """A connected blocking socket. `UnicodeError` of a name that is none becomes a `socket.gaierror`."""
    try:
        return socket.create_connection((settings.host, settings.port), timeout=settings.connect_timeout)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error


def _unfit(settings: LinkSettings, connack: bytes) -> Cause | None:
    """Whether the broker lets us in, and what it lacks of `settings.needs`."""
    if (code := reason_in(connack)) and isinstance(no := connect_refusal(settings, code), LinkRefused):
        return Cause(LOGIN_REFUSED, no.message, no.hint, final=True)
    if not (lacking := list(settings.needs.lacking(limits_in(connack)))):
        return None
    refusal = poor_broker(settings, lacking)
    return Cause("broker lacking", refusal.message, refusal.hint, final=True)


def _no_broker(settings: LinkSettings, said: _Said, answer: bytes) -> Cause:
    words = {
        _Said.HUNG_UP: "hangs up when it is asked for MQTT",
        _Said.SILENT: f"says nothing for {settings.connect_timeout:g} s when it is asked for MQTT",
    }.get(said, f"answers {_named(answer)}")
    return Cause(
        "wrong port",
        f"{settings.address} is no MQTT broker: it {words}",
        "give the broker's MQTT port with --broker HOST:PORT, usually 1883, or 8883 with TLS",
    )


def _named(answer: bytes) -> str:
    if answer.startswith(b"HTTP/"):
        return "as a web server does (HTTP)"
    if answer.startswith(b"SSH-"):
        return "as an SSH server does"
    return f"something else ({answer[:8]!r})"


def _broken_handshake(settings: LinkSettings, tls: TlsSettings, error: Exception) -> Cause:
    reason = str(getattr(error, "reason", None) or "")
    about_us = ("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "EXPIRED")
    if "ALERT" in reason and any(word in reason for word in (*about_us, "HANDSHAKE_FAILURE")):
        return _wants_certificate(settings, tls, reason.lower().replace("_", " "))
    said, answer = _ask(replace(settings, tls=None), CONNECT_5)
    if said in (_Said.MQTT5, _Said.OLDER):
        return Cause(
            "TLS mismatch",
            f"{settings.address} is a port without TLS, and we were told to use TLS",
            "give the broker's TLS port, usually 8883; or leave --tls-ca, --tls-cert and --tls-key out, where no "
            "stranger can listen on the way",
        )
    if said is _Said.OTHER:
        return _no_broker(settings, said, answer)
    if _speaks_tls(settings):
        return _wants_certificate(settings, tls, reason.lower().replace("_", " ") or str(error))
    return Cause(
        "wrong port",
        f"{settings.address} is no TLS port: the handshake failed ({error})",
        "give the broker's TLS port, usually 8883",
    )


def _wants_certificate(settings: LinkSettings, tls: TlsSettings, what: str) -> Cause:
    if tls.certificate is None:
        return Cause(
            "TLS mismatch",
            f"the broker at {settings.address} asks for a client certificate, and we have none ({what})",
            "give --tls-cert and --tls-key with a certificate that the broker's operator signed for this device",
        )
    if "certificate revoked" in what:
        return Cause(
            "TLS mismatch",
            f"the broker at {settings.address} says that our client certificate {tls.certificate} was revoked",
            "ask whoever runs the broker for new files",
            final=True,
        )
    return Cause(
        "TLS mismatch",
        f"the broker at {settings.address} does not accept our client certificate {tls.certificate} ({what})",
        "it must be signed by the authority that the broker trusts (its `cafile`) and not have expired; "
        "have the operator sign a new one",
    )


def _ask(
    settings: LinkSettings, connect: bytes, context: ssl.SSLContext | None = None
) -> tuple[_Said, bytes]:
    """Answer of the port to a CONNECT, without TLS unless there is a context for it, and its first bytes."""
    try:
        with _connect(settings) as plain:
            sock = plain if context is None else context.wrap_socket(plain, server_hostname=settings.host)
            with sock:
                return _greet(sock, connect)
    except OSError:
        return _Said.HUNG_UP, b""


def _greet(sock: socket.socket, connect: bytes) -> tuple[_Said, bytes]:
    """Say a CONNECT, and goodbye if it was taken; otherwise as `_read`."""
    with suppress(OSError):  # it may have hung up on our certificate; the alert is still to be read
        sock.sendall(connect)
    said, answer = _read(sock)
    if said is _Said.MQTT5 and reason_in(answer) == 0:
        with suppress(OSError):
            sock.sendall(DISCONNECT)
    return said, answer


def _read(sock: socket.socket) -> tuple[_Said, bytes]:
    """Name the first bytes of an answer.

    Raises:
        ssl.SSLError: an alert came instead.
    """
    try:
        answer = sock.recv(1024)
    except TimeoutError:
        return _Said.SILENT, b""
    except OSError as error:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            raise
        answer = b""
    if not answer:
        return _Said.HUNG_UP, b""
    if answer.startswith(_TLS_ALERT):
        return _Said.TLS, answer
    if answer[0] != 0x20 or len(answer) < 4:
        return _Said.OTHER, answer
    # CONNACK of MQTT 5 has properties, so it is longer than the two bytes of its predecessors.
    older = answer[1] == 2 or answer[3] == UNSUPPORTED_VERSION
    return (_Said.OLDER if older else _Said.MQTT5), answer


def _speaks_tls(settings: LinkSettings) -> bool:
    """Whether a TLS handshake gets anywhere; whom the certificate is for does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(settings) as sock, context.wrap_socket(sock, server_hostname=settings.host):
            return True
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason or "")  # it would speak, if it liked us better
    except (OSError, ValueError):
        return False
