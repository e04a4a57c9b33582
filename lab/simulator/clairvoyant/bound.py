"""The fastest that an answer can be, whatever any policy plans: a lower bound by dynamic programming.

Somebody knows of each position whether a draft is right there, what the link does at each moment, and what all
forwards take. Round by round he chooses when the target's forward begins, how many tokens of the device's draft it
verifies, and how many the worker drafts for it; nothing is drafted that is wrong. What he cannot change: the target
decides a text from its beginning on, one forward after the other; a forward ends at the first token that no draft has
right, and takes the time of its rows; a device learns of a decision when its message can be there, drafts one token
after the other, and its draft is at the worker when a message can be there; prompts are read first.

All else is left out in his favour, so that this is a bound and no plan. Every token of a draft travels at once and
alone, without jitter, loss, queue or rate of the link. A worker waits for nobody and serves nobody else. Lookups take
no time and find all that any of them could. A wrong token costs nothing, and where a forward is faster with more rows
it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil, inf

from flexspec_mq.scheduling.colocated import PREFILL
from flexspec_mq.scheduling.prefill_budget import PrefillBudget
from lab.simulator.answers import Setting
from lab.simulator.clairvoyant.arrivals import Arrivals
from lab.simulator.clairvoyant.matches import Match, matches
from lab.simulator.cost import DraftForward, TargetForward, Times
from lab.simulator.recording import RecordedText
from lab.simulator.simulation import DEVICE_PREFILL
from lab.simulator.worker import WorkerKind

_ROWS = 64
"""Rows of a forward that are told apart; more cost as much as these."""
_CONTEXT = 1000
"""Tokens behind which it is seen what a context adds."""


class ClairvoyantBound:
    """Seconds of answers that no policy can undercut in the simulator.

    Args:
        setting: as it would be simulated. Other sessions are not seen: they only make answers slower.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._forwards = _Forwards(setting.times)
        self._reading = _Reading(setting.times)

    def seconds(self, text: RecordedText, begins_s: float = 0.0) -> float:
        """Of an answer, from the asking to the last token at the device, at least.

        Args:
            text: of the recording.
            begins_s: second of the channel at which it is asked for.
        """
        reads = self._setting.worker.reads
        prompt = len(text.prompt) if reads else 1
        target = self._reading.seconds(prompt) if reads else 0.0
        return _Answer(self._setting, text, begins_s, self._forwards, prompt, target).seconds()


class _Answer:
    """The earliest times of one answer, in seconds after the asking.

    Args:
        setting: of the simulation.
        text: that is written.
        begins_s: second of the channel then.
        forwards: of the target.
        prompt: tokens that stand before the text.
        target: seconds in which the target reads them, at least.
    """

    def __init__(
        self,
        setting: Setting,
        text: RecordedText,
        begins_s: float,
        forwards: _Forwards,
        prompt: int,
        target: float,
    ) -> None:
        times, worker, found = setting.times, setting.worker, matches(text)
        self._length = len(found)
        self._target = forwards
        self._prompt = prompt
        self._broker = times.broker / 1000
        self._up = Arrivals(setting.link, "up", begins_s)
        self._down = Arrivals(setting.link, "down", begins_s)
        self._began = times.request / 1000
        self._opened = self._up.earliest(self._began) + self._broker + target
        behind = range(prompt, prompt + self._length)
        pieces = _pieces(times.device.call, prompt, DEVICE_PREFILL) if worker.reads else []
        self._device_read = self._began + sum(pieces)
        # What drafting the token of each position takes.
        self._device = [
            _cost(times.device.call, match, context, lookup=True) if setting.drafts else inf
            for match, context in zip(found, behind, strict=True)
        ]
        self._worker = [
            _cost(times.call, match, context, lookup=worker.lookup)
            if worker.drafts or _looked_up(worker, match)
            else inf
            for match, context in zip(found, behind, strict=True)
        ]
        # The worker's draft may read its pieces of the prompt whenever the worker likes.
        self._pieces = _pieces(times.call, prompt, PREFILL) if worker.drafts and worker.reads else []

    def seconds(self) -> float:
        """When the last token can be at the device."""
        # decided[pieces][place]: when the worker can have decided so many tokens, with so many pieces read.
        decided = [[inf] * (self._length + 1) for _ in range(len(self._pieces) + 1)]
        decided[0][0] = self._opened
        drafted = inf  # when the device can have drafted the token before `place`, if that is right
        for place in range(self._length):
            for number, piece in enumerate(self._pieces):
                there = decided[number][place] + piece
                decided[number + 1][place] = min(decided[number + 1][place], there)
            known = self._began if not place else self._told(decided, place)
            draft = self._drafted(place, min(drafted, known))
            drafted = draft[0] if draft else inf
            arrived = [self._up.earliest(at) + self._broker for at in draft]
            for layer in decided:
                self._forwards(place, layer, arrived, reads=layer is decided[-1])
        return self._told(decided, self._length)

    def _told(self, decided: Sequence[Sequence[float]], place: int) -> float:
        """When the device can know of so many tokens."""
        return self._down.earliest(min(layer[place] for layer in decided) + self._broker)

    def _drafted(self, place: int, ready: float) -> list[float]:
        """When the device can have drafted each token from a position on that is right, given when it can begin."""
        found: list[float] = []
        for cost in self._device[place:]:
            if cost == inf:
                break
            if cost:
                ready = max(ready, self._device_read) + cost
            found.append(ready)
        return found

    def _forwards(self, place: int, layer: list[float], arrived: Sequence[float], *, reads: bool) -> None:
        """All forwards that can begin when `place` tokens are decided.

        Args:
            place: tokens.
            layer: of `decided`; takes what comes of them.
            arrived: when each token of the device's draft is at the worker.
            reads: the worker's draft has read the prompt.
        """
        begins = now = layer[place]
        for right in range(self._length - place):
            if right:
                own = self._worker[place + right - 1]
                begins += own if reads or not own else inf
                if right <= len(arrived):
                    begins = min(begins, max(now, arrived[right - 1]))
            if begins == inf:
                return
            ends = begins + self._target.seconds(right, self._prompt + place)
            layer[place + right + 1] = min(layer[place + right + 1], ends)


