"""What a run is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from flexspec_mq.energy.presets import built_in
from lab.bench.options import prompts
from lab.bench.questions import Question
from lab.bench.report import machine


def facts(options: Namespace, asked: Sequence[Question]) -> dict[str, Any]:
    """What a run is: all that must be the same when it goes on."""
    energy = None
    if options.energy != "none":
        radio = options.energy_radio or built_in().device(options.energy).radio
        energy = {"device": options.energy, "radio": radio}
    return {
        "target": machine.model(options.target),
        "draft": machine.model(options.draft),
        "prompts": machine.digest(prompts(options).read_bytes()),
        "questions": len(asked),
        "tokens": options.tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "links": options.links,
        "recorded": None if options.recorded is None else str(options.recorded.resolve()),
        "delays_ms": options.delays_ms,
        "strategies": options.strategies,
        "guesses": options.guesses,
        "worker_draft": options.worker_draft,
        "edge_flags": options.edge_flags,
        "policy_flags": options.policy_flags,
        "worker_flags": options.worker_flags,
        "server": options.server,
        "energy": energy,
        "machine": machine.machine(),
        "versions": machine.versions(),
    }
