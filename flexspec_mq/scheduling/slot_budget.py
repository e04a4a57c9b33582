"""Slots of each step: how many each session gets, by deficit round robin over devices and by what they are worth.

**Sessions.** Each device that waits gets a slot for its session that has waited longest, then each one that has more a
slot for the next, and so on. Up to as many sessions as the device with the fewest has, all get alike; those that are
away for a moment, drafting maybe, count as well. Sessions beyond that ride along while they make the forward no more
than `GIVES` longer: on an accelerator, where a slot costs next to nothing, all do. Where all other devices are away for
a moment, a forward stays short for them.

**Drafted tokens**, of devices and the worker's own, get slots by `StepSlots`. A session's acceptance so far says what
the next one is worth, as in vLLM's adaptive verification, and its device's what its first one is: who drafts at random
has no new session believed.

**Prompts.** A forward has so many tokens of prompts as fit its bound on time by the measured cost of a token: `STRETCH`
beside sessions that write, `STEP_MS` otherwise. Devices share these equally. Each has a counter, in milliseconds: what
is read for it is added while others have work, and it pays off a share of the time (`DEVICE_PREFILL_SHARE`). A device
is served while it is no more than `device_prefill` tokens ahead of the mean of the others that have work, and then gets
a chunk whenever it has paid one off. So who reads little never waits for who reads much, all that read much are alike,
and whatever one device asks for takes no more than its share of the time of others.

Pure: it is told seconds and milliseconds, and measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from typing import TypeVar

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.turns import by_device
from flexspec_mq.scheduling.costs import LEARN, PRIMES, ForwardCost, LinearCost
from flexspec_mq.scheduling.step_slots import GIVES, StepSlots

_Key = TypeVar("_Key")

PRIOR = 0.6
"""How likely a drafted token is right before any of its device was judged."""
_MOST_DEVICES = 4096
"""Devices whose drafts are remembered, those that were judged last."""
_CALL, _IN_CALL = 0.15, (0.1, 0.05)
"""Usual cost of a forward of the draft, as a share of the target's, and of a session and a token of a prompt in it, as
shares of that."""
STRETCH = 0.8
"""How much longer a forward may be by prompts beside sessions that write, or for a device whose others are away."""
CHUNK = 32
"""Tokens of a prompt that are read at a time where there is a choice: kernels take hardly longer for these than for
fewer."""
LEAST = 8
"""Tokens that a forward may read in any case, so that every prompt is read some day."""
PROBE = 16
"""Interval of forwards that leave something out, so that its cost stays known."""
LATELY = 2.0
"""Seconds for which a device or session that had work counts as away for a moment, drafting maybe."""
STEP_MS = 250.0
"""Milliseconds that a worker's step takes at most which only reads prompts, however many may be read."""
DEVICE_PREFILL = 256
"""Tokens of prompts by which a device may be ahead of others at full speed while these have work."""
DEVICE_PREFILL_SHARE = 0.07
"""Share of the time that reading for one device may take beyond these."""


