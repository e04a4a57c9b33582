"""Both ends of a session and everybody between: who can make what, and what is believed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError, UsageError
from flexspec_mq.keys.agreement import new_opening_secrets
from flexspec_mq.keys.documents import Credential
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import SEAL, STEP, Sealer, enveloped, read_envelope
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.worker import WorkerKeys
from schemas.messages import (
    MAX_ANSWERS,
    Close,
    CloseReason,
    Draft,
    Fin,
    Identity,
    Open,
    Poll,
    Sampling,
    Verdict,
)
from schemas.status import WorkerStatus
from tests.keys.deployments_of_keys import KeyedDeployment, status_by

CODEC = Codec()
IDENTITY = Identity(2, bytes(16), Sampling(seed=1), (2,), False, 64)


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

    def __init__(self, folder: Path) -> None:
        self.keys = KeyedDeployment(folder)
        self.edge = EdgeKeys(self.keys.edge("kitchen"))
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
        return reason(lambda: self.edge.unwrap(payload, 0.0))

    def refused_by(
        self, worker: str, payload: bytes, version: str | None = None, edge: str = "kitchen"
    ) -> KeyReason:
        return reason(lambda: self.workers[worker].unwrap(edge, version, payload, 0.0))


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.fixture
def met(ends: Ends) -> Ends:
    """A device that has read the accept of `w1`."""
    ends.edge.unwrap(ends.opened(), 0.0)
    return ends


def reason(call: Callable[[], object]) -> KeyReason:
    """Why something is not believed."""
    with pytest.raises(KeysRefused) as refused:
        call()
    return refused.value.reason


def test_a_session_is_written_under_keys(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    opening = ends.send(an_open())
    assert ends.arrives("w1", opening, "base") == CODEC.encode(an_open())
    accept = ends.edge.unwrap(ends.answer("w1"), 0.0)
    assert (accept.plain, accept.session, accept.worker) == (a_verdict(), 7, "w1")
    poll = ends.send(a_poll(), "w1")
    assert ends.arrives("w1", poll) == CODEC.encode(a_poll())
    later = ends.answer("w1", start=2)
    assert ends.edge.unwrap(later, 0.0).plain == a_verdict(start=2)
    assert CODEC.encode(an_open())[1:] not in opening
    assert len(poll) == len(later) == 1 + 1 + 4 + 1 + STEP + SEAL  # marker, kind, session, counter


def test_a_worker_is_introduced_until_its_device_has_the_key(ends: Ends) -> None:
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


def test_a_worker_that_sends_more_than_its_session_asked_for_is_named(met: Ends) -> None:
    for _ in range(MAX_ANSWERS - 1):  # beside the accept
        assert met.edge.unwrap(met.answer("w1"), 0.0).worker == "w1"
    with pytest.raises(KeysRefused, match="worker w1 in session 7, which was asked 1 times") as refused:
        met.edge.unwrap(met.answer("w1"), 0.0)
    assert refused.value.reason is KeyReason.UNASKED
    met.send(a_poll(), "w1")
    for _ in range(MAX_ANSWERS - 1):
        met.edge.unwrap(met.answer("w1"), 0.0)
    assert met.refused(met.answer("w1")) is KeyReason.UNASKED


def test_what_is_left_for_a_device_is_read_after_it_has_restarted(met: Ends) -> None:
    met.arrives("w1", met.send(a_poll(), "w1"))
    private = met.edge.private(7)
    answer, left = (
        met.workers["w1"].wrap("kitchen", 7, a_verdict(), 0.0, introduced=introduced)
        for introduced in (False, True)
    )
    device = met.keys.edge("kitchen")
    for identity, read in ((met.edge._identity, True), (device, False)):
        met.edge = EdgeKeys(identity)
        assert met.refused(left) is KeyReason.NO_KEY
        met.edge.begin(7, "base", private, 1 << 22)
        assert met.refused(answer) is KeyReason.NO_KEY
        if read:
            assert met.edge.unwrap(left, 0.0).plain == a_verdict()
            assert met.edge.unwrap(answer, 0.0).plain == a_verdict(), "the key is known again"
            assert met.refused(left) is KeyReason.REPLAYED
            assert met.arrives("w1", met.send(a_poll(seq=3), "w1")) == CODEC.encode(a_poll(seq=3))
        else:
            assert met.refused(left) is KeyReason.FORGED, "another device of this name cannot read it"


def test_the_key_of_a_promised_answer_is_kept_however_long_that_takes(met: Ends) -> None:
    worker, late = met.workers["w1"], 60 + 120.0 + 1
    worker.keep("kitchen", 7, 0.0)
    assert read_envelope(worker.wrap("kitchen", 7, a_verdict(), 10 * late)).counter == 2
    worker.forget("kitchen", 7)
    with pytest.raises(KeysRefused, match="no key here any more"):
        worker.wrap("kitchen", 7, a_verdict(), 10 * late)
    met.arrives("w1", met.send(an_open(session=8)), "base")
    worker.keep("kitchen", 8, 0.0)
    worker.trust.take(met.keys.revoke("kitchen").payload)
    with pytest.raises(KeysRefused, match="no key here any more"):
        worker.wrap("kitchen", 8, a_verdict(8), 0.0)


def test_nobody_else_makes_a_verdict(tmp_path: Path) -> None:
    """Neither a worker of another deployment, nor who turns a device's own messages round, nor who has no key."""
    ends = Ends(tmp_path)
    accept = ends.opened("w1")
    ends.edge.unwrap(accept, 0.0)
    other = KeyedDeployment(tmp_path)
    stranger = EdgeKeys(other.edge("kitchen"))
    stranger.begin(7, "base")
    forger = WorkerKeys(other.worker("w1"), lease=60, capacity=4)
    forger.unwrap("kitchen", "base", stranger.wrap(an_open(), None, CODEC.encode(an_open()), 0.0), 0.0)
    assert ends.refused(forger.wrap("kitchen", 7, a_verdict(), 0.0)) is KeyReason.CREDENTIAL
    mine = read_envelope(accept).introduction
    assert mine is not None
    for key in (bytes(32), mine.key):
        for introduction in (None, mine):
            made = enveloped(Sealer(key), a_verdict(), session=7, counter=9, introduction=introduction)
            assert ends.refused(made) is KeyReason.FORGED
    assert ends.refused(ends.send(a_poll(), "w1")) is KeyReason.FORGED
    assert ends.refused(ends.send(an_open(attempt=2))) is KeyReason.CREDENTIAL
    assert ends.refused(a_verdict()) is KeyReason.UNKEYED


