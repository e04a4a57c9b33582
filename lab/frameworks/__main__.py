"""Each framework's own examples of tools and structured output against an edge node, and a table of what works.

    python -m lab.frameworks --home ~/.cache/frameworks                 # all, with the default model
    python -m lab.frameworks --only langchain "openai (py)" --record asked.jsonl

Each framework gets an environment of its own with pinned packages under ``--home``, made once: pip, and npm for
JavaScript. The examples are unchanged but for URL, key and model. A feature works where the framework is content and
each answer is valid: calls of the request's tools with arguments that fit, texts that fit the request's schema. An
answer that ends at its limit owes that to nobody; such a feature is tried again, as is one whose tools were not called.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexspec_mq.errors import FlexSpecError
from lab.benchmarks._common import program
from lab.frameworks.recording import Recorder, recorder
from lab.frameworks.validity import Judged, judge
from lab.testbed.deployment import local_deployment
from lab.testbed.process import output, running

HERE = Path(__file__).parent
COLUMNS = ("chat", "tools", "structured", "stream")
OK, CUT, NO_CALL = "ok", "cut", "no call"
"""Outcomes of a feature, beside errors; the last is for a model that could call and never did."""
_EDGE = "frameworks"
_LIMIT = "400"
"""Tokens of texts whose request names no limit."""
_TRIES = 3
_WITHIN = 300.0
"""Seconds for one feature."""


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework and its example.

    Attributes:
        name: as people call it.
        example: file of the example, without its folder.
        package: package whose version is told.
        env: environment beside URL, key and model.
        python: which it needs.
    """

    name: str
    example: str
    package: str
    env: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def node(self) -> bool:
        """Whether it is JavaScript."""
        return self.example.endswith(".mjs")


FRAMEWORKS = (
    Framework("openai (py)", "use_openai.py", "openai"),
    Framework("openai (js)", "openai.mjs", "openai"),
    Framework("litellm", "use_litellm.py", "litellm"),
    Framework("langchain", "use_langchain.py", "langchain"),
    Framework("llama-index", "use_llama_index.py", "llama-index-core"),
    Framework("pydantic-ai", "use_pydantic_ai.py", "pydantic-ai-slim"),
    Framework("pydantic-ai, chat", "use_pydantic_ai.py", "pydantic-ai-slim", {"API": "openai-chat"}),
    Framework("instructor", "use_instructor.py", "instructor"),
    Framework("openai-agents", "use_openai_agents.py", "openai-agents"),
    Framework("openai-agents, chat", "use_openai_agents.py", "openai-agents", {"API": "chat_completions"}),
    Framework("autogen", "use_autogen.py", "autogen-agentchat"),
    Framework("haystack", "use_haystack.py", "haystack-ai"),
    Framework("dspy", "use_dspy.py", "dspy"),
    Framework("smolagents", "use_smolagents.py", "smolagents"),
    Framework("AI SDK, @ai-sdk/openai", "ai_openai.mjs", "@ai-sdk/openai"),
    Framework("AI SDK, openai-compatible", "ai_compatible.mjs", "@ai-sdk/openai-compatible"),
    Framework("AI SDK, ollama-ai-provider-v2", "ai_ollama.mjs", "ollama-ai-provider-v2"),
    Framework("ollama (py)", "use_ollama.py", "ollama"),
    Framework("ollama (js)", "ollama.mjs", "ollama"),
    Framework("llm", "use_llm.py", "llm"),
    Framework("aider", "use_aider.py", "aider-chat"),
    Framework("Open WebUI", "use_open_webui.py", "open-webui"),
    Framework("Open WebUI, Ollama", "use_open_webui.py", "open-webui", {"API": "ollama"}),
    Framework("Home Assistant", "use_home_assistant.py", "homeassistant", python="python3.13"),
    Framework("paho (MQTT)", "use_paho.py", "paho-mqtt"),
    Framework("mqttjs (MQTT)", "mqtt.mjs", "mqtt"),
)


