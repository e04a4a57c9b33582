"""A certificate authority of one's own, the server's and clients' certificates, and the list of revoked ones.

Functions raise `BrokerError` where a file that is there cannot be used.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.files import read_text, rewrite_private, write_private
from broker.settings import ServerTls
from flexspec_mq.errors import BrokerError

CA = "ca.crt"
CA_KEY = "ca.key"
CERTIFICATE = "server.crt"
KEY = "server.key"
REVOKED = "revoked.pem"
_ROOM = 4096
"""Empty lines behind the list of revoked certificates: what a full disk leaves it to grow by."""
_VALIDITY = timedelta(days=825)
_LIST_VALIDITY = timedelta(days=3650)
_SKEW = timedelta(minutes=5)
"""How far another machine's clock may be behind ours when a certificate is new."""
_PEM = serialization.Encoding.PEM


def make_certificates(directory: Path, names: Sequence[str]) -> ServerTls:
    """Make what a TLS listener needs: an authority, a certificate for the server, and an empty list of revoked ones.

    Clients get ``ca.crt`` only. ``ca.key`` signs further certificates. An authority that is there stays, as clients may
    trust it.

    Args:
        directory: folder, made if missing, readable by its owner only.
        names: host names and addresses under which clients reach the broker, at least one.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / CA).exists():
        key, subject = ec.generate_private_key(ec.SECP256R1()), _name("FlexSpec private CA")
        builder = _builder(subject, subject, key, is_ca=True)
        _write(directory / CA, builder.sign(key, hashes.SHA256()), directory / CA_KEY, key)
    make_server_certificate(directory, names)
    write_revoked(directory, ())
    return files_in(directory)


def make_server_certificate(directory: Path, names: Sequence[str], into: Path | None = None) -> None:
    """Make a new key and certificate for the server, in place of those that are there, or in another folder."""
    subjects = x509.SubjectAlternativeName([_alternative(name) for name in names])
    use, into = ExtendedKeyUsageOID.SERVER_AUTH, into or directory
    _make_leaf(directory, names[0][:64], use, into / CERTIFICATE, into / KEY, subjects)


def make_client_certificate(directory: Path, name: str, certificate: Path, key: Path) -> int:
    """Make a certificate for a client, and return its serial number."""
    return _make_leaf(directory, name, ExtendedKeyUsageOID.CLIENT_AUTH, certificate, key).serial_number


def write_revoked(directory: Path, serials: Iterable[int]) -> None:
    """Write the list of certificates that are not taken any more."""
    ca, ca_key = _authority(directory)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=ca.subject, last_update=now - _SKEW, next_update=now + _LIST_VALIDITY
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _SKEW)
        builder = builder.add_revoked_certificate(revoked.build())
    text = builder.sign(ca_key, hashes.SHA256()).public_bytes(_PEM).decode()
    rewrite_private(directory / REVOKED, text + "\n" * _ROOM)


def files_in(directory: Path, client_certificates: bool = False) -> ServerTls:
    """The TLS files in `directory`, of a listener whose clients need certificates or not.

    Raises:
        BrokerError: one is missing.
    """
    ca, certificate, key, revoked = (directory.resolve() / name for name in (CA, CERTIFICATE, KEY, REVOKED))
    if not all(path.is_file() for path in (ca, certificate, key, revoked)):
        raise BrokerError(f"a file is missing in {directory}", hint="copy it back from a backup")
    return ServerTls(ca, certificate, key, revoked if client_certificates else None)


def _authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate(read_text(directory / CA).encode())
        key = serialization.load_pem_private_key(read_text(directory / CA_KEY).encode(), password=None)
    except ValueError as error:
        raise BrokerError(
            f"{directory / CA} and {CA_KEY} beside it are no certificate and key: {error}",
            hint="copy them back from where they were put away",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BrokerError(f"{directory / CA_KEY} is no key of an elliptic curve")
    return ca, key


def _make_leaf(
    directory: Path,
    name: str,
    use: x509.ObjectIdentifier,
    certificate: Path,
    key: Path,
    *extensions: x509.ExtensionType,
) -> x509.Certificate:
    """Make a certificate of the authority for a new key, and write both."""
    ca, ca_key = _authority(directory)
    private = ec.generate_private_key(ec.SECP256R1())
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority)
    builder = _builder(_name(name), ca.subject, private, is_ca=False)
    for extension in (x509.ExtendedKeyUsage([use]), issuer, *extensions):
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(ca_key, hashes.SHA256())
    _write(certificate, signed, key, private)
    return signed


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(usage, critical=True)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    certificate: Path, signed: x509.Certificate, key: Path, private: ec.EllipticCurvePrivateKey
) -> None:
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(key, private.private_bytes(_PEM, form, no_password).decode())
    write_private(certificate, signed.public_bytes(_PEM).decode())