class SlotBudget:
    """Decides how many slots of each step which session gets.

    Args:
        cost: Measured cost of the target's forwards.
        most: Tokens of prompts that a forward may read.
        target: ms of a forward that only reads; infinite bounds no forward, also beside writers.
        device_prefill: See the settings.
        batch: Sessions that one forward decides at most.
        rationed: Without rationing every drafted token and forward of the draft is granted, whatever it costs.

    Attributes:
        cost: Measured cost of the target's forwards; tell it what they take.
        calls: Measured cost of the draft's, by sessions and tokens of prompts; likewise.
        most: See above.
        slowed: Tokens of the newest forward that are read for devices at the end of their lead.
    """

    def __init__(
        self,
        cost: ForwardCost | None = None,
        *,
        most: int = 128,
        target: float = inf,
        device_prefill: int = DEVICE_PREFILL,
        batch: int = 2**31,
        rationed: bool = True,
    ) -> None:
        self.cost = cost or ForwardCost()
        self.calls = LinearCost(_IN_CALL)
        self.most = most
        self.slowed = 0
        self._target = target
        self._device_prefill = device_prefill
        self._batch = batch
        self._rationed = rationed
        self._seen: dict[str, float] = {}  # when a device had work, the newest at the end
        self._waited: dict[SessionKey, float] = {}  # when a session waited for a slot, likewise
        self._read: dict[str, tuple[float, float]] = {}  # ms of each device's counter, and since when
        self._turn = 0
        self._acceptance: dict[SessionKey, float] = {}
        self._by_device: dict[str, float] = {}
        self._got: dict[SessionKey, float] = {}
        self._offered: dict[SessionKey, float] = {}
        self._alike = 0
        self._newest: tuple[int, int] = (0, 0)

    def prime(self, calls: Sequence[tuple[int, float]], read: float | None) -> None:
        """Begin with forwards of the draft that were timed before any text, and what a token of a prompt took."""
        for _ in range(PRIMES):
            for sessions, ms in calls:
                self.calls.observe((sessions, 0), ms)
            if read is not None:
                self.calls.observe((0, CHUNK), CHUNK * read)

    def step(
        self, ready: Mapping[SessionKey, int], reading: Mapping[SessionKey, int], now: float
    ) -> StepSlots:
        """Choose the sessions that the next forward decides, and give the drafts of their devices slots.

        The worker's own drafts may follow, and then `prompts`.

        Args:
            ready: drafted tokens of each session that waits for a slot, the one that has waited longest first.
            reading: unread tokens of those with a prompt to read first.
            now: seconds.
        """
        prompts = Counter(edge for edge, _ in reading)
        chosen = self._chosen(list(ready), prompts.keys(), now)
        drafts = {key: drafted for key, drafted in ready.items() if key in chosen}
        # Sessions of a device that is alone take turns, and each waits for the forwards of all others. Beside other
        # devices those that wait do not count: a device with many sessions must not end the others' drafts.
        devices = prompts.keys() | {edge for edge, _ in ready}
        sessions = weight(drafts if len(devices) > 1 else ready, prompts)
        plain = self.cost.predict(len(drafts)) if self._rationed else 0.0
        read = min(sum(reading.values()), self.room(len(drafts), 0, STRETCH if drafts else None))
        ms = plain + read * self.cost.prompt_token if plain else 0.0
        call = self.calls.predict((0, 0)), self.calls.each(0), self.calls.each(1)
        if not self.calls.known:
            call = _CALL * plain, 0.0, _CALL * _IN_CALL[1] * plain
        usual = {key: self._usual(key, drafted) for key, drafted in drafts.items()}
        slots = StepSlots(max(1, sessions), ms, self.cost.slot, call, self.calls, usual)
        slots.held_back = len(ready) - len(drafts)
        most = sum(drafts.values())
        if self._alike >= PROBE and self._rationed:
            most //= 2  # where all are alike, half of them tell the price of a slot
        slots.grant({key: (drafted, self.acceptance(key)) for key, drafted in drafts.items()}, most)
        newest = len(drafts), sum(slots.granted.values())
        self._alike = self._alike + 1 if newest == self._newest else 0
        self._newest = newest
        for key, granted in slots.granted.items():
            if drafts[key] and not granted:
                # Little by little it is forgotten why, so that a draft of it is tried again some day.
                if key in self._acceptance:
                    self._acceptance[key] = _newer(self._acceptance[key], PRIOR)
                elif key[0] in self._by_device:
                    self._by_device[key[0]] = _newer(self._by_device[key[0]], PRIOR)
        return slots

    def acceptance(self, key: SessionKey) -> float:
        """How likely a drafted token of a session's device is right, if all before it are."""
        return self._acceptance.get(key, self._by_device.get(key[0], PRIOR))

    def decided(self, key: SessionKey, tokens: int, accepted: int, *, wrong: bool) -> None:
        """A forward decided tokens of a session, some drafted by its device; the next of its draft was wrong or not."""
        self._got[key] = _newer(self._got.get(key), float(tokens))
        for right in [1.0] * accepted + [0.0] * wrong:
            self._acceptance[key] = _newer(self.acceptance(key), right)
            mean = self._by_device.pop(key[0], PRIOR)
            self._by_device[key[0]] = _newer(mean, right)
            if len(self._by_device) > _MOST_DEVICES:
                del self._by_device[next(iter(self._by_device))]

    def forget(self, key: SessionKey) -> None:
        """A session is over; it need not be known."""
        for known in (self._waited, self._acceptance, self._got, self._offered):
            known.pop(key, None)

    def _chosen(
        self, waiting: Sequence[SessionKey], reading: Collection[str], now: float
    ) -> Collection[SessionKey]:
        """Sessions that wait for a slot, the first of them longest, and share the next forward."""
        self._turn += 1
        order, takes = by_device(waiting), self.cost.takes
        sessions = Counter(edge for edge, _ in order)
        devices = sessions.keys() | set(reading)
        _see(self._seen, devices, now)
        _see(self._waited, waiting, now)
        if len(devices) > 1:
            has = Counter(edge for edge, _ in self._waited)
            fewest = 1 if len(devices) > len(sessions) else min(has[edge] for edge in sessions)
            count = sum(min(fewest, number) for number in sessions.values())
            bound = (1.0 + GIVES) * takes(count)
        elif self._others_lately(devices, now):
            count, bound = 1, (1.0 + STRETCH) * takes(1)
        else:
            count, bound = len(order), 0.0
        if self._turn % PROBE:
            while count < len(order) and takes(count + 1) <= bound:
                count += 1
        return set(order[: min(count, self._batch)])

    def _usual(self, key: SessionKey, drafted: int) -> float:
        """Tokens of a session by a forward lately: what it got, or would have got with a slot for all its drafts.

        Counted by what it got alone, sessions whose drafts come in every other forward would bear no slots of others
        in those between, nor others theirs: nobody would ever get more than one token.
        """
        confidence = self.acceptance(key)
        offered = sum(confidence**place for place in range(drafted + 1))
        self._offered[key] = _newer(self._offered.get(key), offered)
        return max(self._offered[key], self._got.get(key, 1.0))

    def prompts(
        self, unread: Mapping[SessionKey, int], slots: Mapping[SessionKey, int], now: float
    ) -> dict[SessionKey, int]:
        """Divide what the next forward may read: tokens of each prompt.

        Args:
            unread: tokens that each session can use, the one that was served longest ago first.
            slots: tokens that each session which the forward decides feeds into it.
            now: seconds.
        """
        self.slowed = 0
        if not unread:
            return {}
        prompts: dict[str, dict[SessionKey, int]] = {}
        for key, tokens in unread.items():
            prompts.setdefault(key[0], {})[key] = tokens
        writers = {edge for edge, _ in slots}
        counters = {edge: self._counter(edge, now) for edge in prompts.keys() | writers}
        alone = len(counters) == 1
        leads = {edge: self._lead(edge, counters) for edge in prompts}
        served = [edge for edge in prompts if alone or leads[edge] >= 0.0]
        room = self._room_beside(served, writers, slots)
        if alone and not writers and leads[served[0]] < CHUNK and self._others_lately(prompts, now):
            room = min(room, self.room(0, 0, STRETCH))
        late = self._device_prefill * self.cost.prompt_token
        served.sort(key=lambda edge: counters[edge] > late)
        wanted = {
            edge: min(sum(prompts[edge].values()), room if alone else max(CHUNK, int(min(leads[edge], room))))
            for edge in served
        }
        shares: dict[SessionKey, int] = {}
        for edge, tokens in divide(room, wanted).items():
            shares |= _fill(tokens, prompts[edge])
            self._charge(edge, tokens, now, at_most=late if alone else inf)
            self.slowed += tokens if not alone and leads[edge] < CHUNK else 0
        return shares

    def unused(self, edge: str, tokens: int, now: float) -> None:
        """Take tokens of `prompts` off a device's counter: they are not read, as there is no memory for them."""
        self._charge(edge, -tokens, now, at_most=inf)

    def room(self, sessions: int, drafted: int = 0, stretch: float | None = STRETCH) -> int:
        """Tokens of prompts for which a forward has time beside so many sessions and drafted tokens of theirs.

        They may add `stretch` times what it takes without them; None is what the target allows, or as much if that is
        more.
        """
        each = self.cost.prompt_token
        if not each or self._target == inf:
            return self.most
        plain = self.cost.predict(sessions, drafted)
        more = max(self._target - plain, STRETCH * plain) if stretch is None else stretch * plain
        return min(self.most, max(LEAST, int(more / each)))

    def _room_beside(
        self, served: Sequence[str], writers: Collection[str], slots: Mapping[SessionKey, int]
    ) -> int:
        """Tokens that a forward may read beside slots. Where many devices begin beside few, they share the time."""
        if not writers:
            return self.room(0, 0, None)
        begin = sum(edge not in writers for edge in served)
        return self.room(len(slots), sum(slots.values()) - len(slots), max(STRETCH, begin / len(writers)))

    def _lead(self, edge: str, counters: Mapping[str, float]) -> float:
        """Tokens that a device may have read before it is too far ahead of the others; below 0 it is already."""
        each = self.cost.prompt_token
        if not each:
            return inf
        others = len(counters) - 1
        mean = (sum(counters.values()) - counters[edge]) / others if others else 0.0
        return self._device_prefill - (counters[edge] - mean) / each

    def _counter(self, edge: str, now: float) -> float:
        """Milliseconds of reading that a device has not paid off."""
        ms, since = self._read.get(edge, (0.0, now))
        return max(0.0, ms - 1000.0 * DEVICE_PREFILL_SHARE * (now - since))

    def _charge(self, edge: str, tokens: int, now: float, at_most: float) -> None:
        ms = max(0.0, self._counter(edge, now) + tokens * self.cost.prompt_token)
        self._read.pop(edge, None)
        self._read[edge] = min(ms, at_most), now
        while not self._counter(oldest := next(iter(self._read)), now) and oldest != edge:
            del self._read[oldest]

    def _others_lately(self, devices: Collection[str], now: float) -> bool:
        _see(self._seen, (), now)
        return any(edge not in devices for edge in self._seen)


