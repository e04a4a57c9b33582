"""The promises of a node to whoever asks, on a real journal: any order of readers, ends, drops and restarts.

Only the writer of the texts is a script here; everything that decides, and the file, is the node's own.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.api.errors import api_error
from edge_node.outbox.entries import OutboxFull
from edge_node.outbox.journal import Bounds, Journal
from edge_node.outbox.outbox import Outbox, TextRecord
from edge_node.text.decoding import Piece
from edge_node.text.machine import EndReason, Text, TextDropped, TextState
from edge_node.text.reading import ended
from edge_node.text.spec import IdempotencyKey, TextRequest, TextSpec
from edge_node.text.texts import KeyReused, TextBounds, Texts, TooManyTexts
from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError, LinkDown
from flexspec_mq.grammar.tools import HERMES
from flexspec_mq.protocol.effects import Finish, FinishReason
from lab.sim.disk import recorded
from schemas.node import TextFigures
from tests.daemons import until

pytestmark = pytest.mark.timeout(120)  # a reader who is told of no end

HOUR = 3600.0
FIGURES = TextFigures(
    prompt_tokens=1, tokens=1, seconds=0.0, first_token=None, rtt_ms=None, polls=0, reopens=0, worker=None
)


class Script:
    """Writes as it is told: each text waits for its end, by the text's prompt."""

    def __init__(self) -> None:
        self.closed = False
        self.failure: FlexSpecError | None = None
        self.node = self
        self.voice = None
        self.written: list[str] = []
        self.restarts: list[int] = []  # of the texts that have a key
        self._ends: dict[str, asyncio.Future[FinishReason | FlexSpecError]] = {}

    def end(self, prompt: str, how: FinishReason | FlexSpecError) -> None:
        """End a text that is written, or is about to be."""
        future = self._future(prompt)
        if not future.done():
            future.set_result(how)

    def _future(self, prompt: str) -> asyncio.Future[FinishReason | FlexSpecError]:
        return self._ends.setdefault(prompt, asyncio.get_running_loop().create_future())

    @asynccontextmanager
    async def writing(
        self, spec: TextSpec, told: Callable[..., None], record: TextRecord | None, speaking: None
    ) -> AsyncIterator[Any]:
        del told, speaking
        self.restarts += [] if record is None else [record.restarts]
        assert isinstance(spec.prompt, str)
        self.written.append(spec.prompt)
        try:
            yield _Writing(self._future(spec.prompt), spec.prompt)
        finally:
            del self._ends[spec.prompt]

    def close(self) -> None:
        """Nothing is left."""


class _Writing:
    """A text that is written."""

    span, version, form, session, tokens = None, "v", HERMES, 1, 0

    def __init__(self, end: asyncio.Future[FinishReason | FlexSpecError], prompt: str) -> None:
        self.generation = self
        self.finish: Finish | None = None
        self._end, self._prompt = end, prompt

    @property
    def reason(self) -> EndReason:
        assert self.finish is not None
        return "length" if self.finish.reason is FinishReason.LENGTH else "stop"

    def figures(self) -> TextFigures:
        return FIGURES

    async def pieces(self) -> AsyncGenerator[list[Piece]]:
        how = await self._end
        if isinstance(how, FlexSpecError):
            raise how
        self.finish = Finish(how)
        yield [(f"answer to {self._prompt}", "target")]


class NoFigures:
    """Whoever counts."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


def node(path: Path | None, script: Script, *, texts: int = 50, keep: float = HOUR, **limits: Any) -> Texts:
    """A node's texts, with what its outbox holds, `texts` at most, and answers for `keep` seconds."""
    outbox = Outbox(Journal(path, Bounds(texts=texts, retention=keep)))
    return Texts(cast("Any", script), TextBounds(**limits), cast("Any", NoFigures()), outbox)


def asked(prompt: str, key: str | None = None, **more: Any) -> tuple[TextRequest, IdempotencyKey | None]:
    named = None if key is None else IdempotencyKey(key, prompt.encode(), "/v1/completions")
    return TextRequest(spec=TextSpec(prompt=prompt, **more)), named


async def settle() -> None:
    """Let tasks and the outbox's thread do what is due."""
    for _ in range(5):
        await asyncio.sleep(0.002)


async def read(texts: Texts, prompt: str, key: str | None = None, **more: Any) -> Text:
    """Read a text to its end."""
    async with texts.reading(*asked(prompt, key, **more)) as text:
        await ended(text)
        return text


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def test_one_text_is_written_for_all_who_have_its_key(tmp_path: Path) -> None:
    script = Script()
    texts = node(tmp_path / "outbox", script, max_readers=3)
    readers = [asyncio.create_task(read(texts, "q", "k")) for _ in range(3)]
    await until(lambda: any(text.readers == 3 for text in texts._active))
    with pytest.raises(TooManyTexts, match="read its text"):
        await read(texts, "q", "k")
    with pytest.raises(KeyReused):
        await read(texts, "other", "k")
    script.end("q", FinishReason.STOP)
    assert {text.whole for text in await asyncio.gather(*readers)} == {"answer to q"}
    assert (await read(texts, "q", "k")).whole == "answer to q"
    with pytest.raises(KeyReused):
        await read(texts, "other", "k")
    assert script.written == ["q"]
    await texts.close()


