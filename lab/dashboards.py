"""Run every expression of ``deploy/observability`` in a real Prometheus, beside a deployment that writes.

    python -m lab.dashboards [--vllm FOLDER] [--grafana SCHEMA] [--crd FILE …]

A broker, a worker of two versions and two edge nodes, with the default model; Prometheus scrapes them by the rules and
the configuration that ship. An expression reads if it returns a number. ``--vllm`` has panels of vLLM's dashboards run
too, each with ``vllm:`` replaced by both prefixes, and prints which of them read. ``--grafana`` checks our dashboards
against Grafana's JSON schema (``jsonschema/dashboard.jsonschema.json`` of its foundation SDK), ``--crd`` manifests
against the definitions of their kinds, of Argo Rollouts and of KEDA.
"""

import argparse
import asyncio
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import fastjsonschema
import httpx2
import yaml

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.benchmarks import _common
from lab.benchmarks._common import say
from lab.testbed.chart import CHART, render
from lab.testbed.deployment import Daemon, LocalDeployment, free_port, local_deployment
from lab.testbed.family import EXAMPLES, Operator
from lab.testbed.process import Processes

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "observability"
SELECTOR = 'job="flexspec-worker"'
"""Labels of workers' series as ``prometheus.yml`` has them; a cluster has others."""
PREFIXES = ("flexspec_edge:", "flexspec_worker:")
_FAMILY, _STABLE, _CANARY = "smol", "v1", "v2"
_SPANS = {"$__rate_interval": "30s", "$__interval": "30s", "$__range": "2m"}
_WITH_USERS = "flexspec_broker_connections"
"""Figure of a broker with users, which this one has none of."""
_PATIENCE = 180.0
_QUESTIONS = (
    "Name four things that a healthy breakfast can have.",
    "How do trees survive the winter?",
    "Name four ways to save water at home.",
    "What should one look for when buying a used bicycle?",
)


class Expression(NamedTuple):
    """A query of a file.

    Attributes:
        place: file and panel, rule or metric.
        query: PromQL, with variables as the file's program writes them.
        variables: queries of the values of these.
    """

    place: tuple[str, str]
    query: str
    variables: Mapping[str, str] = {}


def of_dashboard(path: Path) -> Iterator[Expression]:
    """Expressions of a Grafana dashboard."""
    dashboard = json.loads(path.read_text("utf-8"))
    variables = {}
    for variable in dashboard["templating"]["list"]:
        query = variable.get("query", "")
        if variable["type"] == "query":
            variables[variable["name"]] = query["query"] if isinstance(query, dict) else query
    panels = [*dashboard["panels"]]
    while panels:
        panel = panels.pop(0)
        panels[:0] = panel.get("panels", ())
        for target in panel.get("targets", ()):
            yield Expression((path.stem, panel["title"]), target["expr"], variables)


def of_ours() -> Iterator[Expression]:
    """Expressions of all that ships, but for alerts, which say nothing while all is well."""
    for path in sorted((FOLDER / "grafana").glob("*.json")):
        yield from of_dashboard(path)
    arguments = {"canary": _CANARY, "stable": _STABLE}
    for metric in manifest("analysis-template")["spec"]["metrics"]:
        query = metric["provider"]["prometheus"]["query"].replace("[10m]", "[2m]")
        for name, value in arguments.items():
            query = query.replace(f"{{{{args.{name}}}}}", value)
        yield Expression(("analysis-template", metric["name"]), query)
    for trigger in yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["autoscaling"]["triggers"]:
        yield Expression(("scaling", trigger["name"]), trigger["query"].replace("$SELECTOR", SELECTOR))


def manifest(name: str) -> dict[str, Any]:
    """A YAML file that ships."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs.

    Attributes:
        http: client of its API.
    """

    http: httpx2.AsyncClient

    async def get(self, path: str, **arguments: str) -> Any:
        """The data of an answer.

        Raises:
            UsageError: it says why not.
        """
        answer = (await self.http.get(f"/api/v1/{path}", params=arguments)).json()
        if answer["status"] != "success":
            raise UsageError(f"Prometheus: {answer['error']}", hint="; ".join(arguments.values()))
        return answer["data"]

    async def reads(self, expression: Expression) -> bool:
        """Whether an expression returns a number, for some value of its variables where one is chosen."""
        query, single = expression.query, ""
        for name, values_of in expression.variables.items():
            written = re.compile(rf"\$(?:{name}\b|{{{name}}})")
            if not written.search(query):
                continue
            values = await self._values(values_of, expression.variables)
            if re.search(rf'[^=!~]="\$(?:{name}\b|{{{name}}})"', query):
                single = single or name
            else:
                query = written.sub(_any_of(values).replace("\\", r"\\"), query)
        choices = await self._values(expression.variables[single], expression.variables) if single else [""]
        for value in choices:
            found = await self._query(
                re.sub(rf"\$(?:{single}\b|{{{single}}})", value, query) if single else query
            )
            if any(not math.isnan(float(series["value"][1])) for series in found):
                return True
        return False

    async def value(self, query: str) -> float:
        """Value of an expression of one element, as KEDA reads it: nothing is 0."""
        found = await self._query(query)
        return float(found[0]["value"][1]) if found else 0.0

    async def _query(self, query: str) -> Any:
        for name, span in _SPANS.items():
            query = query.replace(name, span)
        return (await self.get("query", query=query))["result"]

    async def _values(self, query: str, variables: Mapping[str, str]) -> list[str]:
        """Values of a variable: ``label_values([selector, ]label)``."""
        match = re.fullmatch(r"label_values\((?:(.*),)?\s*(\w+)\)", query, re.DOTALL)
        if match is None:
            raise UsageError(f"a variable with another query than label_values: {query}")
        selector, label = match.groups()
        for name in variables:
            selector = selector and selector.replace(f"${name}", ".*")
        found: list[str] = await self.get(
            f"label/{label}/values", **({"match[]": selector.strip()} if selector else {})
        )
        return found


