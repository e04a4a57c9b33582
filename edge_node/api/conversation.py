"""Turns of a conversation, from messages or items of any API."""

import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edge_node.api.errors import bad
from flexspec_mq.grammar.tools import ReadCall
from flexspec_mq.models.text import Image, Turn
from schemas.openai import MessagePart
from schemas.responses import ResponseInputPart, ResponseOutputText
from schemas.served import DATA_URL

_DATA_URL = re.compile(DATA_URL)
_KINDS = {"iVBORw0KGg": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGO": "gif"}
"""Beginnings of images in base64."""


def image_of(url: str, where: str, at: int = 0) -> Image:
    """An image behind so many characters of its turn, by its ``data:`` URL.

    Raises:
        ApiError: 400; it is none.
    """
    if not _DATA_URL.match(url):
        raise bad(
            where,
            f"{where} is {url[:40]!r}, and no data: URL of a PNG, JPEG, WebP or GIF image in base64",
            hint="send the bytes of the image: nothing is fetched from an address",
        )
    return Image(at, url)


def image_in_base64(data: str, where: str) -> Image:
    """An image at the beginning of its turn, in base64.

    Raises:
        ApiError: 400; it is none.
    """
    kind = next((kind for begins, kind in _KINDS.items() if data.startswith(begins)), "")
    return image_of(f"data:image/{kind};base64,{data}" if kind else data, where)


def content_of(
    content: str | Sequence[MessagePart | ResponseInputPart | ResponseOutputText], where: str, role: str
) -> tuple[str, tuple[Image, ...]]:
    """The text of a message, and the images in it.

    Raises:
        ApiError: 400, naming the part.
    """
    if isinstance(content, str):
        return content, ()
    texts, length, images = list[str](), 0, list[Image]()
    for number, part in enumerate(content):
        name = f"{where}[{number}]"
        image = None if isinstance(part, ResponseOutputText) else part.image_url
        if part.type not in ("image_url", "input_image"):
            if part.text is None:
                raise bad(f"{name}.text", f"{name}.text is missing")
            texts.append(part.text)
            length += len(part.text)
        elif image is None:
            raise bad(f"{name}.image_url", f"{name}.image_url is missing")
        elif role != "user":
            raise bad(name, f"{name} is an image, and only messages of the user have such")
        else:
            url, name = (
                (image, f"{name}.image_url")
                if isinstance(image, str)
                else (image.url, f"{name}.image_url.url")
            )
            images.append(image_of(url, name, length))
    return "".join(texts), tuple(images)


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
