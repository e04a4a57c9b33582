"""Both ends of a session and everybody between: who can make what, and what is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexspec_mq.codec import Codec
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.agreement import new_opening_secrets
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import cipher, enveloped, read_envelope
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.worker import WorkerKeys
from schemas.messages import Close, CloseReason, Draft, Fin, Identity, Open, Poll, Verdict
from tests.keys.deployments_of_keys import KeyedDeployment

CODEC = Codec()
IDENTITY = Identity(1, bytes(16), 0.0, 0, 1.0, 1, (2,), False, 64)
MODES = pytest.mark.parametrize("seal", [False, True])


def an_open(session: int = 7, attempt: int = 1) -> Open:
    return Open(session, attempt, IDENTITY, (30, 216, 34), (), 0, 1, ())


def a_poll(session: int = 7, seq: int = 2) -> Poll:
    return Poll(session, 1, seq, 0, 0, 5, (), 0)


def a_draft(session: int = 7, seq: int = 2) -> Draft:
    return Draft(session, 1, seq, 9, 2, 5, (198, 30), 12, 3)


def a_verdict(session: int = 7, start: int = 0) -> bytes:
    return CODEC.encode(Verdict(session, 1, 1, start, (198, 30), 5, Fin.NONE, 3, 61))


class Ends:
    """A device and its workers, joined by whoever carries the payloads."""

    def __init__(self, folder: Path, *, seal: bool = True) -> None:
        self.keys = KeyedDeployment(folder)
        self.seal = seal
        self.edge = EdgeKeys(self.keys.edge("kitchen"), seal=seal)
        self.identities = {name: self.keys.worker(name) for name in ("w1", "w2")}
        self.workers = {name: self.restarted(name) for name in self.identities}

    def restarted(self, name: str) -> WorkerKeys:
        return WorkerKeys(self.identities[name], lease=60, capacity=4)

    def send(
        self, message: Open | Draft | Poll | Close, worker: str | None = None, now: float = 0.0
    ) -> bytes:
        if isinstance(message, Open) and message.attempt == 1:
            self.edge.begin(message.session, "base")
        return self.edge.wrap(message, worker, CODEC.encode(message), now)

    def opened(self, worker: str = "w1", session: int = 7) -> bytes:
        """Open a session at a worker; returns its first verdict, as it travels."""
        self.arrives(worker, self.send(an_open(session)), "base")
        return self.answer(worker, session)

    def arrives(self, worker: str, payload: bytes, version: str | None = None, now: float = 0.0) -> bytes:
        return self.workers[worker].unwrap("kitchen", version, payload, now)[0]

    def answer(self, worker: str, session: int = 7, start: int = 0) -> bytes:
        return self.workers[worker].wrap("kitchen", session, a_verdict(session, start), 0.0)

    def refused(self, payload: bytes) -> KeyReason:
        with pytest.raises(KeysRefused) as refused:
            self.edge.unwrap(payload, 0.0)
        return refused.value.reason

    def refused_by(
        self, worker: str, payload: bytes, version: str | None = None, edge: str = "kitchen"
    ) -> KeyReason:
        with pytest.raises(KeysRefused) as refused:
            self.workers[worker].unwrap(edge, version, payload, 0.0)
        return refused.value.reason


@MODES
def test_a_session_is_written_under_keys(tmp_path: Path, seal: bool) -> None:
    ends = Ends(tmp_path, seal=seal)
    opening = ends.send(an_open())
    assert ends.arrives("w1", opening, "base") == CODEC.encode(an_open())
    hello = ends.edge.unwrap(ends.answer("w1"), 0.0)
    assert (hello.plain, hello.session, hello.worker) == (a_verdict(), 7, "w1")
    poll = ends.send(a_poll(), "w1")
    assert ends.arrives("w1", poll) == CODEC.encode(a_poll())
    later = ends.answer("w1", start=2)
    assert ends.edge.unwrap(later, 0.0).plain == a_verdict(start=2)
    assert (CODEC.encode(an_open())[1:] in opening) is not seal
    more = 22 if seal else 14
    assert len(poll) - len(CODEC.encode(a_poll())) == more
    assert len(later) - len(a_verdict()) == more


def test_a_worker_is_introduced_until_its_device_has_the_key(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    first = ends.opened()
    second = ends.answer("w1", start=2)
    assert read_envelope(first).introduction == read_envelope(second).introduction
    # The first is lost.
    assert ends.edge.unwrap(second, 0.0).worker == "w1"
    assert read_envelope(ends.answer("w1")).introduction is not None
    ends.arrives("w1", ends.send(a_poll(), "w1"))
    assert read_envelope(ends.answer("w1")).introduction is None
    ends.arrives("w1", ends.send(an_open(attempt=2)), "base")
    assert read_envelope(ends.answer("w1")).introduction is not None


@MODES
def test_nobody_else_makes_a_verdict(tmp_path: Path, seal: bool) -> None:
    """Neither a worker of another deployment, nor who turns a device's own messages round, nor who has no key."""
    ends = Ends(tmp_path, seal=seal)
    hello = ends.opened("w1")
    ends.edge.unwrap(hello, 0.0)
    other = KeyedDeployment(tmp_path)
    stranger = EdgeKeys(other.edge("kitchen"), seal=seal)
    stranger.begin(7, "base")
    forger = WorkerKeys(other.worker("w1"), lease=60, capacity=4)
    forger.unwrap("kitchen", "base", stranger.wrap(an_open(), None, CODEC.encode(an_open()), 0.0), 0.0)
    assert ends.refused(forger.wrap("kitchen", 7, a_verdict(), 0.0)) is KeyReason.CREDENTIAL
    mine = read_envelope(hello).introduction
    assert mine is not None
    for key in (bytes(32), mine.key):
        for introduction in (None, mine):
            made = enveloped(
                cipher(key, sealed=seal), a_verdict(), session=7, counter=9, introduction=introduction
            )
            assert ends.refused(made) is KeyReason.FORGED
    assert ends.refused(ends.send(a_poll(), "w1")) is KeyReason.FORGED
    assert ends.refused(ends.send(an_open(attempt=2))) is KeyReason.CREDENTIAL
    assert ends.refused(a_verdict()) is KeyReason.UNKEYED


