"""Credentials, statements, and the file that a client is handed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from flexspec_mq.keys.agreement import OpeningSecrets, new_opening_secrets, new_private_key, public_key
from flexspec_mq.keys.documents import (
    DeploymentKey,
    KeyRole,
    issue,
    read_credential,
    read_statement,
    sign_statement,
)
from flexspec_mq.keys.identity_file import KeyIdentity, read_identity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.statement import ANY

NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
OURS, OTHERS = DeploymentKey.generate(), DeploymentKey.generate()
PUBLIC = public_key(new_private_key())
UNTIL = 2_000_000_000


@given(NAMES, st.lists(NAMES, max_size=32))
def test_a_credential_says_what_was_signed(name: str, versions: list[str]) -> None:
    credential = read_credential(issue(OURS, KeyRole.WORKER, name, PUBLIC, tuple(versions)), OURS.public)
    assert (credential.role, credential.name, credential.versions) == (KeyRole.WORKER, name, tuple(versions))
    assert credential.key == PUBLIC
    assert credential.serves("any-at-all") is (not versions or "any-at-all" in versions)


def test_a_device_serves_nothing() -> None:
    assert not read_credential(issue(OURS, KeyRole.EDGE, "d", PUBLIC), OURS.public).serves("v")
    with pytest.raises(UsageError, match="serves no versions"):
        issue(OURS, KeyRole.EDGE, "d", PUBLIC, ("v",))


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    signed = issue(OURS, KeyRole.EDGE, "kitchen", PUBLIC)
    place = data.draw(st.integers(0, len(signed) - 1))
    changed = bytearray(signed)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(KeysRefused) as refused:
        read_credential(bytes(changed), OURS.public)
    assert refused.value.reason is KeyReason.CREDENTIAL
    with pytest.raises(KeysRefused):
        read_credential(signed[:place], OURS.public)


@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    for read in (read_credential, read_statement):
        with pytest.raises(KeysRefused):
            read(noise, OURS.public)


def test_another_deployment_or_another_kind_is_not_believed() -> None:
    credential = issue(OURS, KeyRole.EDGE, "d", PUBLIC)
    statement = sign_statement(OURS, 1, {}, (), UNTIL)
    for read, payload, key in (
        (read_credential, credential, OTHERS),
        (read_statement, statement, OTHERS),
        (read_credential, statement, OURS),
        (read_statement, credential, OURS),
    ):
        with pytest.raises(KeysRefused, match="not signed by this deployment"):
            read(payload, key.public)


def test_a_later_format_says_to_update() -> None:
    later = OURS.signed(b"flexspec credential 1\0", b"\x91\x02")
    with pytest.raises(KeysRefused) as refused:
        read_credential(later, OURS.public)
    assert "update" in refused.value.hint


@given(st.integers(1, 2**53), st.sets(st.binary(min_size=8, max_size=8), max_size=40))
def test_a_statement_says_what_was_signed(serial: int, revoked: set[bytes]) -> None:
    secrets = new_opening_secrets()
    statement = read_statement(
        sign_statement(OURS, serial, secrets.public(["v1", "v2"]), revoked, UNTIL), OURS.public
    )
    assert (statement.serial, statement.expires) == (serial, UNTIL)
    assert statement.revoked == revoked
    for version, named in (("v1", "v1"), ("v2", "v2"), ("v3", ANY)):
        private = secrets.private_key(named)
        assert private is not None
        assert statement.opening_of(version) == public_key(private)


def test_a_worker_of_some_versions_knows_no_key_of_others() -> None:
    secrets = new_opening_secrets()
    pinned = secrets.only(["v1"])
    assert pinned.candidates("v1") == (secrets.private_key("v1"),)
    assert pinned.candidates("v2") == ()
    assert secrets.candidates("v2") == (secrets.private_key("v2"), secrets.private_key(ANY))
    assert len({secrets.private_key(version) for version in ("v1", "v2", ANY)}) == 3
    with pytest.raises(UsageError, match="not known"):
        pinned.only(["v2"])
    assert "master" not in repr(secrets)


def test_a_deployment_key_is_itself_after_pem() -> None:
    again = DeploymentKey.from_pem(OURS.pem())
    assert again.public == OURS.public
    assert read_statement(sign_statement(again, 1, {}, (), UNTIL), OURS.public).serial == 1
    with pytest.raises(ValueError, match="PEM"):
        DeploymentKey.from_pem(b"no key")


@pytest.mark.parametrize("versions", [(), ("v1", "v2")])
def test_a_file_holds_all_that_a_client_needs(tmp_path: Path, versions: tuple[str, ...]) -> None:
    secrets = new_opening_secrets()
    statement = sign_statement(OURS, 4, secrets.public(versions), (), UNTIL)
    made = KeyIdentity.make(OURS, KeyRole.WORKER, "w1", statement, versions=versions, opening=secrets)
    path = _written(tmp_path, made.text())
    assert read_identity(path, KeyRole.WORKER) == made
    assert made.opening == secrets.only(versions)
    assert made.private.hex() not in repr(made)
    assert str(made.private) not in repr(made)


def test_a_file_of_a_device_holds_no_opening_secret(tmp_path: Path) -> None:
    made = KeyIdentity.make(OURS, KeyRole.EDGE, "d", sign_statement(OURS, 1, {}, (), UNTIL))
    found = read_identity(_written(tmp_path, made.text()), KeyRole.EDGE)
    assert found.opening == OpeningSecrets()
    assert "opening" not in json.loads(made.text())


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    made = KeyIdentity.make(OURS, KeyRole.EDGE, "d", sign_statement(OURS, 1, {}, (), UNTIL))
    other = KeyIdentity.make(OURS, KeyRole.EDGE, "e", sign_statement(OURS, 1, {}, (), UNTIL))
    swapped = json.loads(made.text()) | {"private": json.loads(other.text())["private"]}
    theirs = KeyIdentity.make(OTHERS, KeyRole.EDGE, "d", sign_statement(OTHERS, 1, {}, (), UNTIL))
    foreign = json.loads(made.text()) | {"deployment": json.loads(theirs.text())["deployment"]}
    for text, why in (
        ("", "holds no keys"),
        ("{}", "holds no keys"),
        (json.dumps(swapped), "none of the credential"),
        (json.dumps(foreign), "not signed by this deployment"),
    ):
        with pytest.raises(UsageError, match=why) as refused:
            read_identity(_written(tmp_path, text), KeyRole.EDGE)
        assert "flexspec-broker" in refused.value.hint
    worker = KeyIdentity.make(OURS, KeyRole.WORKER, "w", sign_statement(OURS, 1, {}, (), UNTIL))
    unsigned = {key: of for key, of in json.loads(worker.text()).items() if key != "status"}
    with pytest.raises(UsageError, match="holds no keys of a client"):
        read_identity(_written(tmp_path, json.dumps(unsigned)), KeyRole.WORKER, "w")
    with pytest.raises(UsageError, match="those of the edge d, and this is the worker"):
        read_identity(_written(tmp_path, made.text()), KeyRole.WORKER)
    path = _written(tmp_path, made.text())
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others than its owner"):
        read_identity(path, KeyRole.EDGE)
    with pytest.raises(UsageError, match="cannot be read"):
        read_identity(tmp_path / "missing", KeyRole.EDGE)


def _written(folder: Path, text: str) -> Path:
    path = folder / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    return path
