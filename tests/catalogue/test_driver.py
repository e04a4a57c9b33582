"""Hypothesis sends, breaks the disk and mends it: the driver comes to know what one knows whose disk never broke."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.catalogue.driver import Driver
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason, RecordError, SignedRefused
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.catalogue.store import Store
from tests.catalogue.family import FAMILY, NOW, ONLINE, ROOT, STRANGER, catalogue, key_set

EVENTS = st.sampled_from(("catalogue", "catalogue", "future", "forged", "keys", "break", "mend", "look"))


class Machine:
    """A driver, and its disk."""

    def __init__(self, folder: Path) -> None:
        self.now = float(NOW)
        self.store = Store(folder, FAMILY)
        self.driver = Driver(Follower(FAMILY, ROOT.public), self.store, lambda: self.now)
        self._in_the_way = self.store.path.with_suffix(".lock")

    @property
    def broken(self) -> bool:
        return self._in_the_way.is_dir()

    def break_disk(self) -> None:
        if not self.broken:
            self._in_the_way.unlink(missing_ok=True)
            self._in_the_way.mkdir(parents=True)

    def mend_disk(self) -> None:
        if self.broken:
            self._in_the_way.rmdir()

    def check(self) -> None:
        assert self.driver.follower.record == self.store.load()

    def knows(self) -> tuple[object, ...]:
        follower = self.driver.follower
        return (follower.keys, follower.catalogue, follower.record and follower.record.epoch)


def sealed(event: str, serial: int, epoch: int) -> bytes:
    if event == "keys":
        return seal(key_set(serial), [ROOT])
    if event == "forged":
        return seal(catalogue(epoch, key_set=1), [STRANGER])
    return seal(catalogue(epoch, key_set=serial), [ONLINE])


async def live(events: list[str], folder: Path) -> None:
    frail, sound = Machine(folder / "frail"), Machine(folder / "sound")
    serial, epoch = 1, NOW
    for machine in (frail, sound):
        await machine.driver.judge(machine.driver.topics[0], seal(key_set(1), [ROOT]))
    keys, catalogues = frail.driver.topics
    for number, event in enumerate(events):
        for machine in (frail, sound):
            machine.now += 5
        if event == "break":
            frail.break_disk()
        elif event == "mend":
            frail.mend_disk()
        elif event == "look":
            outcomes = await frail.driver.again()
            assert not (frail.broken and any(isinstance(found, Accepted) for _, found in outcomes))
        else:
            serial += event == "keys"
            epoch = max(epoch + 1, NOW + 5 * number + (350 if event == "future" else 0))
            payload = sealed(event, serial, epoch)
            for machine in (frail, sound):
                topic = keys if event == "keys" else catalogues
                for _, outcome in await machine.driver.judge(topic, payload):
                    assert isinstance(outcome, RecordError) <= (machine is frail and frail.broken)
                    assert isinstance(outcome, Accepted) <= (not machine.broken)
        frail.check()
    frail.mend_disk()
    for machine in (frail, sound):
        machine.now += 400
        await machine.driver.again()
        assert not machine.driver.follower.waiting
        assert await machine.driver.again() == []
        machine.check()
    assert frail.knows() == sound.knows()


@given(st.lists(EVENTS, max_size=16))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_the_disk_refused_is_taken_up_once_it_can_be(events: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="flexspec-driver-") as folder:
        asyncio.run(live(events, Path(folder)))


async def test_a_catalogue_that_waited_for_its_keys_has_an_outcome_of_its_own(tmp_path: Path) -> None:
    for name, payload in (("good", seal(catalogue(), [ONLINE])), ("bad", seal(catalogue(), [STRANGER]))):
        driver = Machine(tmp_path / name).driver
        keys, catalogues = driver.topics
        ((_, waits),) = await driver.judge(catalogues, payload)
        assert isinstance(waits, SignedRefused)
        assert waits.reason is Reason.KEY_SET
        assert driver.follower.waiting
        (where, taken), (behind, found) = await driver.judge(keys, seal(key_set(), [ROOT]))
        assert (where, behind) == (keys, catalogues)
        assert isinstance(taken, Accepted)
        if name == "good":
            assert isinstance(found, Accepted)
            assert driver.follower.catalogue == catalogue()
        else:
            assert isinstance(found, SignedRefused)
            assert found.reason is Reason.SIGNATURE
            assert driver.follower.catalogue is None
        assert not driver.follower.waiting


async def test_a_turn_judges_what_was_taken_in_order(tmp_path: Path) -> None:
    driver = Machine(tmp_path).driver
    keys, catalogues = driver.topics
    assert not driver.take("f1/k/other", b"")
    assert driver.take(keys, seal(key_set(), [ROOT]))
    assert driver.take(catalogues, seal(catalogue(), [ONLINE]))
    for topic in (keys, catalogues):
        ((where, found),) = await driver.turn()
        assert where == topic
        assert isinstance(found, Accepted)
    assert driver.follower.catalogue == catalogue()
