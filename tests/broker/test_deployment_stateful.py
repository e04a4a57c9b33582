"""Whatever is done to a deployment with keys, in whatever order: who may do what holds a credential that says so."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.deployment.folder import Deployment
from broker.deployment.secret_keys import KEY_ROLES
from broker.settings import Role
from flexspec_mq.daemon.dated import DAY, LIFETIME
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.documents import read_statement
from flexspec_mq.keys.identity_file import KeyIdentity, read_identity
from schemas.statement import ANY, Statement

NAMES = st.sampled_from(["a", "b", "c", "d"])
ROLES = st.sampled_from([Role.EDGE, Role.WORKER, Role.PUBLISHER])
VERSIONS = st.sampled_from([(), ("v1",), ("v2",), ("v1", "v2")])


class Changes(RuleBasedStateMachine):
    """A deployment, and all that was ever handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1.8e9
        self.deployment = Deployment(self.folder / "d", lambda: self.now)
        self.handed: dict[str, KeyIdentity] = {}
        """By serial."""
        self.void: set[str] = set()
        """Serials that must not hold any more."""
        self.serial = self.expires = 0
        self.purpose = False
        """The statement was signed to hold from now on, by whichever clock: with new keys, or renewed on purpose."""

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def init(self) -> None:
        self.deployment.create("", "h:1", (), client_certificates=False, keys=True)

    @rule(role=ROLES, name=NAMES, versions=VERSIONS)
    def add(self, role: Role, name: str, versions: tuple[str, ...]) -> None:
        before, said = self.deployment.load().clients.get(name), self.statement()
        versions = versions if role is Role.WORKER else ()
        try:
            self.deployment.add(role, [name], versions)
        except UsageError:
            assert before is not None
            assert before.role is not role
            return
        if before is not None and not covers(versions, before.versions):
            self.void.update(before.credentials)
        self.renewed(said)

    @precondition(lambda self: self.deployment.load().clients)
    @rule(data=st.data(), how=st.sampled_from(["revoke", "rotate"]))
    def out(self, data: st.DataObject, how: str) -> None:
        clients, said = self.deployment.load().clients, self.statement()
        name = data.draw(st.sampled_from(sorted(clients)))
        getattr(self.deployment, how)([name])
        self.void.update(clients[name].credentials)
        self.renewed(said)

    @rule(away=st.booleans())
    def out_without_the_key(self, away: bool) -> None:
        """Where the key that signs is kept elsewhere nothing is renewed, and a client is out all the same."""
        keys, safe, said = self.deployment.keys.folder, self.folder / "safe", self.statement()
        self.deployment.add(Role.PUBLISHER, ["z"], ())
        if away:
            said = self.statement()
            keys.rename(safe)
        self.deployment.revoke(["z"])
        if away:
            safe.rename(keys)
            assert self.statement() == said
        else:
            self.renewed(said)

    @rule(days=st.sampled_from((0.5, 1.5, 100, 200, -300)))
    def time_passes(self, days: float) -> None:
        self.now += days * DAY

    @rule()
    def renew(self) -> None:
        said = self.statement()
        self.deployment.renew()
        self.purpose = True
        assert (self.statement().opening, self.statement().revoked) == (said.opening, said.revoked)
        assert self.statement().expires == int(self.now) + LIFETIME

    def renewed(self, before: Statement) -> None:
        """Whatever a command with the key does, its statement holds for the whole time then, but for a day."""
        assert self.statement().expires >= int(self.now) + LIFETIME - DAY
        if before.expires >= int(self.now) + LIFETIME - DAY and self.statement().opening == before.opening:
            assert self.statement() == before or self.statement().revoked != before.revoked

    @rule()
    def rotate_groups(self) -> None:
        self.deployment.rotate_groups()

    @rule()
    def rotate_keys(self) -> None:
        self.void.update(self.handed)
        self.deployment.rotate_keys()
        self.purpose = True

    def statement(self) -> Statement:
        keys = self.deployment.load().keys
        assert keys is not None
        return read_statement(keys.statement, keys.deployment)

    @invariant()
    def what_is_said_never_goes_back(self) -> None:
        if self.deployment.exists:
            said = self.statement()
            assert said.serial >= self.serial
            assert said.expires == self.expires or said.serial > self.serial
            assert said.expires >= self.expires or self.purpose
            self.purpose = False
            self.serial, self.expires = said.serial, said.expires
            pinned = {v for one in self.deployment.load().clients.values() for v in one.versions}
            assert set(said.opening) == {*pinned, ANY}

    @invariant()
    def who_may_do_something_holds_what_says_so(self) -> None:
        if not self.deployment.exists:
            return
        known, said = self.deployment.load(), self.statement()
        assert known.keys is not None
        for name, one in known.clients.items():
            if one.role not in KEY_ROLES:
                assert one.credentials == ()
                continue
            file = self.deployment.directory / "hand-out" / one.role.value / name / "keys.json"
            found = read_identity(file, KEY_ROLES[one.role])
            self.handed[found.credential.serial.hex()] = found
            assert found.deployment == known.keys.deployment
            assert (found.credential.name, found.credential.versions) == (name, one.versions)
            assert one.credentials[-1] == found.credential.serial.hex()
            assert not {bytes.fromhex(serial) for serial in one.credentials} & said.revoked
            if one.role is Role.WORKER:
                # It can open what is sealed to its versions now, and nothing else.
                mine = one.versions or tuple(said.opening)
                assert {v: found.opening.public((v,)).get(v) for v in mine} == {
                    v: said.opening[v] for v in mine
                }
                assert bool(found.opening.master) == (not one.versions)

    @invariant()
    def what_is_void_is_revoked_or_of_no_deployment_any_more(self) -> None:
        if not self.deployment.exists:
            return
        known, said = self.deployment.load(), self.statement()
        assert known.keys is not None
        holding = {serial for one in known.clients.values() for serial in one.credentials}
        assert not holding & self.void
        assert {serial.hex() for serial in said.revoked} <= self.void
        assert len({one.private for one in self.handed.values()}) == len(self.handed)
        for serial in self.void & self.handed.keys():
            of_now = self.handed[serial].deployment == known.keys.deployment
            assert not of_now or bytes.fromhex(serial) in said.revoked


def covers(new: tuple[str, ...], old: tuple[str, ...]) -> bool:
    """Whether who may serve the new versions may serve the old ones; none is any."""
    return not new or (bool(old) and set(old) <= set(new))


Changes.TestCase.settings = settings(
    max_examples=20, stateful_step_count=15, suppress_health_check=[HealthCheck.too_slow]
)
TestChanges = Changes.TestCase
