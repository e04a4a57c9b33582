"""Calls of tools and answers by schemas, asked for by OpenAI's client and validated apart from the grammars."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fastjsonschema
from openai import APIError, AsyncOpenAI

from lab.bench.calls import CallableTool, read_tools
from lab.testbed.deployment import QUICK_STATUS, LocalDeployment, with_broker

_TEMPERATURES = (0.0, 0.7, 1.0)
_BY_SCHEMA_EVERY = 4

Calls = list[tuple[str, str]]
"""Names and arguments."""


@dataclass(slots=True)
class Validated:
    """Outcome of many calls.

    Attributes:
        cut: answers that ended at the limit, by tool.
        invalid: other answers that are no call of a tool with arguments that fit, each with its reason.
        tokens: tokens of all answers.
    """

    calls: int
    cut: dict[str, int]
    invalid: list[str]
    tokens: int


async def validate(
    calls: int,
    at_a_time: int,
    limit: int,
    flags: Sequence[str],
    edge: Sequence[str],
    say: Callable[[str], None],
) -> Validated:
    """Make calls over all tools in turn: of two tools one is asked for, or the answer has one's schema.

    Args:
        calls: how many.
        at_a_time: under way.
        limit: tokens of an answer.
        flags: flags of the worker.
        edge: flags of the edge node.
        say: told how far it is.
    """
    tools = read_tools()
    found = Validated(calls, {}, [], 0)
    cut: Counter[str] = Counter()
    left = iter(range(calls))

    async def client(openai: AsyncOpenAI) -> None:
        for number in left:
            pair = [tools[number % len(tools)], tools[(number * 7 + 3) % len(tools)]]
            reason, made, tokens = await _ask(openai, pair, number, limit)
            found.tokens += tokens
            if reason == "length":
                cut[pair[0].name] += 1
            elif why := why_invalid(reason, made, pair):
                found.invalid.append(f"call {number}: {why}")
                say(found.invalid[-1])
            if number % max(1, calls // 20) == 0:
                say(f"call {number} of {calls}, {sum(cut.values())} cut, {len(found.invalid)} invalid")

    async with with_broker() as here, asyncio.TaskGroup() as group:
        openai = await _client(here, flags, edge)
        for _ in range(at_a_time):
            group.create_task(client(openai))
    found.cut = dict(cut)
    return found


async def _client(here: LocalDeployment, flags: Sequence[str], edge: Sequence[str]) -> AsyncOpenAI:
    _, node = await asyncio.gather(here.worker("w1", *QUICK_STATUS, *flags), here.edge("e1", *edge))
    return AsyncOpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=600)


async def _ask(
    openai: AsyncOpenAI, pair: Sequence[CallableTool], number: int, limit: int
) -> tuple[str, Calls, int]:
    """Ask for a call; why the answer ended, the calls, and tokens."""
    tool = pair[0]
    body: dict[str, Any] = {
        "model": "base",
        "messages": [{"role": "user", "content": tool.asks[number // 20 % len(tool.asks)]}],
        "temperature": _TEMPERATURES[number % len(_TEMPERATURES)],
        "seed": number,
        "max_tokens": limit,
    }
    if number % _BY_SCHEMA_EVERY == 0:
        named = {"name": tool.name, "strict": True, "schema": tool.parameters}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    else:
        functions = [each.function for each in pair]
        # Small models repeat themselves: several calls are as long as they may be.
        body |= {"tools": functions, "tool_choice": "required", "parallel_tool_calls": False}
    streams = number // _BY_SCHEMA_EVERY % 2
    body |= {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
    try:
        answer: Any = await openai.chat.completions.create(**body)
        if streams:
            return await _streamed(answer, tool.name)
    except APIError as error:
        return str(error), [], 0
    choice = answer.choices[0]
    made = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return choice.finish_reason, made or [(tool.name, choice.message.content)], answer.usage.completion_tokens


async def _streamed(answer: Any, tool: str) -> tuple[str, Calls, int]:
    reason, tokens = "", 0
    made: dict[int, tuple[str, str]] = {}
    async for chunk in answer:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            parts = [(call.index, call.function) for call in choice.delta.tool_calls or ()]
            for index, part in parts:
                name, arguments = made.get(index, (part.name, ""))
                made[index] = name, arguments + (part.arguments or "")
            if choice.delta.content:
                made[0] = tool, made.get(0, ("", ""))[1] + choice.delta.content
    return reason, list(made.values()), tokens


def why_invalid(reason: str, made: Calls, pair: Sequence[CallableTool]) -> str:
    """Why an answer is no call of these tools; empty where it is one."""
    schemas = {tool.name: tool.parameters for tool in pair}
    if not made:
        return f"it ended with {reason} and calls nothing"
    for name, arguments in made:
        if name not in schemas:
            return f"there is no tool {name}"
        try:
            fastjsonschema.validate(schemas[name], json.loads(arguments))
        except (ValueError, fastjsonschema.JsonSchemaException) as error:
            return f"{name}: {error}: {arguments[:200]}"
    return ""
