"""A text from its request to its end: its states, its readers' rights, and what the journal has to have before whom.

No I/O, no await, no clock: calls take `now` in seconds and return effects. `TABLE`, at the end, says what happens in
which state. Confirmed text only grows; provisional text stands behind it, and is never a part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from edge_node.text.decoding import Origins, Piece
from edge_node.text.spec import IdempotencyKey, TextSpec
from flexspec_mq.errors import Cancelled, FlexSpecError, LinkError, TimeIsOver, WorkerError
from flexspec_mq.grammar.tools import HERMES, CallParser, ToolFormat
from flexspec_mq.models.byte_text.parser import ChannelParser
from flexspec_mq.protocol.table import Rows, TransitionTable
from schemas.node import TextFigures, TextView
from schemas.openai import unconfirmed

if TYPE_CHECKING:
    from edge_node.text.service import Wait

EndReason = Literal["stop", "length", "content_filter", "provisional"]


class TextState(StrEnum):
    """How far a text is."""

    QUEUED = "queued"
    OPENING = "opening"
    WRITING = "writing"
    ALONE = "alone"
    ENDING = "ending"
    PARKED = "parked"
    OVER = "over"


class TextEvent(StrEnum):
    """Events of a text."""

    BEGIN = "begin"
    WAIT = "wait"
    CONFIRMED = "confirmed"
    PROVISIONAL = "provisional"
    ENDED = "ended"
    PERSISTED = "persisted"
    READER = "reader"
    READER_LEFT = "reader left"
    READ = "read"
    AGED = "aged"
    DROPPED = "dropped"
    NODE_STOPS = "node stops"


class TextEffect(StrEnum):
    """Duties of whoever drives a text; all but the first two are for the journal."""

    STOP = "stop writing"
    QUEUE = "queue it again"
    ANSWER = "persist the answer"
    FAILURE = "persist the error"
    FORGET = "forget it"
    PARK = "have its user asked"
    NOTE_READ = "note that it was read"


_QUEUED, _OPENING, _WRITING, _ALONE, _ENDING, _PARKED, _OVER = TextState
_WRITTEN = _OPENING, _WRITING, _ALONE
_UNDECIDED = _QUEUED, *_WRITTEN
_DECIDED = _PARKED, _OVER


@dataclass(frozen=True, slots=True)
class End:
    """How a text ended: complete, unverified at its end (`provisional`), with figures; or by an error."""

    reason: EndReason | None
    figures: TextFigures | None = None
    error: FlexSpecError | None = None

    @property
    def unreached(self) -> bool:
        """Whether nobody could be reached, so that another try may have the text."""
        return self.reason == "provisional" or isinstance(self.error, LinkError | WorkerError)


class TextDropped(Cancelled):
    """A text was dropped from the outbox while others read it."""


class FinishedText(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is over, as the journal has it.

    Attributes:
        pieces: the text, by who wrote it.
        reason: how it ended.
        version: target version that wrote it.
        form: how that writes calls of tools.
        figures: figures of the text.
    """

    pieces: list[Piece]
    reason: EndReason
    version: str
    form: ToolFormat
    figures: TextFigures | None


