"""The follower of a catalogue: updates that it adopts, and attacks that it refuses.

Thresholds, resets, older keys, and catalogues that wait for their keys are tested in `test_follower_stateful`.
"""

import msgspec
import pytest

from flexspec_mq.catalogue.follower import AHEAD, Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason, RecordError, SignedRefused
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.errors import LocalProtocolError
from schemas.catalogue import KeySet
from tests.catalogue.family import (
    ATTACKS,
    DAY,
    FAMILY,
    LATER,
    NOW,
    ONLINE,
    ROOT,
    STRANGER,
    catalogue,
    following,
    give,
    give_keys,
    key_set,
    raw,
    sealed,
)

FIRST = seal(catalogue(), [ONLINE])


def refused(answer: Accepted | SignedRefused | None) -> Reason:
    assert isinstance(answer, SignedRefused), answer
    assert answer.detail
    assert "\n" not in answer.detail
    return answer.reason


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused_and_nothing_changes(attack: str) -> None:
    reason, payload = ATTACKS[attack]
    follower = following(FIRST)
    before = follower.record
    assert refused(follower.receive_catalogue(payload, LATER)) is reason
    assert follower.record is before
    assert follower.catalogue == catalogue()
    assert (follower.alarm is not None) == (reason is Reason.EQUIVOCATION)
    give(follower, sealed(epoch=NOW + 20), LATER)  # what is right is still taken up
    assert (follower.alarm is not None) == (reason is Reason.EQUIVOCATION)


def test_every_reason_has_an_attack() -> None:
    assert {reason for reason, _ in ATTACKS.values()} == set(Reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.EMPTY),
        (bytes(5000), Reason.OVERSIZE),
        (b"\xc0", Reason.MALFORMED),
        (seal(catalogue(), [ROOT]), Reason.MALFORMED),
        (raw(KeySet, msgspec.msgpack.encode(key_set(2, threshold=2)), [ROOT]), Reason.MALFORMED),
        (raw(KeySet, msgspec.msgpack.encode([2, FAMILY, "later"]), [ROOT]), Reason.FORMAT),
        (seal(key_set(3, family="other"), [ROOT]), Reason.FAMILY),
        (seal(key_set(3), [ONLINE]), Reason.SIGNATURE),
        (seal(key_set(3, keys=[STRANGER]), [STRANGER]), Reason.SIGNATURE),
        (seal(key_set(1), [ROOT]), Reason.ROLLBACK),
        (seal(key_set(2, reset=1), [ROOT]), Reason.EQUIVOCATION),
    ],
)
def test_a_key_set_that_is_refused_changes_nothing(payload: bytes, reason: Reason) -> None:
    follower = following(FIRST)
    give_keys(follower, seal(key_set(2), [ROOT]))
    before = follower.record
    assert refused(follower.receive_keys(payload, NOW)) is reason
    assert follower.record is before
    assert (follower.alarm is not None) == (reason is Reason.EQUIVOCATION)


def test_what_is_adopted_already_is_unchanged_even_under_other_signatures() -> None:
    follower = following(FIRST)
    assert follower.receive_catalogue(FIRST, LATER + DAY) is None
    assert follower.receive_catalogue(seal(catalogue(), [STRANGER]), LATER) is None
    assert follower.receive_keys(seal(key_set(), [STRANGER]), LATER) is None
    assert follower.alarm is None


def test_what_cannot_be_read_takes_no_place_from_what_waits() -> None:
    follower = Follower(FAMILY, ROOT.public)
    follower.receive_catalogue(FIRST, NOW)
    for _, payload in ATTACKS.values():
        if len(payload) < 100:
            follower.receive_catalogue(payload, NOW)
    give_keys(follower, seal(key_set(), [ROOT]))
    assert follower.catalogue == catalogue()


def test_the_bound_ahead_is_exact() -> None:
    assert isinstance(following().receive_catalogue(FIRST, NOW - AHEAD), Accepted)
    assert refused(following().receive_catalogue(FIRST, NOW - AHEAD - 0.01)) is Reason.FUTURE


def test_past_expiry_what_runs_goes_on_and_says_so() -> None:
    follower = following(FIRST)
    assert not follower.expired(NOW + DAY - 1)
    assert follower.expired(NOW + DAY)
    assert follower.catalogue == catalogue()
    late = sealed(epoch=NOW + 10)
    assert refused(follower.receive_catalogue(late, NOW + 10 + DAY)) is Reason.EXPIRED
    assert isinstance(follower.receive_catalogue(late, NOW + 9 + DAY), Accepted)
    publisher = Follower(FAMILY, ROOT.public, follower.record, renews=True)
    assert isinstance(publisher.receive_catalogue(late, NOW + 10 + DAY), Accepted)
    assert not Follower(FAMILY, ROOT.public).expired(NOW)


def test_only_what_was_accepted_last_can_be_adopted() -> None:
    follower = following()
    old = follower.receive_catalogue(FIRST, NOW)
    new = follower.receive_catalogue(sealed(), LATER)
    assert isinstance(old, Accepted)
    assert isinstance(new, Accepted)
    with pytest.raises(LocalProtocolError):
        follower.adopt(old.record)
    follower.adopt(new.record)
    with pytest.raises(LocalProtocolError):
        follower.adopt(new.record)


def test_a_record_is_verified_from_the_root_key_on() -> None:
    record = following(FIRST).record
    assert record is not None
    assert Follower(FAMILY, ROOT.public, record).record == record
    strange = seal(key_set(keys=[STRANGER]), [STRANGER])
    for name, root, wrong in (
        (FAMILY, STRANGER.public, record),
        ("other", ROOT.public, record),
        (FAMILY, ROOT.public, msgspec.structs.replace(record, keys=b"")),
        (FAMILY, ROOT.public, msgspec.structs.replace(record, serial=2)),
        (FAMILY, ROOT.public, msgspec.structs.replace(record, catalogue=sealed(STRANGER))),
        (FAMILY, ROOT.public, msgspec.structs.replace(record, catalogue_keys=b"")),
        (FAMILY, ROOT.public, msgspec.structs.replace(record, catalogue_keys=strange)),
    ):
        with pytest.raises(RecordError, match="remove the file"):
            Follower(name, root, wrong)
