"""What daemons take beside their models: some answers streamed over loopback, and the same ones simulated.

The times of `cloud_worker.recording` are of forwards alone. Around each one a worker takes messages, chooses tokens
and publishes, and a request goes through an edge node's API before anybody reads its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from flexspec_mq.bench.figures.seconds import Sample
from flexspec_mq.bench.measuring import WARM_UP, Asked
from flexspec_mq.bench.place.node import Node
from flexspec_mq.bench.place.place import place
from flexspec_mq.bench.strategies import STREAMING
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import UsageError
from flexspec_mq.simulator.answers import Answer, Setting
from flexspec_mq.simulator.clairvoyant import plans
from flexspec_mq.simulator.cost import Measured
from flexspec_mq.simulator.recording import Recording
from flexspec_mq.simulator.simulation import simulate

DAEMONS = "daemons.json"
"""In the folder of a run."""
_ANSWERS = 4


class DaemonTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In milliseconds; see `Measured`.

    Attributes:
        step: of a worker, beside the forwards.
        request: of an edge node, before it asks a worker.
    """

    step: float
    request: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Who is asked.

    Attributes:
        node: an edge node that streams.
        workers: flags of ``flexspec-cloud`` by version.
    """

    node: Node
    workers: Mapping[str, Sequence[str]]


async def daemon_times(
    folder: Path,
    recording: Recording,
    times: Measured,
    asked: Asked,
    streams: Streams,
    say: Callable[[str], None],
) -> DaemonTimes:
    """From the run's folder, or measured.

    Args:
        folder: of the run.
        recording: of its questions, in their order.
        times: of its models.
        asked: the questions.
        streams: who is asked.
        say: told what takes long.

    Raises:
        UsageError: the file is damaged.
        FlexSpecError: a daemon did not start, or an answer did not come.
    """
    file = folder / DAEMONS
    if file.exists():
        try:
            return msgspec.json.decode(file.read_bytes(), type=DaemonTimes)
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(
                f"{file} cannot be read: {error}", hint="remove it, and it is measured anew"
            ) from error
    count = len(asked.questions)
    numbers = sorted({count * place // _ANSWERS for place in range(_ANSWERS)})
    say(f"{len(numbers)} answers are streamed over loopback: what daemons take beside their models")
    measured = []
    async with place(None, {STREAMING: streams.node}, workers=streams.workers) as here:
        await here.ask(STREAMING, asked.body(WARM_UP, 0))
        for number in numbers:
            question = asked.questions[number]
            answer, costs = await here.ask(STREAMING, asked.body(question.text, 1 + number))
            measured.append(Sample.of_answer(number, question.category, STREAMING, answer, costs))
    alone = msgspec.structs.replace(times, step=0.0, request=0.0)
    setting = Setting(recording=recording, times=alone, link=None, seed=asked.seed)
    policy = partial(FixedPolicy, plans.fixed_plans()[plans.STREAMING])
    simulated = simulate(setting, policy, begins_s=[None] * count)
    found = beside(measured, [simulated[number] for number in numbers])
    with whole(file) as part:
        part.write_bytes(msgspec.json.encode(found))
    return found


def beside(measured: Sequence[Sample], simulated: Sequence[Answer]) -> DaemonTimes:
    """What answers took beyond what they should have: for a token behind the first, and until that one.

    Args:
        measured: streamed answers, one token a forward.
        simulated: the same ones.
    """
    pairs = [(one, other) for one, other in zip(measured, simulated, strict=True) if one.first is not None]
    steps = sum(one.tokens - 1 for one, _ in pairs)
    begun = sum((one.first or 0.0) - other.first for one, other in pairs)
    written = sum(one.seconds - other.seconds for one, other in pairs) - begun
    return DaemonTimes(
        step=max(0.0, 1000 * written / steps) if steps else 0.0,
        request=max(0.0, 1000 * begun / len(pairs)) if pairs else 0.0,
    )
