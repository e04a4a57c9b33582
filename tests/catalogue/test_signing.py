"""Bytes of signed messages that must never change, and what the decoder makes of others."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexspec_mq.catalogue.refusals import Reason, SignedRefused
from flexspec_mq.catalogue.signing import PrivateKey, cosigned, encode, open_signed, read_public, seal
from flexspec_mq.errors import LocalProtocolError, UsageError
from schemas.catalogue import MAX_KEYS, MAX_PAYLOAD, Catalogue, KeySet, Signed, VersionState
from tests.catalogue.family import (
    FAMILY,
    NOW,
    ONLINE,
    ROOT,
    SECOND,
    STRANGER,
    VERSIONS,
    catalogue,
    key_set,
    raw,
    version,
)

GOLDEN = {
    name: bytes.fromhex(digits)
    for name, digits in (
        line.split()
        for line in (Path(__file__).parent / "golden" / "v1-signed.hex").read_text("ascii").splitlines()
    )
}
CATALOGUE = GOLDEN["catalogue"]
OTHER_BASE = msgspec.structs.replace(VERSIONS[2], base=b"base")
BODIES: dict[str, tuple[Any, PrivateKey]] = {
    "catalogue": (catalogue(), ONLINE),
    "two-bases": (catalogue(versions=(*VERSIONS[:2], OTHER_BASE, VERSIONS[3])), ONLINE),
    "key-set": (key_set(keys=[ONLINE, SECOND], threshold=2, reset=NOW), ROOT),
}
OURS = [ONLINE.public]


@pytest.mark.parametrize("name", BODIES)
def test_golden_bytes_do_not_change_and_stay_readable(name: str) -> None:
    body, signer = BODIES[name]
    assert seal(body, [signer]) == GOLDEN[name]
    assert open_signed(GOLDEN[name], type(body), FAMILY, [signer.public]).body == body


@given(st.lists(st.lists(st.sampled_from((ONLINE, SECOND, STRANGER)), max_size=3), max_size=4))
def test_who_signs_one_after_another_signs_as_all_at_once(turns: list[list[PrivateKey]]) -> None:
    """Whoever signs twice has signed once, and nobody's signature is lost."""
    payload = seal(catalogue(), [ONLINE])
    for keys in turns:
        payload = cosigned(payload, Catalogue, FAMILY, keys)
    signers = {ONLINE.public, *(key.public for keys in turns for key in keys)}
    found = open_signed(payload, Catalogue, FAMILY, tuple(signers), len(signers))
    assert len(found.signatures) == len(signers)
    together = seal(catalogue(), [key for key in (ONLINE, SECOND, STRANGER) if key.public in signers])
    wanted = msgspec.msgpack.decode(together, type=Signed)
    assert found.signed == wanted.body
    assert set(found.signatures) == set(wanted.signatures)


