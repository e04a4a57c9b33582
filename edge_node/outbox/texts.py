"""A text as the journal knows it without reading its file, learned from the rows of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import msgspec

from edge_node.outbox.entries import Entry, Opening, State, unpacked
from edge_node.outbox.records import Kind, RecordPart

REQUEST_FIELDS = "id", "key", "digest", "path", "client", "choice", "mode", "accepted"
STATUS_FIELDS = "accepted", "state", "restarts", "error", "finished", "read"
"""Fields of an entry in the rows of these kinds: append only."""
_UNKNOWN = Entry(id="", key="", digest=b"", path="", body=b"", accepted=0.0)


def fields_of(entry: Entry, names: Sequence[str]) -> bytes:
    """Fields of an entry as a row has them."""
    return msgspec.msgpack.encode([getattr(entry, name) for name in names])


@dataclass(slots=True, eq=False)
class PersistedText:
    """A text as the file has it.

    Attributes:
        number: number of its first row.
        entry: the request, without body and tokens, which are read from the file when they are asked for.
        since: number before which rows of tokens are of another session.
        parts: numbers of the rows of each kind; tokens by their place in the text.
        sizes: bytes of body and answer, and number of tokens from each place on.
    """

    number: int
    entry: Entry = _UNKNOWN
    since: int = 0
    parts: dict[bytes | int, range] = field(default_factory=dict)
    sizes: dict[bytes | int, int] = field(default_factory=dict)

    def take(self, part: RecordPart) -> None:
        """Learn what a part says, the parts of a text in the order in which they were written."""
        key: bytes | int = part.kind
        if (data := part.data) is None:
            return
        if key == Kind.REQUEST:
            self.entry = replace(
                self.entry, **dict(zip(REQUEST_FIELDS, msgspec.msgpack.decode(data), strict=False))
            )
        elif key == Kind.STATUS:
            restarts = self.entry.restarts
            known = dict(zip(STATUS_FIELDS, msgspec.msgpack.decode(data), strict=False))
            self.entry = replace(self.entry, **known | {"restarts": max(restarts, known["restarts"])})
        elif key == Kind.SESSION:
            self.since, restarts, opened = msgspec.msgpack.decode(data, type=tuple[int, int, Opening])
            self.entry = replace(self.entry, opened=opened, restarts=max(restarts, self.entry.restarts))
        elif key == Kind.TOKENS:
            commit = unpacked(data)
            key, self.sizes[commit.start] = commit.start, len(commit.tokens)
        elif key == Kind.BODY:
            name, _, body = data.partition(b"\n")
            self.sizes[Kind.BODY] = len(body)
            if self.entry is _UNKNOWN:  # its request is damaged
                self.entry = replace(_UNKNOWN, id=name.decode())
        else:
            self.sizes[key] = len(data)
        self.parts[key] = part.numbers

    def settle(self) -> None:
        """Do without what goes with another session, or with its end."""
        ended = not self.entry.unfinished
        for place in self.places:
            if ended or self.parts[place][0] < self.since:
                del self.parts[place]
        if ended and self.parts.pop(Kind.SESSION, range(0)):
            self.entry = replace(self.entry, opened=None)

    @property
    def places(self) -> list[int]:
        """Places of its tokens."""
        return sorted(place for place in self.parts if isinstance(place, int))

    @property
    def run(self) -> list[int]:
        """Places from the first on without a gap."""
        ends = accumulate((self.sizes[place] for place in self.places), initial=0)
        return [place for place, end in zip(self.places, ends, strict=False) if place == end]

    @property
    def state(self) -> State:
        """The entry's, or that it is being written."""
        return "writing" if self.entry.state == "queued" and self.places else self.entry.state

    @property
    def size(self) -> int:
        """Bytes of body and answer."""
        return self.sizes.get(Kind.BODY, 0) + self.sizes.get(Kind.ANSWER, 0)

    @property
    def lacks(self) -> bool:
        """Whether a part is missing, as in a damaged file only."""
        if self.entry.state == "failed":
            return False
        done = self.entry.state == "done"
        return (
            Kind.BODY not in self.parts
            or (Kind.ANSWER in self.parts) != done
            or bool(self.places and not self.entry.opened)
        )
