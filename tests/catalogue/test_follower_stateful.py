"""Hypothesis publishes, attacks, and pulls the plug; the follower never forgets what it acted on.

Beside the follower runs a model that knows of each message who signed what, without reading it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_as_test

from flexspec_mq.catalogue.follower import AHEAD, Accepted, Follower, Record
from flexspec_mq.catalogue.refusals import Reason, SignedRefused
from flexspec_mq.catalogue.signing import PrivateKey, seal
from flexspec_mq.catalogue.store import Store
from schemas.catalogue import Catalogue, KeySet
from tests.catalogue.family import FAMILY, NOW, ONLINE, ROOT, SECOND, STRANGER, catalogue, key_set

SEEN: Counter[str] = Counter()
SIGNERS = st.lists(st.sampled_from((ONLINE, SECOND, STRANGER)), min_size=1, max_size=2, unique=True)
MOST = 40
"""Messages that can be sent once more."""


@dataclass(frozen=True)
class Sent:
    """A message and what its publisher knows of it; no body if it was spoilt on its way."""

    payload: bytes
    body: Catalogue | KeySet | None
    signers: frozenset[bytes]


@dataclass
class Known:
    """Reference model: the state of a reader that makes no mistake."""

    keys: KeySet | None = None
    epoch: int = 0
    catalogue: Catalogue | None = None

    def after_keys(self, sent: Sent, now: float) -> Known | None:
        body = sent.body
        if not isinstance(body, KeySet) or ROOT.public not in sent.signers:
            return None
        if body.expires <= now or (self.keys is not None and body.serial <= self.keys.serial):
            return None
        epoch = min(self.epoch, body.reset) if body.reset else self.epoch
        return Known(body, epoch, self.catalogue)

    def after_catalogue(self, sent: Sent, now: float) -> Known | None:
        body, keys = sent.body, self.keys
        if not isinstance(body, Catalogue) or keys is None or body == self.catalogue:
            return None
        good = (
            self._signed(sent)
            and keys.expires > now
            and body.epoch > self.epoch
            and body.epoch <= now + AHEAD
            and body.epoch + body.lifetime > now
        )
        return Known(keys, body.epoch, body) if good else None

    def may_wait(self, sent: Sent, now: float) -> bool:
        """Whether a catalogue is no good only because of keys that are to come, or of our clock."""
        body = sent.body
        assert isinstance(body, Catalogue)
        if self.keys is None or body == self.catalogue:
            return self.keys is None
        if body.key_set > self.keys.serial or self.keys.expires <= now:
            return True
        return self._signed(sent) and body.epoch > self.epoch and body.epoch > now + AHEAD

    def _signed(self, sent: Sent) -> bool:
        keys, body = self.keys, sent.body
        assert isinstance(body, Catalogue)
        return (
            keys is not None
            and body.key_set <= keys.serial
            and len(sent.signers & set(keys.keys)) >= keys.threshold
        )


class Plug(RuleBasedStateMachine):
    """State machine: a follower and its disk, given arbitrary messages while power fails at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="flexspec-follower-"))
        self.now = float(NOW)
        self.store = Store(self.folder, FAMILY)
        self.follower = Follower(FAMILY, ROOT.public)
        self.known = Known()
        self.waits: Sent | None = None
        self.sent: list[Sent] = []
        self.highest = (0, 0)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(early=st.booleans())
    def begin(self, early: bool) -> None:
        if early:
            self.keys(1, [ONLINE], 1, 0, forged=False, fate="adopt")

    # Fates of an accepted message: all goes well, or power fails before, while or after it is saved.
    FATES = st.sampled_from(("adopt", "adopt", "before", "while", "after"))

    @rule(seconds=st.sampled_from((1, 60, 4000, 100_000)))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        serial=st.integers(-1, 2),
        keys=st.lists(st.sampled_from((ONLINE, SECOND)), min_size=1, max_size=2, unique=True),
        threshold=st.integers(1, 2),
        reset=st.sampled_from((0, 0, 30, 5000)),
        holds=st.sampled_from((10**7, 3000, 3000, 0)),
        forged=st.booleans(),
        fate=FATES,
    )
    def keys(
        self,
        serial: int,
        keys: list[PrivateKey],
        threshold: int,
        reset: int,
        holds: int = 3000,
        *,
        forged: bool,
        fate: str,
    ) -> None:
        body = key_set(
            max(1, self._serial() + serial),
            keys,
            threshold=min(threshold, len(keys)),
            reset=max(0, int(self.now) - reset) if reset else 0,
            expires=int(self.now) + holds,
        )
        self._keys(self._send(body, [STRANGER, ONLINE] if forged else [ROOT]), fate)

    @rule(
        age=st.sampled_from((0, 0, 1, 150, 9000, -200, -400, -400)),
        lifetime=st.sampled_from((100, 100, 86_400)),
        serial=st.integers(-1, 1),
        same=st.booleans(),
        signers=st.just([ONLINE]) | SIGNERS,
        fate=FATES,
    )
    def catalogue(
        self, age: int, lifetime: int, serial: int, *, same: bool, signers: list[PrivateKey], fate: str
    ) -> None:
        epoch = self.known.epoch if same and self.known.epoch else int(self.now) - age
        body = catalogue(epoch, lifetime=lifetime, key_set=max(1, self._serial() + serial))
        self._catalogue(self._send(body, signers), fate)

    @rule(which=st.integers(0, MOST), fate=FATES)
    def replayed(self, which: int, fate: str) -> None:
        if self.sent:
            sent = self.sent[which % len(self.sent)]
            deliver = self._keys if isinstance(sent.body, KeySet) else self._catalogue
            deliver(sent, fate)

    @rule(which=st.integers(0, MOST), place=st.integers(0, 500), bit=st.integers(0, 7), on_keys=st.booleans())
    def spoilt(self, which: int, place: int, bit: int, *, on_keys: bool) -> None:
        data = bytearray(self.sent[which % len(self.sent)].payload if self.sent else b"")
        if data:
            data[place % len(data)] ^= 1 << bit
        sent = Sent(bytes(data), None, frozenset())
        before = self.follower.record
        deliver = self.follower.receive_keys if on_keys else self.follower.receive_catalogue
        answer = deliver(sent.payload, self.now)
        # A signature that is one too many, or of what is adopted already, may be spoilt without harm.
        if isinstance(answer, Accepted):
            SEEN["spoilt and harmless"] += 1
            changed = answer.record.keys if on_keys else answer.record.catalogue
            assert changed == sent.payload
            original = self.sent[which % len(self.sent)]
            assert len(original.signers) > 1
        assert self.follower.record is before
        self._restart()

    @rule(fate=FATES)
    def again(self, fate: str) -> None:
        if self.waits is None:
            assert self.follower.again(self.now) is None
        else:
            self._catalogue(self.waits, fate, again=True)

    @rule()
    def restarted(self) -> None:
        self._restart()

    @invariant()
    def follower_and_disk_say_what_the_model_says(self) -> None:
        self._compare(self.follower)
        assert self.follower.waiting == (self.waits is not None)
        kept = self.store.load()
        if kept is not None:
            self._compare(Follower(FAMILY, ROOT.public, kept))

    @invariant()
    def only_a_key_set_lowers_the_epoch(self) -> None:
        now = (self._serial(), self.known.epoch)
        assert now >= self.highest
        self.highest = now

    def _serial(self) -> int:
        return 0 if self.known.keys is None else self.known.keys.serial

    def _send(self, body: Catalogue | KeySet, signers: list[PrivateKey]) -> Sent:
        sent = Sent(seal(body, signers), body, frozenset(one.public for one in signers))
        self.sent.append(sent)
        del self.sent[:-MOST]
        return sent

    def _keys(self, sent: Sent, fate: str) -> None:
        expected, waited = self.known.after_keys(sent, self.now), self.waits
        if expected is not None and waited is not None:
            together = expected.after_catalogue(waited, self.now)
            if together is not None:
                SEEN["a catalogue had waited"] += 1
            elif not expected.may_wait(waited, self.now) and waited.body != expected.catalogue:
                self.waits = None
            expected = together or expected
        self._settle(self.follower.receive_keys(sent.payload, self.now), expected, fate)

    def _catalogue(self, sent: Sent, fate: str, *, again: bool = False) -> None:
        expected = self.known.after_catalogue(sent, self.now)
        if self.known.may_wait(sent, self.now):
            self.waits = sent
        elif expected is None:
            self._waits_no_more(sent.payload)
        answer = (
            self.follower.again(self.now)
            if again
            else self.follower.receive_catalogue(sent.payload, self.now)
        )
        self._settle(answer, expected, fate)

    def _settle(self, answer: Accepted | SignedRefused | None, expected: Known | None, fate: str) -> None:
        """Compare the answer with what is right, and let fate have its way with what was accepted."""
        assert isinstance(answer, Accepted) == (expected is not None), (answer, expected)
        if isinstance(answer, SignedRefused):
            SEEN[answer.reason] += 1
        if isinstance(answer, Accepted) and expected is not None:
            self._fate(answer.record, expected, fate)

    def _waits_no_more(self, payload: bytes) -> None:
        if self.waits is not None and self.waits.payload == payload:
            self.waits = None

    def _fate(self, record: Record, expected: Known, fate: str) -> None:
        SEEN[fate] += 1
        if fate == "before":
            self._restart()
        elif fate == "while":
            self.folder.joinpath(f".{self.store.path.name}.77.part").write_bytes(record.catalogue)
            self._restart()
        else:
            self.store.save(record)
            self.known = expected
            if fate == "adopt":
                self.follower.adopt(record)
                self._waits_no_more(record.catalogue)
            else:
                self._restart()

    def _restart(self) -> None:
        self.follower = Follower(FAMILY, ROOT.public, self.store.load())
        self.waits = None

    @invariant()
    def an_expired_key_set_is_believed_for_nothing_new(self) -> None:
        keys = self.known.keys
        lapsed = keys is not None and keys.expires <= self.now
        assert bool(self.follower.lapsed(self.now)) == lapsed
        SEEN["a key set expired"] += lapsed

    def _compare(self, follower: Follower) -> None:
        assert follower.catalogue == self.known.catalogue
        assert follower.keys == self.known.keys
        assert (0 if follower.record is None else follower.record.epoch) == self.known.epoch


ATTACKS = {Reason.SIGNATURE, Reason.KEY_SET, Reason.ROLLBACK, Reason.EQUIVOCATION}
CLOCKS = {Reason.EXPIRED, Reason.FUTURE}
FOUND = {"adopt", "before", "while", "after", "a catalogue had waited", "a key set expired"}
DRAWN = settings(
    max_examples=30, stateful_step_count=40, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
)


def test_whatever_comes_and_whenever_the_plug_is_pulled() -> None:
    """Until all has come up that may: some of it is rare."""
    SEEN.clear()
    rounds = 0
    while missing := {name for name in (*ATTACKS, *CLOCKS, *FOUND) if not SEEN[name]}:
        assert rounds < 30, missing
        run_as_test(Plug, settings=DRAWN)
        rounds += 1