def _cost(call: Callable[[DraftForward], float], match: Match, context: int, *, lookup: bool) -> float:
    """Seconds in which a draft gives the token of a position; infinite where it is wrong."""
    if match is Match.NOBODY:
        return inf
    if match is Match.LOOKUP and lookup:
        return 0.0
    return call(DraftForward(1, 0, context)) / 1000


def _looked_up(worker: WorkerKind, match: Match) -> bool:
    return worker.lookup and match is Match.LOOKUP


def _pieces(call: Callable[[DraftForward], float], prompt: int, most: int) -> list[float]:
    """Seconds of each piece of a prompt that a draft reads, the last one without the token that it gives."""
    whole = ceil(prompt / most) - 1
    last = call(DraftForward(1, prompt - whole * most - 1)) - call(DraftForward(1))
    return [*([call(DraftForward(1, most)) / 1000] * whole), last / 1000]


class _Forwards:
    """What forwards take that verify so many tokens or more, whichever is faster.

    Args:
        times: of the target.
    """

    def __init__(self, times: Times) -> None:
        alone = [times.forward(TargetForward(1, 1 + drafted)) for drafted in range(_ROWS)]
        behind = [times.forward(TargetForward(1, 1 + drafted, 0, _CONTEXT)) for drafted in range(_ROWS)]
        each = [(more - less) / _CONTEXT for less, more in zip(alone, behind, strict=True)]
        self._step = times.step
        self._rows, self._context = (list(accumulate(reversed(ms), min))[::-1] for ms in (alone, each))

    def seconds(self, drafted: int, context: int) -> float:
        """Of a step.

        Args:
            drafted: tokens that it verifies.
            context: tokens before them.
        """
        drafted = min(drafted, _ROWS - 1)
        return (self._step + self._rows[drafted] + context * self._context[drafted]) / 1000


class _Reading:
    """How long the target reads prompts, at least, beside the forward that decides their first token.

    Args:
        times: of the target.
    """

    def __init__(self, times: Times) -> None:
        self._most = PrefillBudget().most
        self._forward = times.forward
        alone = [times.forward(TargetForward(1, rows)) for rows in range(1, _ROWS)]
        self._last = [
            min(times.forward(TargetForward(1, rows, read)) - ms for rows, ms in enumerate(alone, 1))
            for read in range(self._most)
        ]
        self._token = min(
            (times.step + times.forward(TargetForward(0, 0, read))) / read
            for read in range(1, self._most + 1)
        )

    def seconds(self, prompt: int) -> float:
        """Of a prompt of so many tokens, one at least: the last ones with that forward, those before in others."""
        tokens = prompt - 1
        ms = min(beside + max(0, tokens - read) * self._token for read, beside in enumerate(self._last))
        far = max(0, tokens - self._most)
        reach = TargetForward(0, 0, 1, 0, far * (far + 1) // 2)
        return (ms + self._forward(reach) - self._forward(TargetForward(0, 0, 1))) / 1000
