"""Content, reasoning and calls of a text of bytes."""

from __future__ import annotations

from typing import Any

from flexspec_mq.grammar.tools import (
    Aside,
    CallArguments,
    CallBegins,
    CallEnds,
    CallEvent,
    CallParser,
    Content,
    ReadCall,
    ToolFormat,
)
from flexspec_mq.models.byte_text.ids import Channel, split

CHANNELS = ToolFormat("", "", "", "", native=True, channels=True)
"""The form of calls in such a text."""
_OF_CHARACTER = {channel.character: channel for channel in Channel}


class ChannelParser(CallParser):
    """Content, reasoning and calls of a text whose server told them apart, read piece by piece."""

    def __init__(self) -> None:
        super().__init__(CHANNELS, None)
        self._channel = Channel.CONTENT
        self._name = ""

    @property
    def within(self) -> bool:
        """Whether the text stands within the arguments of a call."""
        return self._channel in (Channel.CALL, Channel.ARGUMENTS)

    def push(self, piece: str) -> list[CallEvent]:
        """Add text; returns what has become certain."""
        events: list[CallEvent] = []
        for part in split(piece):
            channel = _OF_CHARACTER.get(part)
            if channel is not None:
                events += self._turns_to(channel)
            elif self._channel is Channel.CONTENT:
                events.append(Content(part, self._at))
            elif self._channel in (Channel.REASONING, Channel.REFUSAL):
                kind: Any = self._channel.name.lower()
                events.append(Aside(part, self._at, kind))
            elif self._channel is Channel.CALL:
                self._name += part
            elif self._channel is Channel.ARGUMENTS:
                self.calls[-1] = self.calls[-1]._replace(arguments=self.calls[-1].arguments + part)
                events.append(CallArguments(len(self.calls) - 1, part))
            self._at += len(part)
        return events

    def _turns_to(self, channel: Channel) -> list[CallEvent]:
        before, self._channel, name = self._channel, channel, self._name
        if channel is Channel.ARGUMENTS and before is Channel.CALL:
            self.calls.append(ReadCall(name, ""))
            self._name = ""
            return [CallBegins(len(self.calls) - 1, name)]
        return [CallEnds(len(self.calls) - 1)] if channel is Channel.CALLED and self.calls else []

    def ahead(self, text: str) -> str:
        """The text itself: what a device writes alone calls nothing."""
        return text

    def finish(self) -> list[CallEvent]:
        """The text is over; nothing was held back."""
        return []
