"""What the commands of ``flexspec-edge`` do once the node runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.streams import InputLines
from flexspec_mq.errors import FlexSpecError, TimeIsOver, UsageError, WorkerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence

    from edge_node.cli.view import SessionView
    from flexspec_mq.models.text import Turn

    Command = Callable[[SessionView], Awaitable[None]]

_HELP = """\
/help   this list
/quit   ends the chat, as the end of the input does
//…     a line that begins with one slash
All else is said to the model. `flexspec chat`, beside `flexspec-edge serve`, has more commands.
"""


def prepare(args: argparse.Namespace) -> Command:
    """The command that the flags name, with its input read and checked before anything is loaded.

    Raises:
        UsageError: the input cannot be used.
    """
    if args.command == "ask":
        prompt = _argument(args.prompt) if args.prompt is not None else _standard_input()
        if not prompt.strip():
            raise UsageError("the prompt is empty", hint="say what to write about")
        return lambda view: _ask(view, prompt)
    if args.command == "batch":
        from flexspec_mq.models.text import read_prompts

        prompts = read_prompts(args.file)
        if not prompts:
            raise UsageError(f"{args.file} holds no prompt")
        if args.at_once < 1:
            raise UsageError(f"--at-once {args.at_once} is less than 1")
        return lambda view: _batch(view, prompts, args.at_once)
    return _chat


def _argument(prompt: str) -> str:
    """The prompt from the command line, which Python decodes whatever its bytes are."""
    from flexspec_mq.models.text import text_from_bytes

    return text_from_bytes(os.fsencode(prompt))


def _standard_input() -> str:
    from flexspec_mq.models.text import text_from_bytes

    if sys.stdin is None:  # closed by whoever started us
        return ""
    return text_from_bytes(sys.stdin.buffer.read(), source="standard input")


async def _ask(view: SessionView, prompt: str) -> None:
    from flexspec_mq.models.text import Turn

    await _show(view, [Turn("user", prompt)])


async def _show(view: SessionView, turns: Sequence[Turn], **more: Any) -> str:
    """Write the next turn, show it as it comes, and return its text."""
    text = ""
    async with aclosing(view.write(turns)) as events:
        async for event in events:
            view.emit(event, **more)
            if event["type"] == "finish":
                text = event["text"]
    return text


async def _chat(view: SessionView) -> None:
    """One line of standard input is one turn or command; the end of input ends the chat. Says when it waits for one.

    With ``--events`` a line with `new` begins another conversation.

    A turn that fails is taken back and the chat goes on, unless it was the link that failed.
    """
    from flexspec_mq.models.text import Turn, text_from_bytes

    turns: list[Turn] = []
    lines = InputLines()
    while True:
        view.waiting()
        try:
            line = await lines.next()
            if line is None:
                return
            said, new = _said(text_from_bytes(line, source="the line"), as_json=view.events)
            if new:
                turns = []
            if not view.events and said.startswith("/"):
                if said == "/quit":
                    return
                said = _after_slash(view, said)
            if said.strip():
                answer = await _show(view, [*turns, Turn("user", said)])
                turns += [Turn("user", said), Turn("assistant", answer)]
        except (UsageError, WorkerError, TimeIsOver) as error:
            view.refused(error)


def _after_slash(view: SessionView, said: str) -> str:
    """The turn that a line with a slash in front is; empty for a command, which is done then.

    Raises:
        UsageError: there is no such command.
    """
    if said.startswith("//"):
        return said[1:]
    if said != "/help":
        raise UsageError(
            f"there is no command {said.partition(' ')[0][:40]}", hint="/help tells those that there are"
        )
    view.help(_HELP)
    return ""


def _said(line: str, *, as_json: bool) -> tuple[str, bool]:
    """What a line of the chat says: itself, or with ``--events`` the `say` of a JSON object, which may hold lines.

    Returns:
        It, and whether it begins another conversation, by the object's `new`.

    Raises:
        UsageError: it is no such object.
    """
    if not as_json:
        return line.strip(), False
    try:
        record = json.loads(line)
        said, new = record["say"], bool(record.get("new"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        said, new = None, False
    if not isinstance(said, str):
        raise UsageError("the line is no JSON object with `say`", hint='for example {"say": "Hello!"}')
    return said, new


async def _batch(view: SessionView, prompts: Sequence[tuple[str, str]], at_once: int) -> None:
    """Answer all prompts, `at_once` at a time; one that fails does not stop the others."""
    from flexspec_mq.models.text import Turn

    slots = asyncio.Semaphore(at_once)
    failures: list[FlexSpecError] = []

    async def one(name: str, prompt: str) -> None:
        async with slots:
            try:
                async with aclosing(view.write([Turn("user", prompt)])) as events:
                    async for event in events:
                        if event["type"] == "finish":
                            view.record(name, event)
            except FlexSpecError as error:
                failures.append(error)
                view.record(name, {"type": "error", "error": error.message, "hint": error.hint})

    try:
        async with asyncio.TaskGroup() as group:
            for name, prompt in prompts:
                group.create_task(one(name, prompt))
    except* BrokenPipeError:  # whoever read our output went away
        raise BrokenPipeError from None
    if failures:
        raise type(failures[0])(
            f"{len(failures)} of {len(prompts)} texts failed; the first: {failures[0].message}",
            hint=failures[0].hint,
        )
