"""``flexspec-edge`` or ``flexspec-cloud`` that writes its history, and whose clock and link can be made worse.

    python -m lab.chaos.traced edge|cloud HISTORY CONTROL SEED …arguments of the daemon…

Nothing of the daemon is replaced: what it decides is written down beside it. On SIGUSR1 it reads CONTROL, a JSON object
with `clock`, seconds that its clock is off, and `rate`, the share of messages that its link loses (`Weather`). A SEED
other than 0 has an edge node draw a new plan at every seventh batch or so.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_node import node, wire
from edge_node.generation import Generation, GenerationRequest
from edge_node.settings import PlanOptions
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.protocol.effects import Commit, Finish, ProvisionalDraft, Send
from lab.chaos.history import Committed, Finished, HistoryFile, Judged, Opened, Session
from lab.chaos.weather import Weather
from schemas.messages import Open, Verdict

_NEW_PLAN = 0.15


@dataclass(slots=True)
class RandomPolicy(Policy):
    """Draws a new plan at every seventh batch or so."""

    rng: random.Random
    _plan: Plan | None = None

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        """The plan for the next batch."""
        rng = self.rng
        if self._plan is None or rng.random() < _NEW_PLAN:
            self._plan = Plan(
                draft_length=rng.randint(0, 8),
                in_flight=rng.randint(1, 4),
                qos=rng.randint(0, 2),
                ahead=rng.choice((0, 0, rng.randint(8, 64))),
                worker_draft=rng.choice((0, rng.randint(1, 8))),
                trip_age=rng.choice((None, 0.5)),
            )
        return self._plan


def obey(control: Path, weather: Weather) -> None:
    """Read `control` on SIGUSR1."""
    clock, off = time.time, 0.0

    def read(*_signal: object) -> None:
        nonlocal off
        orders = json.loads(control.read_text("utf-8"))
        off, weather.rate = orders["clock"], orders["rate"]

    vars(time)["time"] = lambda: clock() + off
    signal.signal(signal.SIGUSR1, read)


@dataclass(slots=True)
class _Trace:
    """History of an edge node's sessions, opens, verdicts and tokens."""

    edge: str
    file: HistoryFile
    seed: int = 0

    @property
    def _now(self) -> tuple[float, str, int]:
        return time.monotonic(), self.edge, os.getpid()

    def generate(self, _node: object, request: GenerationRequest) -> None:
        self.seed = request.sampling.seed

    def begin(self, _wire: object, session: int, *_more: object) -> None:
        self.file.add(Session(*self._now, session, self.seed))

    def publish(self, _node: object, generation: Generation, send: Send) -> None:
        if isinstance(send.message, Open):
            self.file.add(Opened(*self._now, generation.session, send.to_worker or ""))

    def put(self, generation: Generation, event: Commit | Finish | ProvisionalDraft) -> None:
        if isinstance(event, Commit):
            self.file.add(Committed(*self._now, generation.session, event.start, tuple(event.tokens)))
        elif isinstance(event, Finish):
            self.file.add(Finished(*self._now, generation.session, event.reason.value))

    def heard(self, message: object) -> None:
        if isinstance(message, Verdict):
            worker, count = message.worker or "", len(message.tokens)
            self.file.add(Judged(*self._now, message.session, worker, message.start, count))


def trace_edge(trace: _Trace) -> None:
    """Have the edge node of this process write its history."""

    def before(holder: type, method: str, note: Callable[..., None]) -> None:
        real = getattr(holder, method)

        def noted(*args: Any) -> Any:
            note(*args)
            return real(*args)

        setattr(holder, method, noted)

    before(node.EdgeNode, "generate", trace.generate)
    before(wire.Wire, "begin", trace.begin)
    before(node.EdgeNode, "_publish", trace.publish)
    before(Generation, "put", trace.put)
    decode = wire.Wire.decode

    def heard(*args: Any) -> Any:
        message = decode(*args)
        trace.heard(message)
        return message

    setattr(wire.Wire, "decode", heard)  # noqa: B010  mypy would compare their types


def main() -> int:
    """Entry point; the daemon's exit code."""
    kind, history, control, seed, *arguments = sys.argv[1:]
    weather = Weather(random.Random(int(seed)))
    obey(Path(control), weather)
    if kind == "cloud":
        from cloud_worker.__main__ import main as cloud

        return cloud(arguments)
    from edge_node.cli.main import main as edge

    weather.begin()
    trace_edge(_Trace(Path(history).name.partition("-")[0], HistoryFile(Path(history))))
    if int(seed):
        policies = random.Random(int(seed))
        new = lambda *_args: RandomPolicy(random.Random(policies.getrandbits(64)))  # noqa: E731
        PlanOptions.new_policy = new  # type: ignore[method-assign]
    return edge(arguments)


if __name__ == "__main__":
    sys.exit(main())