async def test_nobody_is_let_in_or_told_before_the_disk_has_it(tmp_path: Path) -> None:
    script, slow = Script(), [threading.Event(), threading.Event()]
    texts = node(tmp_path / "outbox", script)
    texts.outbox.later(slow[0].wait, 20)
    reader = asyncio.create_task(read(texts, "q", "k"))
    await settle()
    assert (len(texts), script.written) == (0, [])
    slow[0].set()
    await until(lambda: script.written == ["q"])
    texts.outbox.later(slow[1].wait, 20)
    script.end("q", FinishReason.STOP)
    (entry,) = texts.outbox.journal.entries()
    text = texts.text(entry.id)
    await until(lambda: text is not None and text.state is TextState.ENDING)
    await settle()
    assert not reader.done()
    slow[1].set()
    assert (await reader).whole == "answer to q"
    await until(lambda: texts.outbox.counts == {"done": 1})
    await texts.close()


async def test_a_request_that_is_dropped_as_it_comes_again_is_not_written(tmp_path: Path) -> None:
    """Its text is neither under way nor over, while the disk is slow."""
    script, slow = Script(), threading.Event()
    texts = node(tmp_path / "outbox", script)
    name = await texts.persist(asked("q")[0], IdempotencyKey("k", b"q", "/v1/completions"))
    texts.outbox.later(slow.wait, 20)
    again = asyncio.create_task(read(texts, "q", "k"))
    await settle()
    dropped = asyncio.create_task(texts.drop(name))
    await settle()
    slow.set()
    await dropped
    with pytest.raises(TextDropped):
        raise (await again).end.error  # type: ignore[union-attr, misc]
    assert (texts.outbox.counts, len(texts)) == ({}, 0)
    await texts.close()


async def test_nobody_is_let_in_for_whom_the_outbox_has_no_room(tmp_path: Path) -> None:
    script = Script()
    texts = node(tmp_path / "outbox", script, texts=1)
    await texts.persist(asked("q")[0], IdempotencyKey("k", b"q"))
    with pytest.raises(OutboxFull) as full:
        await texts.persist(asked("p")[0], IdempotencyKey("l", b"p"))
    assert (api_error(full.value).status, api_error(full.value).code) == (503, "outbox_full")
    with pytest.raises(OutboxFull):
        await read(texts, "p", "l")
    assert script.written == []
    await texts.close()


async def test_requests_of_an_earlier_life_are_written_in_their_order_but_for_those_that_are_dropped(
    tmp_path: Path,
) -> None:
    script = Script()
    texts = node(tmp_path / "outbox", script)
    names = [
        await texts.persist(asked(each)[0], IdempotencyKey(each, b"d", "/v1/completions")) for each in "abcd"
    ]
    await texts.close()
    texts = node(tmp_path / "outbox", script, api_texts=1)
    async with running(texts.run(), "outbox"):
        await until(lambda: script.written == ["a"])
        for name in (names[1], names[0]):
            await texts.drop(name)
        for each in "cd":
            script.end(each, FinishReason.STOP)
        await until(lambda: texts.outbox.counts == {"unread": 2})
    assert script.written == ["a", "c", "d"]
    await texts.close()


async def test_an_old_request_waits_for_its_user_and_is_kept_though_it_is_asked_for_in_vain(
    tmp_path: Path,
) -> None:
    script, key = Script(), IdempotencyKey("k", b"q", "/v1/completions")
    texts = node(tmp_path / "outbox", script)
    await texts.persist(asked("q")[0], key)
    await texts.close()
    texts = node(tmp_path / "outbox", script, outbox_age=0.001)
    async with running(texts.run(), "outbox"):
        await until(lambda: texts.outbox.counts == {"stale": 1})
    assert (script.written, texts.waiting) == ([], 1)
    await texts.close()
    texts = node(tmp_path / "outbox", script, outbox_age=HOUR)
    async with running(texts.run(), "outbox"):
        script.end("q", LinkDown("away"))
        assert isinstance((await read(texts, "q", "k")).end.error, LinkDown)  # type: ignore[union-attr]
        await until(lambda: len(script.written) == 2)
        script.end("q", FinishReason.STOP)
        await until(lambda: texts.outbox.counts == {"unread": 1})
    assert script.restarts == [3, 4]
    await texts.close()