def _see(seen: dict[_Key, float], keys: Iterable[_Key], now: float) -> None:
    """These have work now; those that had none lately are forgotten."""
    for key in keys:
        seen.pop(key, None)
        seen[key] = now
    while seen and now - seen[oldest := next(iter(seen))] > LATELY:
        del seen[oldest]


def weight(writing: Collection[SessionKey], reading: Mapping[str, int]) -> int:
    """Number of sessions for whose sake a forward should be short, when drafts ask for slots or forwards of a draft.

    Prompts of one device, however many wait to be read, count for no more than the sessions of the device that has
    the fewest: they are read a few at a time, and others would get no drafts for as long as they wait. `reading` is
    the number of sessions by device whose prompt is not read to its end.
    """
    sessions = Counter(edge for edge, _ in writing) + Counter(reading)
    most = min(sessions.values()) if len(sessions) > 1 else inf
    return len(writing) + int(sum(min(most, number) for number in reading.values()))


def divide(budget: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Divide a budget into equal shares, none below a chunk but the last; the first is served first, with the rest."""
    shares: dict[str, int] = {}
    left = budget
    for place, (key, most) in enumerate(wanted.items()):
        # Two tokens are the least that makes progress on an unread prefix.
        if left < 2:
            break
        shares[key] = min(most, left, max(CHUNK, left // (len(wanted) - place)))
        left -= shares[key]
    for key, share in shares.items():
        more = min(left, wanted[key] - share)
        shares[key] += more
        left -= more
    return shares


def _fill(budget: int, unread: Mapping[SessionKey, int]) -> dict[SessionKey, int]:
    """Tokens of a device's prompts, one after the other: pieces of several cost more than one piece."""
    shares: dict[SessionKey, int] = {}
    for key, most in unread.items():
        if budget < 2:
            break
        shares[key] = min(most, budget)
        budget -= shares[key]
    return shares


def _newer(mean: float | None, value: float) -> float:
    return value if mean is None else mean + LEARN * (value - mean)
