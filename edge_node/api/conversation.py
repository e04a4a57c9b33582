"""Turns of a conversation, from messages or items of any API."""

from bisect import bisect
from collections.abc import Iterable
from dataclasses import replace

from flexspec_mq.grammar.tools import ReadCall
from flexspec_mq.models.text import Turn


def continued(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The same turns, of which the last goes on if it is an answer that calls nothing."""
    *before, last = turns
    goes_on = last.role == "assistant" and not last.calls
    return (*before, replace(last, continued=True)) if goes_on else turns


class Conversation:
    """Turns as they come. Results of tools stand in the order of their calls: templates do not say which is whose.

    Args:
        turns: earlier turns.

    Attributes:
        turns: all turns.
    """

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self.turns: list[Turn] = []
        self._calls = 0
        self._waiting: dict[
            str, tuple[int, str]
        ] = {}  # number and tool of calls without a result, by their ids
        self._results: list[int] = []  # numbers of the calls whose results are the last turns
        for turn in turns:
            self.add(turn)

    def add(self, turn: Turn) -> None:
        """Append a turn."""
        self.turns.append(replace(turn, calls=()))
        self._results = []
        for call in turn.calls:
            self.call(call)

    def call(self, call: ReadCall) -> None:
        """Have the last answer call a tool; without an answer at the end it is one that only calls."""
        if not self.turns or self.turns[-1].role != "assistant":
            self.add(Turn("assistant", ""))
        self.turns[-1] = replace(self.turns[-1], calls=(*self.turns[-1].calls, call))
        self._waiting[call.id] = self._calls, call.name
        self._calls += 1

    def result(self, call_id: str, content: str) -> bool:
        """Append the result of a call, if one by that id waits for it; whether it does."""
        if not call_id or call_id not in self._waiting:
            return False
        number, tool = self._waiting.pop(call_id)
        at = bisect(self._results, number)
        self.turns.insert(
            len(self.turns) - len(self._results) + at, Turn("tool", content, tool=tool, answers=call_id)
        )
        self._results.insert(at, number)
        return True