async def test_on_a_full_disk_answers_and_errors_are_told_and_all_else_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STATUS", 0.01)
    script = Script()
    with recorded() as recording:
        texts = node(tmp_path / "outbox", script, outbox_age=HOUR)
        async with running(texts.run(), "outbox"):
            for prompt in (prompts := ["away", "broken", "done", "dropped"]):
                async with texts.reading(*asked(prompt, prompt)):
                    pass
            recording.full = True
            ends: list[FinishReason | FlexSpecError]
            ends = [LinkDown(""), FlexSpecError("no"), FinishReason.STOP, FinishReason.STOP]
            for prompt, end in zip(prompts, ends, strict=True):
                script.end(prompt, end)
            await settle()
            told = [await read(texts, prompt, prompt) for prompt in ("broken", "done", "done", "dropped")]
            assert [text.whole for text in told] == ["", *["answer to done"] * 2, "answer to dropped"]
            await texts.drop(told[3].id)
            recording.full = False
            await until(lambda: script.written == [*prompts, "away"])
            await until(lambda: texts.outbox.counts.get("unread") == 1)
        await texts.close()


async def test_a_text_without_a_key_ends_with_its_last_reader() -> None:
    script = Script()
    texts = node(None, script, api_texts=1)
    async with texts.reading(*asked("q")) as text:
        with pytest.raises(TooManyTexts, match="as many as may be"):
            await read(texts, "another")
    assert text.state is TextState.OVER
    await until(lambda: len(texts) == 0)
    await texts.close()


async def test_a_failed_text_is_forgotten_where_its_reader_is_told_and_kept_where_nobody_is(
    tmp_path: Path,
) -> None:
    script = Script()
    texts = node(tmp_path / "outbox", script)
    for number, (reads, states) in enumerate([(True, {}), (False, {"failed": 1})]):
        async with AsyncExitStack() as reading:
            text = await reading.enter_async_context(texts.reading(*asked("q", f"k{number}")))
            if not reads:
                await reading.aclose()
            script.end("q", FlexSpecError("broken"))
            await ended(text)
        await until(lambda: texts.outbox.counts == states)  # noqa: B023  it ends before the next
    await texts.close()


async def test_answers_go_when_they_are_old_though_nobody_asks_for_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STATUS", 0.001)
    script = Script()
    texts = node(tmp_path / "outbox", script, keep=0.2)
    async with running(texts.run(), "outbox"):
        script.end("q", FinishReason.STOP)
        await read(texts, "q", "k")
        await until(lambda: texts.outbox.counts == {})
    await texts.close()


HOW: dict[str, FinishReason | FlexSpecError] = {
    "stop": FinishReason.STOP, "away": LinkDown("away"), "fail": FlexSpecError("no"),
}  # fmt: skip
Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "leave", "stop", "away", "fail", "drop", "restart", "power"]),
        st.integers(0, 2),
    ),
    max_size=14,
)


@settings(max_examples=30)
@given(STEPS)
def test_what_was_acknowledged_is_answered_once_or_told(steps: list[Step]) -> None:
    """A reader who has been let in finds its text again by its key, until an error or a drop was told it."""
    with tempfile.TemporaryDirectory() as folder:
        run(_schedule(steps, Path(folder) / "outbox"))


async def _schedule(steps: list[Step], path: Path) -> None:
    script = Script()
    texts = node(path, script, outbox_age=HOUR)
    going = asyncio.create_task(texts.run())
    acknowledged, answers = set[int](), dict[int, str]()
    readers: dict[int, AsyncExitStack] = {}
    reads: dict[int, Text] = {}

    def look() -> None:
        for at, text in list(reads.items()):
            if text.end is None:
                continue
            if text.settled:
                answers[at] = text.whole
            elif not texts.closed:
                acknowledged.discard(at)  # whoever asked was told, and asks again

    async def leave(at: int) -> None:
        look()
        reads.pop(at, None)
        if (stack := readers.pop(at, None)) is not None:
            await stack.aclose()

    for what, at in [*steps, ("restart", 0)]:
        name = f"q{at}"
        if what == "ask" and at not in readers:
            stack = AsyncExitStack()
            reads[at] = await stack.enter_async_context(texts.reading(*asked(name, f"k{at}")))
            readers[at] = stack
            acknowledged.add(at)
        elif what == "leave":
            await leave(at)
        elif what == "drop" and at in acknowledged:
            for entry in [each for each in texts.outbox.journal.entries() if each.key == f"k{at}"]:
                await texts.drop(entry.id)
                acknowledged.discard(at)
                answers.pop(at, None)
        elif what in ("stop", "away", "fail"):
            script.end(name, HOW[what])
        elif what in ("restart", "power"):
            look()
            await texts.close()
            for each in list(readers):
                reads.pop(each, None)
                await readers.pop(each).aclose()
            script = Script()
            texts = node(path, script, outbox_age=HOUR)
            known = {entry.key for entry in texts.outbox.journal.entries()}
            assert known >= {f"k{each}" for each in acknowledged}, "an acknowledged request is lost"
            going.cancel()
            going = asyncio.create_task(texts.run())
        await settle()
        look()
    for at in acknowledged:
        script.end(f"q{at}", FinishReason.STOP)
        text = await read(texts, f"q{at}", f"k{at}")
        if not text.complete:  # it was about to fail, and its reader is told; it may ask again
            script.end(f"q{at}", FinishReason.STOP)
            text = await read(texts, f"q{at}", f"k{at}")
        assert text.whole == f"answer to q{at}"
        assert answers.get(at, text.whole) == text.whole
    going.cancel()
    await texts.close()