def _any_of(values: Sequence[str]) -> str:
    return f"({'|'.join(map(re.escape, values))})".replace("\\", "\\\\")


def against_crd(document: Mapping[str, Any], definition: Path) -> str:
    """Error of a manifest by the definition of its kind, which takes no unknown fields; empty without any."""
    spec = yaml.safe_load(definition.read_text("utf-8"))["spec"]
    group, _, version = document["apiVersion"].partition("/")
    if (spec["group"], spec["names"]["kind"]) != (group, document["kind"]):
        return ""
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in spec["versions"] if one["name"] == version)
    try:
        fastjsonschema.compile(_strict(schema), formats={"int32": ".*", "int64": ".*", "date-time": ".*"})(
            document
        )
    except fastjsonschema.JsonSchemaValueException as error:
        return error.message
    return ""


def _strict(schema: Any) -> Any:
    """The schema as the API server takes it: unknown fields are refused, integers or strings are either."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items() if key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = "properties" in schema and schema.get("type") == "object"
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inside = made["properties"].get("metadata", {})
        if inside == {"type": "object"}:
            made["properties"]["metadata"] = {}
        made["additionalProperties"] = False
    return made


async def _deployment(place: LocalDeployment, folder: Path) -> dict[str, list[int]]:
    """Start all daemons; ports of their figures by job."""
    broker = free_port()
    await place.start_broker("--metrics-port", str(broker))
    say("broker runs; the family begins")
    operator = await Operator.create(place, _FAMILY, folder)
    await operator.begin(_STABLE, await operator.base())
    worker = await place.worker("w1", *operator.follow("w1"))
    say("worker runs")
    flags = ("--energy", "phone-5g", "--latency-target", "1000")
    edges = [await place.edge(name, *operator.follow(name), *flags) for name in ("car", "van")]
    await operator.publish(_CANARY, EXAMPLES / "style", "--share", "50")
    say("edge nodes run; a canary is published")
    await asyncio.gather(*(_listed(edge) for edge in edges))
    return {
        "flexspec-broker": [broker],
        "flexspec-worker": [worker.port],
        "flexspec-edge": [edge.port for edge in edges],
    }


async def _listed(edge: Daemon) -> None:
    """Wait until an edge node lists the canary."""
    async with asyncio.timeout(_PATIENCE), httpx2.AsyncClient(base_url=edge.url) as http:
        while f"{_FAMILY}:{_CANARY}" not in (await http.get("/v1/models")).text:  # noqa: ASYNC110  others work on it
            await asyncio.sleep(0.2)


async def _asks(port: int) -> None:
    """Ask one question after the other, and go on from each answer once."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE) as http:
        for number in count():
            model = (f"{_FAMILY}:{_STABLE}", f"{_FAMILY}:{_CANARY}")[number % 2]
            messages = [{"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]}]
            for _ in range(2):
                body = {"model": model, "messages": messages, "max_tokens": 40}
                answer = await http.post("/v1/chat/completions", json=body)
                if answer.is_error:
                    raise FlexSpecError(f"an edge node says {answer.text}")
                messages.append(answer.json()["choices"][0]["message"])
                messages.append({"role": "user", "content": "Tell me more about the first."})


async def start_prometheus(
    processes: Processes, folder: Path, ports: Mapping[str, Sequence[int]], up: int
) -> Prometheus:
    """Start a Prometheus with the configuration that ships, at targets and times of this run.

    Args:
        processes: ended with them.
        folder: place of what it writes.
        ports: ports of targets, by job.
        up: targets that answer already.
    """
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [
            {"targets": [f"127.0.0.1:{port}" for port in ports.get(job["job_name"], ())]}
        ]
    file, port = folder / "prometheus.json", free_port()
    file.write_text(json.dumps(config))
    await processes.start(
        "prometheus",
        [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
    )
    made = Prometheus(httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0))
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                if await made.value("sum(up)") == up:
                    return made
            except (httpx2.HTTPError, ValueError):
                pass
            await asyncio.sleep(0.2)


async def _ours(prometheus: Prometheus) -> list[str]:
    """Expressions of ours that do not read, and rules that do not run."""
    wrong, read = [], 0
    for expression in of_ours():
        if _WITH_USERS in expression.query:
            continue
        if await prometheus.reads(expression):
            read += 1
        else:
            wrong.append(f"{': '.join(expression.place)}: {expression.query}")
    rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
    wrong += [f"alert {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    firing = sorted(rule["name"] for rule in rules if rule["state"] != "inactive")
    say(f"{read} expressions of {read + len(wrong)} read; alerts: {len(rules)}, pending or firing {firing}")
    return wrong


async def _vllm(prometheus: Prometheus, paths: Sequence[Path]) -> str:
    """A table of the panels of vLLM's dashboards: which read our metrics with the prefix changed."""
    rows: dict[tuple[str, str], dict[str, list[bool]]] = {}
    missing: dict[tuple[str, str], set[str]] = {}
    for path in paths:
        for expression in of_dashboard(path):
            for prefix in PREFIXES:
                variables = {
                    name: query.replace("vllm:", prefix) for name, query in expression.variables.items()
                }
                query = expression.query.replace("vllm:", prefix)
                reads = await prometheus.reads(Expression(expression.place, query, variables))
                rows.setdefault(expression.place, {}).setdefault(prefix, []).append(reads)
                if not reads:
                    missing.setdefault(expression.place, set()).update(
                        re.findall(r"vllm:(\w+)", expression.query)
                    )
    lines = ["| dashboard | panel | edge node | worker | what it asks for |", "|---|---|---|---|---|"]
    for place, by_prefix in rows.items():
        cells = [f"{sum(read)} of {len(read)}" for read in by_prefix.values()]
        names = "" if all(map(all, by_prefix.values())) else ", ".join(sorted(missing[place]))
        lines.append(f"| {' | '.join((*place, *cells))} | {names} |")
    return "\n".join(lines)


def _check_schemas(grafana: Path | None, definitions: Sequence[Path]) -> list[str]:
    wrong = []
    if grafana is not None:
        check = fastjsonschema.compile(json.loads(grafana.read_text("utf-8")), use_default=False)
        for path in sorted((FOLDER / "grafana").glob("*.json")):
            try:
                check(json.loads(path.read_text("utf-8")))
            except fastjsonschema.JsonSchemaValueException as error:
                wrong.append(f"{path.stem}: {error.message}")
    if definitions:
        chart = render("--set", "image.registry=example,autoscaling.enabled=true,podMonitor.enabled=true")
        for document in (manifest("analysis-template"), *chart):
            errors = [why for file in definitions if (why := against_crd(document, file))]
            wrong += [f"{document['kind']}: {why}" for why in errors]
    return wrong


async def _run(options: argparse.Namespace, vllm: Sequence[Path]) -> list[str]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flexspec-dashboards-")))
        place = await stack.enter_async_context(local_deployment())
        ports = await _deployment(place, folder)
        up = sum(map(len, ports.values()))
        prometheus = await start_prometheus(place.processes, folder, ports, up)
        stack.push_async_callback(prometheus.http.aclose)
        say(f"Prometheus scrapes; two clients of each node ask for {options.seconds} s")
        asking = [asyncio.create_task(_asks(port)) for port in ports["flexspec-edge"] for _ in range(2)]
        await asyncio.wait(asking, timeout=options.seconds)
        wrong = [f"a client: {task.exception()!r}" for task in asking if task.done()]
        wrong += await _ours(prometheus)
        if vllm:
            print(await _vllm(prometheus, vllm))
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    return wrong


def run(argv: Sequence[str]) -> int:
    """Run the check with these flags; returns the exit code."""
    parser = _common.parser(__doc__.partition("\n")[0])
    parser.add_argument("--vllm", type=Path, metavar="FOLDER", help="folder of vLLM's dashboards")
    parser.add_argument("--grafana", type=Path, metavar="FILE", help="JSON schema of dashboards")
    parser.add_argument(
        "--crd", type=Path, nargs="+", default=[], metavar="FILE", help="definitions of kinds"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of load before the expressions are run")
    options = parser.parse_args(argv)
    vllm = [] if options.vllm is None else sorted(options.vllm.rglob("*.json"))
    wrong = _check_schemas(options.grafana, options.crd) + asyncio.run(_run(options, vllm))
    for line in wrong:
        say(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(run_main(run))