class Text:
    """A text: written once, read by any number of readers, each at its own pace.

    Without a key a text is its readers': when the last one leaves it is cancelled. With a key it is the node's: it goes
    on without readers and through restarts, and its end is on the disk before anybody is told of it.

    Args:
        spec: request that it is written for.
        key: mark of requests that ask for it; None without one.
        name: id, for people and programs.
        created: seconds since the Unix epoch.
        now: time.
        age: seconds after which a text that nobody reads, and nobody has begun to write, waits for its user.
        new: whether its readers are told where nobody could be reached, and may ask again; the text of an earlier
            incarnation was promised.

    Attributes:
        state: how far it is.
        began: when it was asked for.
        version: target version that writes it, once it has begun.
        form: how that writes calls of tools; see `parser`.
        origins: who wrote which character.
        readers: number of clients that read it now.
        size: characters.
        provisional: text behind the confirmed text that no target has written, by the device alone.
        waits: whom it waits for; None while it goes on.
        figures: tells its figures as they are now; None before it has a session.
        end: how it ended, once anybody may know.
        watchers: called at each change.
    """

    violations: ClassVar[Counter[tuple[TextState, TextEvent]]] = Counter()
    """Events that have no row in the state that they met, of all texts."""

    def __init__(
        self,
        spec: TextSpec,
        key: IdempotencyKey | None = None,
        *,
        name: str,
        created: int = 0,
        now: float = 0.0,
        age: float = inf,
        new: bool = True,
    ) -> None:
        self.spec = spec
        self.key = key
        self.id = name
        self.created = created
        self.began = now
        self.state = TextState.QUEUED
        self.version = spec.version or ""
        self.form = HERMES
        self.origins = Origins()
        self.readers = 0
        self.size = 0
        self.provisional = ""
        self.waits: Wait | None = None
        self.figures: Callable[[], TextFigures] | None = None
        self.end: End | None = None
        self.watchers = set[Callable[[], None]]()
        self._age = age
        self._new = new
        self._parts: list[str] = []
        self._ending: tuple[End, TextState] | None = None  # until the disk has it
        self._out: list[TextEffect] = []

    @classmethod
    def recalled(
        cls, spec: TextSpec, key: IdempotencyKey, answer: bytes, *, name: str, created: int, now: float
    ) -> Text:
        """The text whose answer the journal has."""
        text = cls(spec, key, name=name, created=created, now=now)
        persisted = msgspec.json.decode(answer, type=FinishedText)
        text.version, text.form = persisted.version, persisted.form
        text._append(persisted.pieces)
        text._finish(End(persisted.reason, persisted.figures))
        return text

    # What can be read

    @property
    def complete(self) -> bool:
        """Whether it ended, and not by an error."""
        return self.end is not None and self.end.error is None

    @property
    def settled(self) -> bool:
        """Whether it is all that the target writes: complete, and not by the draft alone."""
        return self.complete and self.end is not None and self.end.reason != "provisional"

    @property
    def whole(self) -> str:
        """All of it so far."""
        return "".join(self._parts)

    def since(self, part: int) -> tuple[str, int]:
        """The text behind so many of its parts, and how many there are now."""
        return "".join(self._parts[part:]), len(self._parts)

    def parser(self) -> CallParser:
        """Reader of the calls in it, from its beginning; to be made when the text has begun."""
        return ChannelParser() if self.form.channels else CallParser(self.form, self.spec.tools)

    @property
    def outcome(self) -> str:
        """How it ended, for figures: a reason, ``deadline``, ``failed``, ``cancelled`` or ``stopped``."""
        if self.end is None or self.end.error is None:
            return (self.end and self.end.reason) or "failed"
        kinds = {TimeIsOver: "deadline", TextDropped: "cancelled", _Gone: "cancelled", _Stopping: "stopped"}
        return kinds.get(type(self.end.error), "failed")

    def answer(self) -> bytes:
        """The text with the end that it is about to have, for the journal."""
        assert self._ending is not None  # noqa: S101  see `TextEffect.ANSWER`
        end, _ = self._ending
        assert end.reason is not None  # noqa: S101  errors are persisted otherwise
        return msgspec.json.encode(
            FinishedText(
                pieces=self.origins.cut(self.whole, 0),
                reason=end.reason,
                version=self.version,
                form=self.form,
                figures=end.figures,
            )
        )

    @property
    def why(self) -> str:
        """Words for the journal: of its failure, or of its waiting for its user."""
        error = None if self._ending is None else self._ending[0].error
        return "nobody could be reached" if error is None else error.message

    def view(self) -> TextView:
        """The text as whoever looks at the node sees it: its state and figures, never the text."""
        state: Literal["queued", "writing", "waiting", "over"] = (
            "queued" if self.figures is None else "writing"
        )
        why = ""
        if self.end is not None:
            state, why = "over", "" if self.end.error is None else str(self.end.error)
        elif self.waits is not None:
            state, why = "waiting", self.waits.what
        return TextView(
            id=self.id,
            state=state,
            why=why,
            reason=(self.end and self.end.reason) or "",
            figures=None if self.figures is None else self.figures(),
        )

    # What can happen

    def begin(self) -> list[TextEffect]:
        """Its turn has come: it is written from now on."""
        return self._event(TextEvent.BEGIN)

    def wait(self, wait: Wait) -> list[TextEffect]:
        """It waits for somebody."""
        return self._event(TextEvent.WAIT, wait)

    def confirmed(self, pieces: Sequence[Piece]) -> list[TextEffect]:
        """The target has written more; that eats the beginning of the provisional text, or all where they differ."""
        return self._event(TextEvent.CONFIRMED, pieces)

    def unverified(self, text: str) -> list[TextEffect]:
        """This stands as provisional text behind the confirmed text."""
        return self._event(TextEvent.PROVISIONAL, text)

    def ended(self, end: End, now: float, *, goes_on: bool = False) -> list[TextEffect]:
        """It is written to its end, or nobody could. If it is not over then, call `persisted` when it is.

        Args:
            end: how.
            now: time.
            goes_on: the node is broken, and writes it on when it is started again.
        """
        return self._event(TextEvent.ENDED, end, now, goes_on)

    def persisted(self) -> list[TextEffect]:
        """The journal has its end, or never will."""
        return self._event(TextEvent.PERSISTED)

    def read(self) -> list[TextEffect]:
        """Another client reads it."""
        return self._event(TextEvent.READER)

    def left(self, now: float) -> list[TextEffect]:
        """A client reads it no longer."""
        return self._event(TextEvent.READER_LEFT, now)

    def was_read(self) -> list[TextEffect]:
        """A client has read it to its end."""
        return self._event(TextEvent.READ)

    def aged(self) -> list[TextEffect]:
        """It has waited for as long as texts do."""
        return self._event(TextEvent.AGED)

    def dropped(self) -> list[TextEffect]:
        """Its user does not want it any more."""
        return self._event(TextEvent.DROPPED)

    def node_stops(self) -> list[TextEffect]:
        """The node ends: what has a key goes on in its next incarnation."""
        return self._event(TextEvent.NODE_STOPS)

    # How it is done

    def _event(self, event: TextEvent, *what: object) -> list[TextEffect]:
        row = TABLE.expect(self.state, event, self.violations)
        row.handler(self, *what)
        TABLE.check(row, self.state)
        effects, self._out = self._out, []
        return effects

    def _begin(self) -> None:
        self.state = TextState.OPENING

    def _wait(self, wait: Wait) -> None:
        self.waits = wait
        self._tell()

    def _confirmed(self, pieces: Sequence[Piece]) -> None:
        self.waits = None
        if self._append(pieces):
            self.state = TextState.WRITING
            self._tell()

    def _append(self, pieces: Sequence[Piece]) -> str:
        part = "".join(piece for piece, _ in pieces)
        if part:
            self.origins.add(pieces)
            self._parts.append(part)
            self.size += len(part)
            self.provisional = unconfirmed(self.provisional, part)
        return part

    def _unverified(self, text: str) -> None:
        if text != self.provisional:
            self.state = TextState.ALONE
            self.provisional = text
            self._tell()

    def _ended(self, end: End, now: float, goes_on: bool) -> None:
        self._ending, self.state = (end, TextState.OVER), TextState.ENDING
        if self.key is None or (goes_on and end.error is not None):
            self._finish(end)
        elif end.error is None and not end.unreached:
            self._out.append(TextEffect.ANSWER)
        elif self.readers and (self._new or not end.unreached):
            self._finish(end)  # they are told first, or none might be there any more, and may ask again
            self._out.append(TextEffect.FORGET)
        elif not end.unreached:
            self._out.append(TextEffect.FAILURE)
        elif max(self.spec.wait or 0.0, now - self.began) < self._age:
            self._finish(end)  # the patience of its readers is over, and not its own
            self._out.append(TextEffect.QUEUE)
        else:
            self._ending = end, TextState.PARKED
            self._out.append(TextEffect.PARK)

    def _persisted(self) -> None:
        assert self._ending is not None  # noqa: S101  see `_ended`
        self._finish(*self._ending)

    def _reader(self) -> None:
        self.readers += 1

    def _left(self, now: float) -> None:
        self._left_over(now)
        if self.readers:
            return
        if self.key is None:
            self._finish(End(None, error=_Gone("whoever asked for it is gone")))
            self._out.append(TextEffect.STOP)
        elif now - self.began > self._age:
            self._aged()

    def _left_over(self, now: float) -> None:  # noqa: ARG002  the table's signature
        self.readers -= 1

    def _was_read(self) -> None:
        if self.key is not None and self.settled:
            self._out.append(TextEffect.NOTE_READ)

    def _aged(self) -> None:
        promised = self.figures is not None and self.figures().delivers
        if not (self.readers or self.size or promised):
            self._ending = End(None, error=_Gone("it waited for too long")), TextState.PARKED
            self._out += [TextEffect.STOP, TextEffect.PARK]
            self._finish(*self._ending)

    def _dropped(self) -> None:
        self._finish(End(None, error=TextDropped("the text was dropped from the outbox")))
        self._out += [TextEffect.STOP, TextEffect.FORGET]

    def _forgotten(self) -> None:
        self._out.append(TextEffect.FORGET)

    def _node_stops(self) -> None:
        self._finish(End(None, error=stopping()))
        self._out.append(TextEffect.STOP)

    def _nothing(self, *what: object) -> None:
        """Neither the text nor anybody who reads it is concerned."""

    def _finish(self, end: End, state: TextState = TextState.OVER) -> None:
        self.end, self.state = end, state
        if end.reason != "provisional":
            self.provisional = ""
        self._tell()

    def _tell(self) -> None:
        for tell in tuple(self.watchers):
            tell()

    ROWS: ClassVar[Rows[TextState, TextEvent]] = (
        ((_QUEUED,), (TextEvent.BEGIN,), _begin, (_OPENING,), "", "look for a worker"),
        (_WRITTEN, (TextEvent.WAIT,), _wait, (), "", "tell readers whom it waits for"),
        (_WRITTEN, (TextEvent.CONFIRMED,), _confirmed, (*_WRITTEN,),
         "there is a character", "append it, and take back provisional text that differs"),
        (_WRITTEN, (TextEvent.PROVISIONAL,), _unverified, (*_WRITTEN,),
         "it is another", "show it behind the confirmed text"),
        (_WRITTEN, (TextEvent.ENDED,), _ended, (_ENDING, _OVER),
         "no key, or the node is broken; complete; readers, who may ask again; failed; within its patience; else",
         "tell; persist the answer first; tell, and forget it; persist the error first; queue it again; park it first"),
        ((_ENDING,), (TextEvent.PERSISTED,), _persisted, _DECIDED, "", "tell readers of the end"),
        ((*_UNDECIDED, _ENDING, _OVER), (TextEvent.READER,), _reader, (), "", "count"),
        (_UNDECIDED, (TextEvent.READER_LEFT,), _left, (*_UNDECIDED, _PARKED, _OVER),
         "it was the last, and there is no key; and it is old", "cancel it; as when it has aged"),
        ((_ENDING, *_DECIDED), (TextEvent.READER_LEFT,), _left_over, (), "", "count"),
        (tuple(TextState), (TextEvent.READ,), _was_read, (), "it has a key, and is complete", "note it"),
        (_UNDECIDED, (TextEvent.AGED,), _aged, (*_UNDECIDED, _PARKED),
         "no reader, no character, no worker that delivers", "stop, and have its user asked"),
        ((_ENDING, *_DECIDED), (TextEvent.AGED,), _nothing, (), "", "nothing"),
        ((*_UNDECIDED, _ENDING), (TextEvent.DROPPED,), _dropped, (_OVER,), "", "stop, forget it, tell readers"),
        (_DECIDED, (TextEvent.DROPPED,), _forgotten, (), "", "forget it"),
        ((*_UNDECIDED, _ENDING), (TextEvent.NODE_STOPS,), _node_stops, (_OVER,), "", "stop, and tell readers"),
        (_DECIDED, (TextEvent.NODE_STOPS,), _nothing, (), "", "nothing"),
        ((_ENDING, *_DECIDED), (TextEvent.WAIT, TextEvent.CONFIRMED, TextEvent.PROVISIONAL, TextEvent.ENDED),
         _nothing, (), "", "nothing: it comes too late"),
        (_DECIDED, (TextEvent.PERSISTED,), _nothing, (), "", "nothing: it was dropped meanwhile"),
    )  # fmt: skip


class _Gone(Cancelled):
    """Nobody waits for it."""


class _Stopping(Cancelled):
    """The node ends."""


def stopping() -> Cancelled:
    """The error of a text that the end of its node ends."""
    return _Stopping("the edge node is stopping")


TABLE: TransitionTable[TextState, TextEvent] = TransitionTable(Text.ROWS)
