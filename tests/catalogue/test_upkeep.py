"""Upkeep of a catalogue by those who hold it: it stands again at a broker that lost it, and nobody takes turns."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.catalogue.driver import topics_of
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.catalogue.upkeep import Upkeep
from tests.catalogue.family import (
    ATTACKS,
    FAMILY,
    LATER,
    NOW,
    ONLINE,
    ROOT,
    SECOND,
    STRANGER,
    catalogue,
    following,
    give,
    give_keys,
    key_set,
)

KEYS, CATALOGUE = topics_of(FAMILY)
FIRST = seal(catalogue(), [ONLINE])
GIVES_WAY = {
    Reason.OVERSIZE,
    Reason.MALFORMED,
    Reason.FAMILY,
    Reason.SIGNATURE,
    Reason.ROLLBACK,
    Reason.EMPTY,
}
"""Messages that nobody who counts has signed, or that are older. The rest is signed by the family: its root decides."""


def upkeep(follower: Follower, standing: dict[str, bytes]) -> Upkeep:
    """Upkeep by a follower that is linked to a broker with these messages."""
    made = Upkeep(follower)
    for topic, payload in standing.items():
        made.saw(topic, payload)
    made.linked(up=True)
    return made


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_gives_way(attack: str) -> None:
    reason, payload = ATTACKS[attack]
    follower = following(FIRST)
    standing = {KEYS: seal(key_set(), [ROOT]), CATALOGUE: payload}
    assert upkeep(follower, standing).lost() == ([(CATALOGUE, FIRST)] if reason in GIVES_WAY else [])


def test_without_a_link_nothing_is_lost_and_a_new_one_stands_for_nothing_yet() -> None:
    follower, keys = following(FIRST), seal(key_set(), [ROOT])
    made = upkeep(follower, {KEYS: keys, CATALOGUE: FIRST})
    assert made.lost() == []
    made.linked(up=False)
    assert made.lost() == []
    made.linked(up=True)
    assert made.lost() == [(KEYS, keys), (CATALOGUE, FIRST)]


def test_what_the_root_took_back_stays_away() -> None:
    thieves = seal(catalogue(epoch=NOW + 40), [ONLINE])
    follower = following(thieves, now=LATER)
    keys = seal(key_set(2, (ONLINE, SECOND), reset=NOW), [ROOT])
    give_keys(follower, keys)
    assert upkeep(follower, {}).lost() == [(KEYS, keys)]
    give(follower, renewed := seal(catalogue(epoch=NOW + 1, key_set=2), [SECOND]), LATER)
    assert upkeep(follower, {KEYS: keys, CATALOGUE: thieves}).lost() == [], "who signs it still counts"
    assert upkeep(follower, {KEYS: keys}).lost() == [(CATALOGUE, renewed)]


KEY_SETS = [
    seal(key_set(serial, keys, reset=reset), [ROOT])
    for serial, keys, reset in (
        (1, (ONLINE,), 0),
        (2, (ONLINE, SECOND), 0),
        (3, (SECOND,), 0),
        (4, (SECOND,), NOW + 3),
    )
]
CATALOGUES = [
    seal(catalogue(epoch=NOW + epoch, key_set=serial, lifetime=90_000 + serial), [signer])
    for epoch in range(5)
    for serial in range(1, 5)
    for signer in (ONLINE, SECOND)
]
NOISE = [b"", b"noise", seal(key_set(9), [STRANGER]), seal(catalogue(epoch=NOW + 9, key_set=9), [STRANGER])]


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from(KEY_SETS + CATALOGUES), max_size=8), min_size=1, max_size=4),
    st.sampled_from(KEY_SETS + NOISE),
    st.sampled_from(CATALOGUES + NOISE),
    st.randoms(use_true_random=False),
)
def test_whoever_saw_what_they_agree_and_end(
    histories: list[list[bytes]], keys: bytes, standing: bytes, random: Random
) -> None:
    """Followers that saw any part of a family's history, forks of it too, and a broker that holds any part or noise."""
    followers = [Follower(FAMILY, ROOT.public) for _ in histories]
    for follower, history in zip(followers, histories, strict=True):
        for payload in history:
            _take(follower, payload)
    broker = {KEYS: keys, CATALOGUE: standing}
    put_back = 0
    while True:
        for follower in followers:
            for payload in broker.values():
                _take(follower, payload)
        losses = [lost for follower in followers if (lost := upkeep(follower, broker).lost())]
        if not losses:
            break
        put_back += 1
        assert put_back <= 4 * len(followers)
        broker.update(random.choice(losses))
    serials = [follower.record.serial for follower in followers if follower.record is not None]
    assert max(serials, default=0) == min(serials, default=0), "the newest key set reaches all"


def _take(follower: Follower, payload: bytes) -> None:
    receive = follower.receive_keys if payload in KEY_SETS else follower.receive_catalogue
    answer = receive(payload, LATER)
    if isinstance(answer, Accepted):
        follower.adopt(answer.record)
