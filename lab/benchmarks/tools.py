"""Tool calls and JSON over emulated links: seconds, bytes and tokens a round, beside the same with less.

    sudo .venv/bin/python -m lab.benchmarks.tools --links wifi 4g satellite --questions 40

Agents have four tools each, which all of their prompts describe, and go on from their earlier calls. `json` asks the
same by a schema alone. Sides: an edge node as it comes; one that drafts without llguidance; streaming; streaming from a
worker that decides each token by a forward of its own, however many ids the grammar allows (`streaming`, of which
shares are); and llama.cpp's server, where ``llama-server`` is installed or `--server` says how to start one. All but
the last write the same text; that one makes no calls where the target's template knows no tools. Flags are those of
`flexspec bench` (lab/README.md).
"""

import asyncio
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from edge_node.settings import PlanOptions
from flexspec_mq.errors import FlexSpecError
from lab.bench import options as flags
from lab.bench.figures import Sample, differing, shown, summary
from lab.bench.measuring import Answered, Asked, BenchChannel, ask_all, by_strategy
from lab.bench.questions import CallableTool, Question, read_tools
from lab.bench.strategies import RATIONED, SERVER, STREAMING, Devices, Node, drafting, streaming
from lab.bench.testbed import bench_testbed
from lab.benchmarks import _common
from lab.benchmarks.answers import llama_server
from lab.frameworks.validity import Answer, faults
from lab.testbed.link.profiles import LinkPlan

UNFORCED = "unforced"
"""Version of a worker that decides each token by a forward."""
OURS, BLIND, FORCED = PlanOptions().policy, "blind-drafts", "forced-streaming"
CALLS, JSON = "calls", "json"
_TOOLS_OF_AN_AGENT = 4
_REMEMBERED = 2
"""Earlier calls, with their results, that a prompt goes on from."""
_SYSTEM = "You are a helpful assistant of a home and an office. Call the function that the user needs."


def sides(devices: Devices) -> dict[str, Node]:
    """Edge nodes that are compared."""
    ours = (*drafting(devices), "--policy", OURS)
    return {
        OURS: Node(ours),
        BLIND: Node(ours, program=("lab.without", "llguidance", "edge_node")),
        FORCED: Node(streaming(devices)),
        STREAMING: Node(streaming(devices), UNFORCED),
    }


@dataclass(frozen=True, slots=True)
class Workload(Asked):
    """Things that agents are asked for; all that one agent is asked comes one after the other.

    Attributes:
        kind: `CALLS`, or `JSON` for answers by the tool's schema, without tools.
        wanted: the agent's tools and the one that is asked for, by question.
        answered: questions so far, which an agent's prompts go on from.
    """

    kind: str
    wanted: Sequence[tuple[Sequence[CallableTool], CallableTool]]
    answered: list[Answered]

    def body(self, text: str, number: int) -> dict[str, Any]:
        """A request of the chat endpoint; number 0 warms up."""
        at = max(0, number - 1)
        body = {**Asked.body(self, text, number), **self._form(at)}
        if self.kind == JSON:
            content = f"{self.wanted[at][1].description} Answer with the arguments in JSON.\n{text}"
            return {**body, "messages": [{"role": "user", "content": content}]}
        return {
            **body,
            "messages": [{"role": "system", "content": _SYSTEM}, *self._history(at), *body["messages"]],
            "parallel_tool_calls": False,
        }

    def _form(self, at: int) -> dict[str, Any]:
        """Fields that say what an answer is to be."""
        tools, tool = self.wanted[at]
        if self.kind == CALLS:
            return {"tools": [each.function for each in tools], "tool_choice": "required"}
        named = {"name": tool.name, "strict": True, "schema": tool.parameters}
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    def _history(self, at: int) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for earlier in range(max(0, at - _REMEMBERED), at):
            texts = {sample.side: sample.text for sample in self.answered[earlier].samples}
            name, brace, rest = texts.get(STREAMING, "").partition("{")
            if self.wanted[earlier][0] is not self.wanted[at][0] or not rest.endswith("}"):
                continue
            function = {"name": name, "arguments": brace + rest}
            call = {"id": f"call_{earlier}", "type": "function", "function": function}
            messages += [
                {"role": "user", "content": self.questions[earlier].text},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": call["id"], "content": '{"done": true}'},
            ]
        return messages

    def valid(self, samples: Sequence[Sample]) -> float:
        """Share of answers that are a call of one of the tools, or JSON, by its schema; others are cut, or free."""
        good = 0
        for sample in samples:
            name, brace, rest = sample.text.partition("{")
            called = Answer(calls=[(name, brace + rest)] if brace else [])
            answer = called if self.kind == CALLS else Answer(sample.text)
            good += not any(faults(self._form(sample.question), answer))
        return good / len(samples)