def test_an_open_is_for_its_version_and_of_its_device(ends: Ends) -> None:
    opening = ends.send(an_open())
    assert ends.refused_by("w1", opening, "next") is KeyReason.FORGED
    assert ends.refused_by("w1", opening, "base", edge="cellar") is KeyReason.CREDENTIAL
    pinned = WorkerKeys(ends.keys.worker("w3", "next"), lease=60, capacity=4)
    with pytest.raises(KeysRefused, match="lacks the opening key of base") as refused:
        pinned.unwrap("kitchen", "base", opening, 0.0)
    assert refused.value.reason is KeyReason.OPENING
    ends.arrives("w1", opening)  # on its own topic, which names no version


def test_a_worker_is_believed_for_its_versions_only(ends: Ends) -> None:
    """A worker that got the opening key of another version by accident is not believed for that version."""
    pinned = ends.keys.worker("w3", "next")
    pinned.__dict__["opening"] = ends.keys.opening
    ends.workers["w3"] = WorkerKeys(pinned, lease=60, capacity=4)
    assert ends.refused(ends.opened("w3")) is KeyReason.CREDENTIAL


def believed_status(edge: EdgeKeys, payload: bytes) -> Credential:
    return edge.signer_of(CODEC.decode_status(payload, WorkerStatus), payload)


def test_a_status_is_its_workers_word_to_the_byte(ends: Ends) -> None:
    """Copied, cut, changed in any byte or under another's credential it counts for nothing."""
    said = WorkerStatus(state="online", epoch=1, at=2.0, worker="w1", version="base", load=3)
    own, other = ends.identities["w1"], ends.identities["w2"]
    signed = status_by(own, said)
    assert believed_status(ends.edge, signed).name == "w1"
    plain = CODEC.encode_status(msgspec.structs.replace(said, credential=own.status_credential))
    field = signed[len(plain) - 1 : -1]
    for payload, why in (
        (plain, KeyReason.CREDENTIAL),
        (status_by(own, said, own.signed_credential), KeyReason.CREDENTIAL),
        (status_by(own, said, ends.keys.edge("kitchen").signed_credential), KeyReason.CREDENTIAL),
        (status_by(other, said), KeyReason.CREDENTIAL),
        (status_by(other, said, own.status_credential), KeyReason.FORGED),
        (signed[:-1] + b',"load":0}', KeyReason.FORGED),
        (plain[:-1] + b',"load":0' + field + b"}", KeyReason.FORGED),
        (signed[:-1] + field + b"}", KeyReason.FORGED),
    ):
        assert reason(partial(believed_status, ends.edge, payload)) is why
    for place in range(len(signed)):
        changed = bytearray(signed)
        changed[place] ^= 1
        with pytest.raises((KeysRefused, RemoteProtocolError)):
            believed_status(ends.edge, bytes(changed))
    ends.edge.trust.take(ends.keys.revoke("w1").payload)
    assert reason(partial(believed_status, ends.edge, signed)) is KeyReason.REVOKED
    gone = status_by(own, msgspec.structs.replace(said, state="gone"))
    assert believed_status(ends.edge, gone).name == "w1"