@pytest.mark.parametrize("name", ["catalogue", "key-set"])
def test_no_flipped_bit_is_accepted(name: str) -> None:
    payload, (body, signer) = GOLDEN[name], BODIES[name]
    for bit in range(8 * len(payload)):
        mutated = bytearray(payload)
        mutated[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignedRefused):
            open_signed(bytes(mutated), type(body), FAMILY, [signer.public])


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Parts of the golden catalogue replaced, left out or put in, and cut off."""
    data = bytearray(CATALOGUE)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 4)))
        data[start:stop] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=100)
@given(st.one_of(spoilt(), st.binary(max_size=400)))
@example(b"\x92\xc4\x00\x90")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x92\xc6\xff\xff\xff\xff")
def test_mutated_bytes_are_refused_and_nothing_worse(payload: bytes) -> None:
    try:
        found = open_signed(payload, Catalogue, FAMILY, OURS)
    except SignedRefused:
        return
    assert found.signed == encode(catalogue())


@given(
    st.recursive(
        st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=9), st.lists, max_leaves=9
    )
)
def test_any_signed_body_is_read_or_refused(body: object) -> None:
    """Also one whose signature is right: keys may be stolen."""
    try:
        data = msgspec.msgpack.encode(body)
    except OverflowError:
        return
    kinds: tuple[type[Any], ...] = (Catalogue, KeySet)
    for kind in kinds:
        with pytest.raises(SignedRefused) as refused:
            open_signed(raw(kind, data, [ONLINE]), kind, FAMILY, OURS)
        assert refused.value.reason in (Reason.MALFORMED, Reason.FORMAT, Reason.FAMILY)


def test_fields_that_a_later_release_appends_are_skipped() -> None:
    body = msgspec.msgpack.decode(encode(catalogue()))
    body[6] = [[*fields, *(0, b"")[len(fields) - 3 :], "new"] for fields in body[6]]
    payload = raw(Catalogue, msgspec.msgpack.encode([*body, {"new": 1}]), [ONLINE])
    assert open_signed(payload, Catalogue, FAMILY, OURS).body == catalogue()


def test_a_key_counts_once_and_strangers_do_not_count() -> None:
    twice = msgspec.msgpack.decode(seal(catalogue(), [ONLINE, ONLINE, STRANGER]), type=Signed)
    keys = [ONLINE.public, SECOND.public]
    assert open_signed(msgspec.msgpack.encode(twice), Catalogue, FAMILY, keys).body == catalogue()
    with pytest.raises(SignedRefused, match="1 valid") as refused:
        open_signed(msgspec.msgpack.encode(twice), Catalogue, FAMILY, keys, threshold=2)
    assert refused.value.reason is Reason.SIGNATURE
    both = seal(catalogue(), [STRANGER, SECOND, ONLINE])
    assert open_signed(both, Catalogue, FAMILY, keys, threshold=2).body == catalogue()


def test_bytes_that_are_no_key_sign_nothing() -> None:
    with pytest.raises(SignedRefused, match="0 valid"):
        open_signed(CATALOGUE, Catalogue, FAMILY, [b"\xff" * 32, bytes(32)])


@pytest.mark.parametrize(
    "body",
    [
        catalogue(lifetime=0),
        catalogue(family="a/b"),
        catalogue(versions=()),
        catalogue(versions=(*VERSIONS, VERSIONS[0])),
        catalogue(versions=(*VERSIONS, version("other", VersionState.STABLE))),
        catalogue(versions=(*VERSIONS, version(FAMILY, VersionState.DRAINING))),
        catalogue(versions=(*VERSIONS, version("canary", VersionState.DRAINING))),
        key_set(threshold=2),
        key_set(keys=[ONLINE, ONLINE]),
        key_set(keys=[]),
    ],
)
def test_what_all_would_refuse_is_not_signed(body: Catalogue | KeySet) -> None:
    with pytest.raises(UsageError, match="would be refused everywhere"):
        seal(body, [ONLINE])


def test_a_message_that_is_too_long_is_not_signed() -> None:
    many = tuple(version(f"{number:064}", VersionState.DRAINING) for number in range(31))
    most = catalogue(versions=(*many, VERSIONS[1]), heads="h" * 512)
    assert len(seal(most, [ONLINE])) <= MAX_PAYLOAD
    for keys in ([ONLINE] * 9, [ONLINE] * (MAX_KEYS + 1)):
        with pytest.raises(UsageError, match=f"of {MAX_KEYS} at most, and .* bytes, of {MAX_PAYLOAD}"):
            seal(most, keys)
    with pytest.raises(LocalProtocolError):
        seal(catalogue(), [])


def test_a_key_comes_back_from_its_file_which_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "online.key"
    key = PrivateKey.generate()
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert PrivateKey.load(path).public == key.public
    assert PrivateKey.load(path).sign(b"text") == key.sign(b"text")
    assert key.public.hex() in repr(key)
    with pytest.raises(UsageError, match="is there already"):
        PrivateKey.generate().save(path)
    assert PrivateKey.load(path).public == key.public


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "online.key"
    ONLINE.save(path)
    for mode in (0o640, 0o604, 0o620, 0o666):
        path.chmod(mode)
        with pytest.raises(UsageError, match="chmod 600"):
            PrivateKey.load(path)


def test_a_file_without_such_a_key_is_refused(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = ONLINE._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    for number, (data, said) in enumerate(
        [(b"", "no private key"), (b"-----", "no private key"), (locked, "passphrase"), (other, "Ed25519")]
    ):
        path = tmp_path / str(number)
        path.touch(0o600)
        path.write_bytes(data)
        with pytest.raises(UsageError, match=said):
            PrivateKey.load(path)
    with pytest.raises(UsageError, match="keygen"):
        PrivateKey.load(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be read"):
        PrivateKey.load(tmp_path)
    with pytest.raises(UsageError, match="no key can be written"):
        ONLINE.save(tmp_path / "0" / "below a file")


def test_a_public_key_is_given_as_digits_or_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "root.pub"
    path.write_text(f"{ROOT.public.hex()}\n", "ascii")
    assert read_public(ROOT.public.hex()) == read_public(str(path)) == ROOT.public
    assert read_public(ROOT.public.hex().upper()) == ROOT.public
    path.write_bytes(os.urandom(100))
    for wrong in (str(path), ROOT.public.hex()[1:], "", str(tmp_path), "a\0b"):
        with pytest.raises(UsageError, match="64 hex digits"):
            read_public(wrong)
