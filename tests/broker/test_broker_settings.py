"""Broker settings: those that are refused, and the configuration files that the others are rendered to."""

import stat
from pathlib import Path

import pytest

from broker.access import AccessRules
from broker.config import config_text, render
from broker.deployment.certificates import files_in, make_certificates
from broker.launcher import mosquitto
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.settings.values import is_loopback

ALICE = User("alice", Role.EDGE, hashed("secret-a"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "broker.example.org"])  # noqa: S104
def test_beyond_loopback_needs_tls_and_users_or_the_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no TLS and no users"):
        render(BrokerSettings(host=host), tmp_path)
    with pytest.raises(UsageError, match="no TLS"):
        render(BrokerSettings(host=host, users=(ALICE,)), tmp_path)
    assert not list(tmp_path.iterdir())
    assert render(BrokerSettings(host=host, insecure_anywhere=True), tmp_path).exists()
    tls = make_certificates(tmp_path / "tls", [host])
    with pytest.raises(UsageError, match="no users"):
        render(BrokerSettings(host=host, tls=tls), tmp_path)
    assert render(BrokerSettings(host=host, tls=tls, users=(ALICE,)), tmp_path).exists()


def test_loopback_is_known() -> None:
    assert all(is_loopback(h) for h in ("127.0.0.1", "127.8.9.1", "::1", "localhost"))
    assert not any(is_loopback(h) for h in ("10.0.0.1", "", "localhost.example.org", "0.0.0.0"))  # noqa: S104


def test_anybody_is_let_in_only_where_there_are_no_users(tmp_path: Path) -> None:
    assert "allow_anonymous true" in config_text(BrokerSettings(), tmp_path)
    for users in ((ALICE,), ()):
        assert "allow_anonymous false" in config_text(BrokerSettings(users=users), tmp_path)


def test_tls_is_version_1_3_and_knows_what_is_revoked(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"])
    tls = files_in(tmp_path, client_certificates=True)
    lines = config_text(BrokerSettings(users=(ALICE,), tls=tls), tmp_path).splitlines()
    assert {"tls_version tlsv1.3", "require_certificate true", f"crlfile {tls.revoked}"} <= set(lines)


def test_files_are_private_and_passwords_hashed(tmp_path: Path) -> None:
    directory = tmp_path / "etc"
    render(BrokerSettings(users=(ALICE,)), directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "secret-a" not in path.read_text()
    assert (directory / "passwords").read_text().startswith("alice:$7$")


def test_bad_users_are_refused(tmp_path: Path) -> None:
    for name in ("", "a/b", "+", "#", "a b", "x" * 65, "a\nuser b"):
        with pytest.raises(UsageError, match="cannot stand in a topic"):
            User(name, Role.EDGE, hashed("x"))
    with pytest.raises(BrokerError, match="share a name"):
        render(BrokerSettings(users=(ALICE, User("alice", Role.WORKER, hashed("x")))), tmp_path)
    for password in ("", "a\nmallory:x"):
        with pytest.raises(BrokerError, match="password"):
            render(BrokerSettings(users=(User("bob", Role.EDGE, hashed(password)),)), tmp_path)


def test_what_a_device_may_write_is_spelled_out_where_it_is_known() -> None:
    def written(*users: User) -> set[str]:
        rules = AccessRules([ALICE, *users]).rules_of("alice")
        return {rule.topic for rule in rules if "write" in rule.verb}

    own = {"f1/e/alice", "f1/r/alice/check", "f1/r/alice/checka", "f1/r/alice/checkb", "f1/a/alice"}
    own.add("homeassistant/device/flexspec-alice/config")
    pinned = User("w1", Role.WORKER, hashed("x"), ("v1", "v2"))
    known = {"f1/o/v1/alice", "f1/o/v2/alice", "f1/d/w1/alice", "f1/g/w1/alice", "f1/b/w1/alice"}
    assert written() == own | {f"f1/{letter}/+/alice" for letter in "odgb"}
    assert written(pinned) == own | known
    of_any_version = User("w2", Role.WORKER, hashed("x"))
    of_both = {f"f1/{letter}/w{number}/alice" for letter in "dgb" for number in (1, 2)}
    assert written(pinned, of_any_version) == own | {"f1/o/+/alice"} | of_both
    asker = User("hub", Role.ASKER, hashed("x"), edges=("bob",))
    assert written(pinned, asker) == own | known
    asker = User("hub", Role.ASKER, hashed("x"), edges=("alice", "bob"))
    assert written(pinned, asker) == own | known | {"f1/answer/hub/alice/#"}


def test_devices_share_their_rules() -> None:
    """With lines for each of 10,000, Mosquitto takes seconds to read the file, at each change of the clients."""
    worker = User("w1", Role.WORKER, hashed("x"), ("v1",))
    devices = (User(f"d{number}", Role.EDGE, ALICE.password) for number in range(10_000))
    assert AccessRules([worker, *devices]).file() == AccessRules([worker, ALICE]).file()


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.launcher.shutil.which", lambda *_a, **_k: None)
    with pytest.raises(BrokerError, match="not installed") as missing:
        mosquitto()
    assert "apt install mosquitto" in missing.value.hint