def test_a_session_belongs_to_who_opened_it(met: Ends) -> None:
    """Workers of a version share its opening key, so that one could make an open as if from a device."""
    again = EdgeKeys(met.keys.edge("kitchen"))
    again.begin(7, "base")
    stolen = again.wrap(an_open(attempt=2), None, CODEC.encode(an_open(attempt=2)), 0.0)
    assert met.refused_by("w1", stolen, "base") is KeyReason.FORGED
    met.arrives("w1", met.send(a_poll(), "w1"))


def test_a_restarted_worker_asks_for_the_key_and_gets_it(met: Ends) -> None:
    met.workers["w1"] = met.restarted("w1")
    draft = met.send(a_draft(), "w1")
    assert met.refused_by("w1", draft) is KeyReason.NO_KEY
    wanted = met.workers["w1"].wanted("kitchen", draft, 0.0)
    assert wanted is not None
    assert met.edge.wanted(wanted) == 7
    assert met.workers["w1"].wanted("kitchen", draft, 0.1) is None
    again = met.edge.poll_for_key(7, 0.0)
    assert again is not None
    worker, asks = again
    assert worker == "w1"
    assert asks == Poll(7, 1, 2, 9, -9, 0, (), 12, 3)  # no token, and nothing that was computed from any
    payload = met.edge.introduced(7, CODEC.encode(asks))
    assert met.arrives("w1", payload) == CODEC.encode(asks)
    assert met.edge.unwrap(met.answer("w1"), 0.0).worker == "w1"
    met.arrives("w1", met.send(a_poll(seq=3), "w1"))
    assert met.edge.poll_for_key(99, 0.0) is None


def test_each_draft_is_asked_about_once_and_not_too_often(met: Ends) -> None:
    assert met.edge.poll_for_key(7, 0.0) is None  # nothing was sent yet
    met.send(a_poll(), "w1")
    assert met.edge.poll_for_key(7, 0.0) is not None
    assert met.edge.poll_for_key(7, 9.0) is None
    met.send(a_draft(seq=3), "w1")
    assert met.edge.poll_for_key(7, 9.0) is not None
    met.send(a_draft(seq=4), "w1")
    met.send(Close(7, 1, 0, CloseReason.ELSEWHERE), "w2")  # which is not sent again
    assert met.edge.poll_for_key(7, 9.1) is None
    assert met.edge.poll_for_key(7, 9.3) is not None


def test_no_draft_goes_under_the_opening_key(met: Ends) -> None:
    """It is for one worker; under the key of opens all of the version could read it, and who steals a file later."""
    for message in (a_draft(), a_poll()):
        with pytest.raises(KeysRefused, match="no key with worker w2") as refused:
            met.send(message, "w2")
        assert refused.value.reason is KeyReason.NO_KEY


def test_keys_outlast_the_text_for_a_while(ends: Ends) -> None:
    late = ends.opened()
    ends.edge.ended(7, 0.0)
    assert ends.edge.unwrap(late, 59.0).worker == "w1"
    close = ends.send(Close(7, 1, 0, CloseReason.DONE), "w1", now=59.0)
    assert ends.arrives("w1", close)
    assert reason(lambda: ends.edge.unwrap(ends.answer("w1"), 61.0)) is KeyReason.NO_KEY
    with pytest.raises(KeysRefused):
        ends.send(Close(7, 1, 0, CloseReason.DONE), "w1", now=61.0)


def test_a_worker_keeps_keys_longer_than_sessions(met: Ends) -> None:
    met.arrives("w1", met.send(a_poll(), "w1"), now=100.0)
    met.arrives("w1", met.send(a_poll(), "w1"), now=279.0)
    poll = met.send(a_poll(), "w1")
    assert reason(lambda: met.arrives("w1", poll, now=279.0 + 181.0)) is KeyReason.NO_KEY


def test_a_device_takes_no_other_devices_keys_away(met: Ends) -> None:
    greedy = EdgeKeys(met.keys.edge("greedy"))
    for session in range(400):
        greedy.begin(session, "base")
        message = an_open(session)
        payload = greedy.wrap(message, None, CODEC.encode(message), 0.0)
        met.workers["w1"].unwrap("greedy", "base", payload, 0.0)
    met.arrives("w1", met.send(a_poll(), "w1"))
    with pytest.raises(KeysRefused):
        met.workers["w1"].wrap("greedy", 0, a_verdict(0), 0.0)
    assert met.workers["w1"].wrap("greedy", 399, a_verdict(399), 0.0)


