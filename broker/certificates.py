"""A certificate authority of one's own and a server certificate, by openssl."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path

from broker.programs import program
from broker.settings import ServerTls
from flexspec_mq.errors import BrokerError

CA = "ca.crt"
CA_KEY = "ca.key"
CERTIFICATE = "server.crt"
KEY = "server.key"
_DAYS = "825"


def make_certificates(directory: Path, names: Sequence[str]) -> ServerTls:
    """Make what a TLS listener needs, and keep what is there already.

    Clients get ``ca.crt`` only. ``ca.key`` signs further certificates: keep it off the broker's machine.

    Args:
        directory: made if missing, readable by its owner only.
        names: host names and addresses under which clients reach the broker.

    Raises:
        BrokerError: openssl is missing or failed, or no name was given.
    """
    if not names:
        raise BrokerError("a certificate needs the names under which clients reach the broker")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tls = files_in(directory)
    if tls is not None:
        return tls
    ca, ca_key = directory / CA, directory / CA_KEY
    certificate, key = directory / CERTIFICATE, directory / KEY
    _make_key(ca_key)
    _openssl(
        *("req", "-x509", "-new", "-key", str(ca_key), "-out", str(ca), "-days", _DAYS),
        *("-subj", "/CN=FlexSpec private CA"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    _make_key(key)
    _openssl(
        *("req", "-x509", "-new", "-key", str(key), "-CA", str(ca), "-CAkey", str(ca_key)),
        *("-out", str(certificate), "-days", _DAYS, "-subj", f"/CN={names[0][:64]}"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "subjectAltName=" + ",".join(_alternative(name) for name in names)),
        *("-addext", "extendedKeyUsage=serverAuth"),
    )
    return ServerTls(ca.resolve(), certificate.resolve(), key.resolve())


def files_in(directory: Path) -> ServerTls | None:
    """The TLS files in `directory`, or None if one is missing."""
    ca, certificate, key = (directory / name for name in (CA, CERTIFICATE, KEY))
    if not all(path.is_file() for path in (ca, certificate, key)):
        return None
    return ServerTls(ca.resolve(), certificate.resolve(), key.resolve())


def _make_key(path: Path) -> None:
    path.touch(mode=0o600)
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path))


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(*arguments: str) -> None:
    done = subprocess.run([program("openssl"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()
        raise BrokerError(f"openssl {arguments[0]} failed: {last[-1] if last else 'no message'}")