def workload(kind: str, strategies: Sequence[str], options: Namespace) -> Workload:
    """All asks, or `--questions` of them, spread over agents."""
    rng, tools = Random(f"agents/{options.seed}"), read_tools()
    rng.shuffle(tools)
    agents = [tools[at : at + _TOOLS_OF_AN_AGENT] for at in range(0, len(tools), _TOOLS_OF_AN_AGENT)]
    chosen: list[tuple[Sequence[CallableTool], CallableTool, str]] = []
    most = options.questions or sum(len(tool.asks) for tool in tools)
    for number, agent in enumerate(agents):
        asks = [(agent, tool, ask) for tool in agent for ask in tool.asks]
        rng.shuffle(asks)
        chosen += asks[: (most + number) // len(agents)]
    questions = [Question(f"{kind} {at}", tool.name, ask) for at, (_, tool, ask) in enumerate(chosen)]
    wanted = [(agent, tool) for agent, tool, _ in chosen]
    asked = (strategies, questions, options.tokens, options.temperature, options.seed)
    return Workload(*asked, kind, wanted, [])


async def measure(options: Namespace, name: str, plan: LinkPlan | None) -> dict[str, Any]:
    """Have all sides answer over a link.

    Raises:
        FlexSpecError: sides that write the target's text wrote different ones.
    """
    nodes, worker = sides(flags.devices(options)), flags.worker_flags(options)
    server = flags.server(options)
    names = [*nodes, *([SERVER] if server else [])]
    found: dict[str, Any] = {}
    async with bench_testbed(
        plan,
        nodes,
        workers={RATIONED: worker, UNFORCED: worker},
        programs={UNFORCED: ("lab.altered", "unforced")},
        server=server,
        say=_common.say,
    ) as here:
        for kind in (CALLS, JSON):
            asked = workload(kind, names, options)
            await ask_all(here, asked, BenchChannel(name), plan, asked.answered, _common.say)
            answers = by_strategy(asked.answered, names)
            everything = [sample for samples in answers.values() for sample in samples]
            if wrong := differing(everything, [SERVER]):
                raise FlexSpecError(f"sides wrote different texts: {', '.join(map(str, wrong))}")
            found[kind] = summary(answers, options.seed, [SERVER])
            print(f"\n{kind} over {name}, {len(asked.questions)} questions")
            for side, its in found[kind].items():
                its["valid"] = asked.valid(answers[side])
            print(_table(found[kind]))
    return found


def _table(found: Mapping[str, Mapping[str, Any]]) -> str:
    heads = [
        "", "answers", "valid", "tokens", "forced", "a round", "first, s", "s", f"of {STREAMING}", "IP bytes", "share",
    ]  # fmt: skip
    rows = []
    for name, one in found.items():
        shares = one.get(f"of_{STREAMING}", {})
        rows.append(
            [
                name, one["answers"], one["valid"], one["tokens"] / one["answers"], one["forced"],
                one["tokens_per_round"], one["median_first_s"], one["mean_s"][0], shown(shares.get("mean_s"), ".2f"),
                shown(one["ip_bytes"], ",.0f"), shown(shares.get("ip_bytes"), ".2f"),
            ]
        )  # fmt: skip
    return _common.table(heads, rows)


@_common.program(extras="models,serve")
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = flags.build_parser()
    parser.prog, parser.description = "python -m lab.benchmarks.tools", (__doc__ or "").partition("\n")[0]
    parser.set_defaults(tokens=512)
    options = parser.parse_args(argv)
    flags.check(options)
    results = {}
    with tempfile.TemporaryDirectory(prefix="flexspec-tools-") as scratch:
        options.server = options.server or llama_server(options.target, Path(scratch))
        for name, plan in flags.links(options).items():
            results[name] = asyncio.run(measure(options, name, plan))
    _common.finish("tools", results, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
