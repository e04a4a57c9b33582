"""Hypothesis opens, answers, restarts, lets time pass and carries payloads anywhere, more than once.

No key ever meets the same counter twice, and each side believes only what the other made for that very session.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from hypothesis.stateful import run_state_machine_as_test as run_as_test

from flexspec_mq.codec import Codec
from flexspec_mq.keys import edge as edge_side
from flexspec_mq.keys import envelope
from flexspec_mq.keys import worker as worker_side
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import Sealer
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.keys.worker import WorkerKeys
from schemas.messages import Close, CloseReason, Fin, Identity, Open, Poll, Sampling, Verdict
from tests.keys.deployments_of_keys import KeyedDeployment

CODEC = Codec()
IDENTITY = Identity(2, bytes(16), Sampling(seed=1), (2,), False, 64)
WORKERS, SESSIONS = st.sampled_from(("w1", "w2")), st.integers(1, 3)
LEASE = 10.0
FORGETS = LEASE + 120.0
"""Seconds without a word after which a worker has no key of a session any more."""
SEEN: Counter[str] = Counter()
USES: list[tuple[bytes, int]] = []


@dataclass(frozen=True)
class Made:
    """A payload and what its maker knows of it; `worker` made it, or no worker did."""

    payload: bytes
    plain: bytes
    session: int
    worker: str | None


class Carrier(RuleBasedStateMachine):
    """Whoever runs the broker."""

    def __init__(self) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            keys = KeyedDeployment(Path(folder))
            self.device: KeyIdentity = keys.edge("kitchen")
            self.identities = {name: keys.worker(name) for name in ("w1", "w2")}
        self.now = 0.0
        self.number = 0
        self.made: list[Made] = []
        self.live: dict[int, bytes] = {}  # with the private keys, as a device has them on its disk
        self.incarnation = 0
        self.met: set[tuple[int, str]] = set()
        self.taken: dict[tuple[str, bytes], float] = {}
        USES.clear()

    @initialize()
    def begin(self) -> None:
        self.edge = EdgeKeys(self.device)
        self.workers = {name: self._started(name) for name in self.identities}

    def _started(self, name: str) -> WorkerKeys:
        self.taken = {what: at for what, at in self.taken.items() if what[0] != name}
        return WorkerKeys(self.identities[name], lease=LEASE, capacity=2)

    @rule(session=SESSIONS)
    def opens(self, session: int) -> None:
        self.number += 1
        if session not in self.live:
            self.met = {one for one in self.met if one[0] != session}
            self.edge.begin(session, "base")
            self.live[session] = self.edge.private(session)
        self._send(Open(session, self.number, IDENTITY, (1,), (), 0, 1, ()), None)

    @rule(session=SESSIONS, worker=WORKERS, closes=st.booleans())
    def sends(self, session: int, worker: str, closes: bool) -> None:
        self.number += 1
        close = Close(session, self.number, 0, CloseReason.DONE)
        self._send(close if closes else Poll(session, 1, self.number, 0, 0, 5, (), 0), worker)

    def _send(self, message: Open | Poll | Close, worker: str | None) -> None:
        plain = CODEC.encode(message)
        try:
            payload = self.edge.wrap(message, worker, plain, self.now)
        except KeysRefused:
            assert message.session not in self.live or (
                isinstance(message, Poll) and not self._knows(message, worker)
            )
            return
        assert not isinstance(message, Poll) or self._knows(message, worker)
        self.made.append(Made(payload, plain, message.session, None))

    def _knows(self, message: Poll, worker: str | None) -> bool:
        """Whether the device has believed that worker in that session: only then there is a key for a poll."""
        return (message.session, worker) in self.met

    @rule(session=SESSIONS, worker=WORKERS, leaves=st.booleans())
    def answers(self, session: int, worker: str, leaves: bool) -> None:
        """A worker answers a device, or leaves something for it, whatever that has forgotten meanwhile."""
        self.number += 1
        plain = CODEC.encode(Verdict(session, 1, 1, self.number, (198, 30), 5, Fin.NONE, 3, 61))
        try:
            payload = self.workers[worker].wrap("kitchen", session, plain, self.now, introduced=leaves)
            assert not leaves or envelope.read_envelope(payload).introduction is not None
        except KeysRefused:
            return
        self.made.append(Made(payload, plain, session, worker))

    @rule(session=SESSIONS)
    def wants(self, session: int) -> None:
        again = self.edge.poll_for_key(session, self.now)
        if again is not None:
            plain = CODEC.encode(again[1])
            self.made.append(Made(self.edge.introduced(session, plain), plain, session, None))
            SEEN["asked"] += 1

    def _of_device(self) -> list[Made]:
        return [one for one in self.made if one.worker is None]

    @rule(
        session=SESSIONS, worker=WORKERS, then=st.sampled_from(("is lost", "is turned round", "goes astray"))
    )
    def goes_well(self, session: int, worker: str, then: str) -> None:
        """A round as it is meant, up to its last message."""
        self.opens(session)
        self._reaches(worker, self.made[-1])
        self.answers(session, worker, leaves=False)
        self._reaches_device(self.made[-1])
        self.sends(session, worker, closes=False)
        if then == "is turned round":
            self._reaches_device(self.made[-1])
        elif then == "goes astray":
            self._reaches("w2" if worker == "w1" else "w1", self.made[-1])

    @rule(data=st.data(), worker=WORKERS, astray=st.booleans())
    def reaches_a_worker(self, data: st.DataObject, worker: str, astray: bool) -> None:
        sent = self.made if astray else self._of_device()[-4:]
        if sent:
            self._reaches(worker, data.draw(st.sampled_from(sent)))

    def _reaches(self, worker: str, one: Made) -> None:
        try:
            found = self.workers[worker].unwrap("kitchen", None, one.payload, self.now)
        except KeysRefused as error:
            SEEN[f"a worker refused: {error.reason}"] += 1
            return
        assert (one.worker, one.plain, one.session) == (None, *found)
        self._once(worker, one)

    @rule(data=st.data(), astray=st.booleans())
    def reaches_the_device(self, data: st.DataObject, astray: bool) -> None:
        sent = self._of_device()[-4:] if astray else [one for one in self.made if one.worker is not None]
        if sent:
            self._reaches_device(data.draw(st.sampled_from(sent)))

    def _reaches_device(self, one: Made) -> None:
        try:
            found = self.edge.unwrap(one.payload, self.now)
        except KeysRefused as error:
            SEEN[f"the device refused: {error.reason}"] += 1
            return
        assert (one.worker, one.plain, one.session) == (found.worker, found.plain, found.session)
        self.met.add((found.session, found.worker))
        self._once("kitchen", one)

    def _once(self, who: str, one: Made) -> None:
        """A worker forgets the key of a silent session; then an open counts again, for nothing but work by quotas."""
        before = self.taken.get((who, one.payload))
        assert before is None or (who != "kitchen" and self.now - before > FORGETS)
        self.taken[who, one.payload] = self.now
        SEEN["believed"] += 1

    @rule(session=SESSIONS)
    def ends(self, session: int) -> None:
        self.live.pop(session, None)
        self.edge.ended(session, self.now)

    @rule(worker=WORKERS)
    def restarts(self, worker: str) -> None:
        self.workers[worker] = self._started(worker)

    @rule(session=SESSIONS, worker=WORKERS)
    def device_restarts(self, session: int, worker: str) -> None:
        """The device goes on with its texts, by what is on its disk; what it had taken it may be shown again."""
        self.incarnation += 1
        self.edge, self.met = EdgeKeys(self.device), set()
        self.taken = {what: at for what, at in self.taken.items() if what[0] != "kitchen"}
        for live, private in self.live.items():
            self.edge.begin(live, "base", private, self.incarnation << 22)
        before = SEEN["believed"]
        if session in self.live:
            self.goes_well(session, worker, "is lost")
        SEEN["after a restart"] += SEEN["believed"] > before

    @rule(seconds=st.sampled_from((0.3, 70.0, 200.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def teardown(self) -> None:
        """A key and a counter are used once, whatever happened."""
        assert len(USES) == len(set(USES))


def test_no_nonce_comes_twice_and_nothing_foreign_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(key: Sealer, plain: bytes, **rest: object) -> bytes:
        counter = rest["counter"]
        assert isinstance(counter, int)
        USES.append((key.key, counter))
        return envelope.enveloped(key, plain, **rest)  # type: ignore[arg-type]

    for side in (edge_side, worker_side):
        monkeypatch.setattr(side, "enveloped", noted)
    SEEN.clear()
    run_as_test(Carrier, settings=settings(max_examples=100, stateful_step_count=50))
    assert SEEN["believed"] > 50
    assert SEEN["asked"]
    assert SEEN["after a restart"] > 5
    assert sum(count for what, count in SEEN.items() if "refused" in what) > 50
