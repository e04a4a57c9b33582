"""Work of one session, and its whole text, as the worker's machine asks an engine for them."""

from collections.abc import Callable, Sequence
from typing import Any

from cloud_worker.engine.interface import Engine
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import Identity


def work(
    identity: Identity,
    prompt: Sequence[int],
    text: Sequence[int] = (),
    draft: Sequence[int] = (),
    **more: Any,
) -> WorkItem:
    """The next item of a text; `more` are further fields."""
    return WorkItem(**{
        "key": ("edge", 1), "version": "base", "start": len(text), "digest": 0, "context": (*prompt, *text),
        "prompt_length": len(prompt), "draft": tuple(draft), "identity": identity, "seq": 1, "waiting_since": 0.0,
        **more,
    })  # fmt: skip


def write(
    engine: Engine,
    identity: Identity,
    prompt: Sequence[int],
    draft: Callable[[tuple[int, ...]], Sequence[int]] = lambda _: (),
    *,
    version: str = "base",
    room: int = 0,
) -> tuple[tuple[int, ...], int]:
    """A session's text, drafted for by what is called with its beginning, and the rounds that it took."""
    text, rounds = tuple[int, ...](), 0
    while len(text) < identity.limit and not {*text} & {*identity.eos}:
        most = identity.limit - len(text) - 1
        drafted = tuple(draft(text))[:most]
        engine.add(work(identity, prompt, text, drafted, version=version, room=min(room, most)))
        while not engine.idle():
            result = engine.step()
            assert not result.failed
            text = sum((tokens for _, tokens in result.decided), text)
        rounds += 1
    engine.free(("edge", 1))
    return text, rounds