async def _environment(framework: Framework, home: Path) -> tuple[list[str], str]:
    """Make a framework's environment where it is not there yet; the command that runs its example, and its version."""
    if framework.node:
        pinned, place = HERE / "examples/node/package.json", home / "node"
        make = [["npm", "install", "--prefix", str(place), "--no-audit", "--no-fund", "--silent"]]
        # A module looks for packages in the folders above its own.
        shutil.copytree(pinned.parent, place, dirs_exist_ok=True)
        command = ["node", str(place / framework.example)]
        version = json.loads(pinned.read_text())["dependencies"][framework.package]
    else:
        name = framework.example.removeprefix("use_").removesuffix(".py")
        pinned, place = HERE / f"requirements/{name}.txt", home / name
        python = str(place / "bin/python")
        make = [
            [framework.python, "-m", "venv", str(place)],
            [python, "-m", "pip", "install", "--quiet", "--no-compile", "--requirement", str(pinned)],
        ]
        command = [python, str(HERE / "examples/python" / framework.example)]
        lines = (line.partition("==") for line in pinned.read_text().splitlines())
        version = {key: value for key, _, value in lines}[framework.package]
    stamp, digest = place / "made", hashlib.sha256(pinned.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != digest:
        print(f"{framework.name}: making {place}", file=sys.stderr)
        for step in make:
            await output(step[0], step)
        stamp.write_text(digest)
    return command, version


@dataclass(slots=True)
class Row:
    """Outcome of a framework.

    Attributes:
        features: outcome of each feature by its name: one of `OK`, `CUT` and `NO_CALL`, or an error.
    """

    name: str
    version: str
    features: dict[str, str] = field(default_factory=dict)

    def column(self, column: str) -> str:
        """Outcome of all features of a column; empty where there is none."""
        came = {_kind(came) for name, came in self.features.items() if name.partition("_")[0] == column}
        return next((kind for kind in ("no", CUT, OK, NO_CALL) if kind in came), "")

    @property
    def whole(self) -> bool:
        """Whether all of it works, and tools were called where it has any."""
        came = [came for name, came in self.features.items() if name.partition("_")[0] == "tools"]
        return (OK in came or not came) and {*self.features.values()} <= {OK, NO_CALL}

    @property
    def first_fault(self) -> str:
        """The first feature that does not work, and why."""
        return next((f"{name}: {came}" for name, came in self.features.items() if _kind(came) == "no"), "")


def _kind(came: str) -> str:
    return came if came in {OK, CUT, NO_CALL} else "no"


async def run_example(
    name: str, command: Sequence[str], env: dict[str, str], recorded: Recorder
) -> dict[str, str]:
    """Run an example's features: what each came to, by its name.

    Args:
        name: name of the framework.
        command: command of the example.
        env: where and what it asks.
        recorded: proxy that it asks.
    """
    came: dict[str, str] = {}
    async with running(name, command, env=env) as example:
        for feature in (await example.event(lambda event: "features" in event, _WITHIN))["features"]:
            for _ in range(_TRIES):
                before = len(recorded.exchanges)
                await example.send({"feature": feature})
                told = await example.event(lambda event: "feature" in event, _WITHIN)
                came[feature] = _came(told.get("error"), [judge(it) for it in recorded.exchanges[before:]])
                if came[feature] not in {CUT, NO_CALL}:
                    break
            print(f"{name}, {feature}: {came[feature]}", file=sys.stderr)
    return came


def _came(error: str | None, judged: Sequence[Judged]) -> str:
    wrong = [fault for it in judged for fault in it.faults]
    if wrong or error:
        return wrong[0] if wrong else CUT if any(it.cut for it in judged) else str(error)
    return NO_CALL if any(it.tools for it in judged) and not any(it.calls for it in judged) else OK


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    lines = [
        f"| framework | version | {' | '.join(COLUMNS)} | whole |",
        "|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for row in rows:
        cells = [row.name, row.version, *map(row.column, COLUMNS), "yes" if row.whole else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {row.name}: {row.first_fault}" for row in rows if row.first_fault)])


async def compare(options: argparse.Namespace) -> list[Row]:
    """Run the frameworks one after the other against an edge node of their own.

    Args:
        options: flags of the command.
    """
    asked = [it for it in FRAMEWORKS if not options.only or it.name in options.only]
    if unknown := {*options.only} - {it.name for it in FRAMEWORKS}:
        raise FlexSpecError(
            f"no framework {sorted(unknown)}", hint=f"there is {', '.join(it.name for it in FRAMEWORKS)}"
        )
    model = () if options.target is None else ("--target", options.target)
    rows: list[Row] = []
    async with local_deployment() as here:
        await here.start_broker()
        await here.worker("w-frameworks", *model)
        edge = await here.edge(_EDGE, "--mqtt-ask", "--api-max-tokens", _LIMIT)
        async with recorder(edge.url) as (recorded, url):
            mqtt = f"{here.host}:{here.port}"
            env = {"URL": url, "KEY": "none", "MODEL": "base", "MQTT": mqtt, "EDGE": _EDGE}
            for framework in asked:
                began = len(recorded.exchanges)
                try:
                    command, version = await _environment(framework, options.home)
                    came = await run_example(framework.name, command, {**env, **framework.env}, recorded)
                    rows.append(Row(framework.name, version, came))
                except (FlexSpecError, OSError) as error:
                    said = f"{error} {getattr(error, 'hint', '')}".splitlines()
                    rows.append(Row(framework.name, "", {"chat": " ".join([*said[:1], *said[-1:]])}))
                if options.record is not None:
                    with options.record.open("a") as file:
                        for exchange in recorded.exchanges[began:]:
                            file.write(json.dumps({"framework": framework.name, **asdict(exchange)}) + "\n")
    return rows


@program(extras="models,serve,chat")
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    home = os.environ.get("FRAMEWORKS_HOME", "~/.cache/flexspec-frameworks")
    parser = argparse.ArgumentParser(
        "python -m lab.frameworks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--home", type=Path, default=Path(home).expanduser(), help="folder of their packages")
    parser.add_argument("--only", nargs="+", default=(), help="names of frameworks")
    parser.add_argument("--target", help="another target than the default model")
    parser.add_argument(
        "--record", type=Path, help="file to which requests and answers are appended, as JSON lines"
    )
    options = parser.parse_args(argv)
    options.home.mkdir(parents=True, exist_ok=True)
    rows = asyncio.run(compare(options))
    print(table(rows))
    return 0 if all(row.whole for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