def test_another_worker_that_was_asked_speaks_for_itself_alone(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    opening = ends.send(an_open())
    for worker in ("w1", "w2"):
        ends.arrives(worker, opening, "base")
        assert ends.edge.unwrap(ends.answer(worker), 0.0).worker == worker
    poll = ends.send(a_poll(), "w1")
    assert ends.refused_by("w2", poll) is KeyReason.FORGED
    ends.arrives("w1", poll)
    assert ends.edge.unwrap(ends.answer("w2"), 0.0).worker == "w2"


@MODES
def test_a_message_counts_once(tmp_path: Path, seal: bool) -> None:
    ends = Ends(tmp_path, seal=seal)
    hello = ends.opened()
    ends.edge.unwrap(hello, 0.0)
    assert ends.refused(hello) is KeyReason.REPLAYED
    poll, opening = ends.send(a_poll(), "w1"), ends.send(an_open(attempt=2))
    for payload, version in ((poll, None), (opening, "base")):
        ends.arrives("w1", payload, version)
        assert ends.refused_by("w1", payload, version) is KeyReason.REPLAYED
    late, later = ends.answer("w1", start=2), ends.answer("w1", start=4)
    for payload in (later, late):
        ends.edge.unwrap(payload, 0.0)
    assert ends.refused(late) is KeyReason.REPLAYED


@MODES
def test_a_message_is_of_its_session_alone(tmp_path: Path, seal: bool) -> None:
    ends = Ends(tmp_path, seal=seal)
    for session in (7, 8):
        ends.edge.unwrap(ends.opened(session=session), 0.0)
    up, down = ends.send(a_poll(7), "w1"), ends.answer("w1", 7)

    def moved(payload: bytes) -> bytes:
        return payload[:2] + (8).to_bytes(4, "little") + payload[6:]

    assert ends.refused(moved(down)) is KeyReason.FORGED
    assert ends.refused_by("w1", moved(up)) is KeyReason.FORGED
    assert ends.refused_by("w1", moved(ends.send(an_open(7, 2))), "base") is KeyReason.FORGED
    assert ends.refused(down[:2] + (9).to_bytes(4, "little") + down[6:]) is KeyReason.NO_KEY


def test_an_open_is_for_its_version_and_of_its_device(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    opening = ends.send(an_open())
    assert ends.refused_by("w1", opening, "next") is KeyReason.FORGED
    assert ends.refused_by("w1", opening, "base", edge="cellar") is KeyReason.CREDENTIAL
    pinned = WorkerKeys(ends.keys.worker("w3", "next"), lease=60, capacity=4)
    with pytest.raises(KeysRefused, match="lacks the opening key of base") as refused:
        pinned.unwrap("kitchen", "base", opening, 0.0)
    assert refused.value.reason is KeyReason.OPENING
    ends.arrives("w1", opening)  # on its own topic, which names no version


def test_a_worker_is_believed_for_its_versions_only(tmp_path: Path) -> None:
    """One that was given the opening key of another version by accident is not believed for it."""
    ends = Ends(tmp_path)
    pinned = ends.keys.worker("w3", "next")
    object.__setattr__(pinned, "opening", ends.keys.opening)
    ends.workers["w3"] = WorkerKeys(pinned, lease=60, capacity=4)
    assert ends.refused(ends.opened("w3")) is KeyReason.CREDENTIAL


def test_a_session_belongs_to_who_opened_it(tmp_path: Path) -> None:
    """Workers of a version share its opening key, so that one could make an open as if from a device."""
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    again = EdgeKeys(ends.keys.edge("kitchen"))
    again.begin(7, "base")
    stolen = again.wrap(an_open(attempt=2), None, CODEC.encode(an_open(attempt=2)), 0.0)
    assert ends.refused_by("w1", stolen, "base") is KeyReason.FORGED
    ends.arrives("w1", ends.send(a_poll(), "w1"))


def test_a_restarted_worker_asks_for_the_key_and_gets_it(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    ends.workers["w1"] = ends.restarted("w1")
    draft = ends.send(a_draft(), "w1")
    assert ends.refused_by("w1", draft) is KeyReason.NO_KEY
    wanted = ends.workers["w1"].wanted("kitchen", draft, 0.0)
    assert wanted is not None
    assert ends.edge.wanted(wanted) == 7
    assert ends.workers["w1"].wanted("kitchen", draft, 0.1) is None
    again = ends.edge.poll_for_key(7, 0.0)
    assert again is not None
    worker, asks = again
    assert worker == "w1"
    assert asks == Poll(7, 1, 2, 9, -9, 0, (), 12, 3)  # no token, and nothing that was computed from any
    payload = ends.edge.introduced(7, CODEC.encode(asks))
    assert ends.arrives("w1", payload) == CODEC.encode(asks)
    assert ends.edge.unwrap(ends.answer("w1"), 0.0).worker == "w1"
    ends.arrives("w1", ends.send(a_poll(seq=3), "w1"))
    assert ends.edge.poll_for_key(99, 0.0) is None


def test_each_draft_is_asked_about_once_and_not_too_often(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    assert ends.edge.poll_for_key(7, 0.0) is None  # nothing was sent yet
    ends.send(a_poll(), "w1")
    assert ends.edge.poll_for_key(7, 0.0) is not None
    assert ends.edge.poll_for_key(7, 9.0) is None
    ends.send(a_draft(seq=3), "w1")
    assert ends.edge.poll_for_key(7, 9.0) is not None
    ends.send(a_draft(seq=4), "w1")
    assert ends.edge.poll_for_key(7, 9.1) is None
    assert ends.edge.poll_for_key(7, 9.3) is not None


def test_no_draft_goes_under_the_opening_key(tmp_path: Path) -> None:
    """It is for one worker; under the key of opens all of the version could read it, and who steals a file later."""
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened("w1"), 0.0)
    for message in (a_draft(), a_poll()):
        with pytest.raises(KeysRefused, match="no key with worker w2") as refused:
            ends.send(message, "w2")
        assert refused.value.reason is KeyReason.NO_KEY


def test_a_close_is_not_sent_again(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    ends.send(Close(7, 1, 0, CloseReason.ELSEWHERE), "w2")
    assert ends.edge.poll_for_key(7, 0.0) is None


def test_keys_outlast_the_text_for_a_while(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    late = ends.opened()
    ends.edge.ended(7, 0.0)
    assert ends.edge.unwrap(late, 59.0).worker == "w1"
    close = ends.send(Close(7, 1, 0, CloseReason.DONE), "w1", now=59.0)
    assert ends.arrives("w1", close)
    with pytest.raises(KeysRefused) as refused:
        ends.edge.unwrap(ends.answer("w1"), 61.0)
    assert refused.value.reason is KeyReason.NO_KEY
    with pytest.raises(KeysRefused):
        ends.send(Close(7, 1, 0, CloseReason.DONE), "w1", now=61.0)


def test_a_worker_keeps_keys_longer_than_sessions(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"), now=100.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"), now=279.0)
    with pytest.raises(KeysRefused) as refused:
        ends.workers["w1"].unwrap("kitchen", None, ends.send(a_poll(), "w1"), 279.0 + 181.0)
    assert refused.value.reason is KeyReason.NO_KEY


def test_a_device_takes_no_other_devices_keys_away(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened(), 0.0)
    greedy = EdgeKeys(ends.keys.edge("greedy"))
    for session in range(400):
        greedy.begin(session, "base")
        message = an_open(session)
        payload = greedy.wrap(message, None, CODEC.encode(message), 0.0)
        ends.workers["w1"].unwrap("greedy", "base", payload, 0.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"))
    with pytest.raises(KeysRefused):
        ends.workers["w1"].wrap("greedy", 0, a_verdict(0), 0.0)
    assert ends.workers["w1"].wrap("greedy", 399, a_verdict(399), 0.0)


def test_a_worker_pushes_no_other_workers_keys_out(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    opening = ends.send(an_open())
    ends.arrives("w1", opening, "base")
    ends.edge.unwrap(ends.answer("w1"), 0.0)
    for _ in range(20):
        ends.workers["w2"] = ends.restarted("w2")
        ends.arrives("w2", opening, "base")
        ends.edge.unwrap(ends.answer("w2"), 0.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"))
    assert ends.edge.unwrap(ends.answer("w1"), 0.0).worker == "w1"


def test_an_earlier_life_of_a_worker_does_not_come_back(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    opening = ends.send(an_open())
    lives = []
    for _ in range(4):
        ends.workers["w1"] = ends.restarted("w1")
        ends.arrives("w1", opening, "base")
        lives.append(ends.answer("w1"))
        ends.edge.unwrap(lives[-1], 0.0)
    for copy in lives:
        assert ends.refused(copy) is KeyReason.REPLAYED
    ends.arrives("w1", ends.send(a_poll(), "w1"))


@MODES
def test_tags_are_no_seals(tmp_path: Path, seal: bool) -> None:
    """Nobody can have one side send in the clear what the other wants sealed."""
    ends = Ends(tmp_path, seal=seal)
    ends.edge.unwrap(ends.opened(), 0.0)
    other = EdgeKeys(ends.keys.edge("kitchen"), seal=not seal)
    other.begin(7, "base")
    poll = other.wrap(an_open(), None, CODEC.encode(an_open()), 0.0)
    assert ends.refused_by("w1", poll, "base") is KeyReason.FORGED
    for payload, refused in (
        (ends.answer("w1"), ends.refused),
        (ends.send(a_poll(), "w1"), lambda payload: ends.refused_by("w1", payload)),
    ):
        turned = bytes((payload[0], payload[1] ^ 0x10)) + payload[2:]
        assert refused(turned) is KeyReason.FORGED


def test_revoked_identities_are_refused(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened("w1"), 0.0)
    late = ends.answer("w1")
    revocation = ends.keys.revoke("w1").payload
    assert ends.edge.trust.take(revocation)
    assert ends.refused(late) is KeyReason.REVOKED
    with pytest.raises(KeysRefused) as refused:
        ends.send(a_poll(), "w1")
    assert refused.value.reason is KeyReason.REVOKED
    ends.arrives("w2", ends.send(an_open(attempt=2)), "base")
    assert ends.edge.unwrap(ends.answer("w2"), 0.0).worker == "w2"
    ends.workers["w2"].trust.take(ends.keys.revoke("kitchen").payload)
    assert ends.refused_by("w2", ends.send(a_poll(), "w2")) is KeyReason.NO_KEY
    assert ends.refused_by("w2", ends.send(an_open(attempt=3)), "base") is KeyReason.REVOKED


def test_a_worker_with_a_new_credential_is_taken_up_again(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened("w1"), 0.0)
    ends.edge.trust.take(ends.keys.revoke("w1").payload)
    ends.identities["w1"] = ends.keys.worker("w1")
    ends.workers["w1"] = ends.restarted("w1")
    ends.arrives("w1", ends.send(an_open(attempt=2)), "base")
    ends.edge.unwrap(ends.answer("w1"), 0.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"))


def test_new_opening_keys_are_for_texts_that_go_on_too(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened("w1"), 0.0)
    ends.keys.opening, ends.keys.serial = new_opening_secrets(), 2
    ends.edge.trust.take(ends.keys.published().payload)
    assert ends.refused_by("w1", ends.send(an_open(attempt=2)), "base") is KeyReason.FORGED
    assert ends.refused_by("w2", ends.send(an_open(attempt=3)), "base") is KeyReason.FORGED
    assert not ends.workers["w2"].outdated("base")
    ends.workers["w2"].trust.take(ends.keys.published().payload)
    assert ends.workers["w2"].outdated("base")
    assert ends.refused_by("w2", ends.send(an_open(attempt=4)), "base") is KeyReason.OPENING
    ends.arrives("w1", ends.send(a_poll(), "w1"))
    ends.workers["w2"] = WorkerKeys(ends.keys.worker("w2"), lease=60, capacity=4)
    ends.arrives("w2", ends.send(an_open(attempt=5)), "base")
    assert ends.edge.unwrap(ends.answer("w2"), 0.0).worker == "w2"


def test_a_worker_that_holds_a_session_follows_its_version_to_a_key_of_its_own(tmp_path: Path) -> None:
    """A statement that names the version for the first time changes the key that a device opens it under."""
    ends = Ends(tmp_path)
    ends.edge.unwrap(ends.opened("w1"), 0.0)
    ends.keys.versions, ends.keys.serial = ("base",), 2
    ends.edge.trust.take(ends.keys.published().payload)
    for attempt in (2, 3):
        ends.arrives("w1", ends.send(an_open(attempt=attempt)), "base")
    ends.arrives("w1", ends.send(a_poll(), "w1"))


def test_no_older_statement_is_taken(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    trust = ends.edge.trust
    before = ends.keys.statement()
    assert not trust.take(before)
    newer = ends.keys.revoke("kitchen").payload
    assert trust.take(newer)
    assert trust.revoked
    assert not trust.take(newer)
    ends.keys.revoked.clear()
    for payload in (
        before,
        ends.keys.statement(),
        b"",
        b"noise",
        KeyedDeployment(tmp_path, serial=9).statement(),
    ):
        with pytest.raises(KeysRefused) as refused:
            trust.take(payload)
        assert refused.value.reason is KeyReason.STATEMENT
    assert trust.revoked


def test_a_version_without_an_opening_key_is_said_to_have_none(tmp_path: Path) -> None:
    keys = KeyedDeployment(tmp_path)
    keys.opening = keys.opening.only(["next"])
    with pytest.raises(UsageError, match="no opening key for version base"):
        EdgeKeys(keys.edge()).begin(7, "base")