def test_a_worker_pushes_no_other_workers_keys_out(ends: Ends) -> None:
    opening = ends.send(an_open())
    ends.arrives("w1", opening, "base")
    ends.edge.unwrap(ends.answer("w1"), 0.0)
    for _ in range(20):
        ends.workers["w2"] = ends.restarted("w2")
        ends.arrives("w2", opening, "base")
        ends.edge.unwrap(ends.answer("w2"), 0.0)
    ends.arrives("w1", ends.send(a_poll(), "w1"))
    assert ends.edge.unwrap(ends.answer("w1"), 0.0).worker == "w1"


def test_revoked_identities_are_refused(met: Ends) -> None:
    late = met.answer("w1")
    revocation = met.keys.revoke("w1").payload
    assert met.edge.trust.take(revocation)
    assert met.refused(late) is KeyReason.REVOKED
    assert reason(lambda: met.send(a_poll(), "w1")) is KeyReason.REVOKED
    met.arrives("w2", met.send(an_open(attempt=2)), "base")
    assert met.edge.unwrap(met.answer("w2"), 0.0).worker == "w2"
    met.workers["w2"].trust.take(met.keys.revoke("kitchen").payload)
    assert met.refused_by("w2", met.send(a_poll(), "w2")) is KeyReason.NO_KEY
    assert met.refused_by("w2", met.send(an_open(attempt=3)), "base") is KeyReason.REVOKED


def test_a_worker_with_a_new_credential_is_taken_up_again(met: Ends) -> None:
    met.edge.trust.take(met.keys.revoke("w1").payload)
    met.identities["w1"] = met.keys.worker("w1")
    met.workers["w1"] = met.restarted("w1")
    met.arrives("w1", met.send(an_open(attempt=2)), "base")
    met.edge.unwrap(met.answer("w1"), 0.0)
    met.arrives("w1", met.send(a_poll(), "w1"))


def test_new_opening_keys_are_for_texts_that_go_on_too(met: Ends) -> None:
    met.keys.opening, met.keys.serial = new_opening_secrets(), 2
    met.edge.trust.take(met.keys.published().payload)
    assert met.refused_by("w1", met.send(an_open(attempt=2)), "base") is KeyReason.FORGED
    assert met.refused_by("w2", met.send(an_open(attempt=3)), "base") is KeyReason.FORGED
    assert not met.workers["w2"].outdated("base")
    met.workers["w2"].trust.take(met.keys.published().payload)
    assert met.workers["w2"].outdated("base")
    assert met.refused_by("w2", met.send(an_open(attempt=4)), "base") is KeyReason.OPENING
    met.arrives("w1", met.send(a_poll(), "w1"))
    met.workers["w2"] = WorkerKeys(met.keys.worker("w2"), lease=60, capacity=4)
    met.arrives("w2", met.send(an_open(attempt=5)), "base")
    assert met.edge.unwrap(met.answer("w2"), 0.0).worker == "w2"


def test_a_worker_that_holds_a_session_follows_its_version_to_a_key_of_its_own(met: Ends) -> None:
    """A statement that names the version for the first time changes the key that a device opens it under."""
    met.keys.versions, met.keys.serial = ("base",), 2
    met.edge.trust.take(met.keys.published().payload)
    for attempt in (2, 3):
        met.arrives("w1", met.send(an_open(attempt=attempt)), "base")
    met.arrives("w1", met.send(a_poll(), "w1"))


def test_no_older_statement_is_taken(tmp_path: Path, ends: Ends) -> None:
    trust = ends.edge.trust
    before = ends.keys.statement()
    assert not trust.take(before)
    newer = ends.keys.revoke("kitchen").payload
    assert trust.take(newer)
    assert trust.revoked
    assert not trust.take(newer)
    ends.keys.revoked.clear()
    foreign = KeyedDeployment(tmp_path, serial=9).statement()
    for payload in (before, ends.keys.statement(), b"", b"noise", foreign):
        assert reason(partial(trust.take, payload)) is KeyReason.STATEMENT
    assert trust.revoked


def test_a_version_without_an_opening_key_is_said_to_have_none(tmp_path: Path) -> None:
    keys = KeyedDeployment(tmp_path)
    keys.opening = keys.opening.only(["next"])
    with pytest.raises(UsageError, match="no opening key for version base"):
        EdgeKeys(keys.edge()).begin(7, "base")
