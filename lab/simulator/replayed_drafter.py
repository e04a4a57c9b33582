"""A drafter that answers from a recording, and says what it would have computed."""

from collections.abc import Callable, Sequence

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.models.kv import ReadTokens
from lab.simulator.cost import DraftForward
from lab.simulator.recording import RecordedText, Recording

_WRITING = 16
"""A session with no more unread tokens than these goes on with its text, as in `ModelDrafter`."""


class ReplayedDrafter:
    """A `Drafter` over recorded texts. It gives one token at a time, as a model does.

    Args:
        recording: recording with every text that it is asked for.
        spend: has the time of a forward pass.
        prefill: tokens of prompts that one forward reads; a session whose prompt is not read to its end gets no
            token.
    """

    def __init__(self, recording: Recording, spend: Callable[[DraftForward], None], *, prefill: int) -> None:
        self._texts = by_seed(recording)
        self._longest = recording.max_context
        self._spend = spend
        self._prefill = prefill
        self._read: dict[int, ReadTokens] = {}

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._longest

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """The recorded token for each whose prompt is read."""
        found: list[Drafted] = [None] * len(wanted)
        read = 0
        left = self._prefill
        for place, one in enumerate(wanted):
            unread = self.unread(one)
            if unread > _WRITING:
                share = min(unread, left)
                left -= share
                self._goes_on(one, share - unread)
                read += share
                if share < unread:
                    continue
                read -= 1
            else:
                self._goes_on(one, 0)
                read += unread - 1
            text = self._texts[one.identity.sampling.seed, one.identity.sampling.temperature]
            found[place] = (text.proposal(place_of(one)),)
        self._spend(DraftForward(len(wanted), read))
        return found

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """None: every token of it takes a forward."""
        return [()] * len(wanted)

    def free(self, session: int) -> None:
        """Forget a session."""
        self._read.pop(session, None)

    def unread(self, one: DraftRequest) -> int:
        """How many tokens of a context it has to read, the last one in any case."""
        known = self._read.get(one.session)
        if known is None:
            return len(one.context)
        return len(one.context) - min(known.common(one.context), len(one.context) - 1)

    def _goes_on(self, one: DraftRequest, short: int) -> None:
        """It has read a context but for the last tokens, `-short` of them."""
        read = self._read.setdefault(one.session, ReadTokens())
        read.tokens = [*one.context[: len(one.context) + short]]


class Pace:
    """Time that a device's drafter takes.

    Args:
        call: milliseconds of a forward.

    Attributes:
        spent: seconds since it was asked last.
    """

    def __init__(self, call: Callable[[DraftForward], float]) -> None:
        self.spent = 0.0
        self._call = call

    def spend(self, forward: DraftForward) -> None:
        """A forward takes its time."""
        self.spent += self._call(forward) / 1000


def place_of(one: DraftRequest) -> int:
    """Position of the wanted token, in generated tokens."""
    return len(one.context) - one.prompt_length


def by_seed(recording: Recording) -> dict[tuple[int, float], RecordedText]:
    """The texts, by seed and temperature."""
    return {(text.seed, text.temperature): text for text in recording.texts}
