"""Records texts and measures times with the models of a worker, for simulations.

    python -m lab.recording ORDER RECORDING TIMES …arguments of flexspec-cloud…

ORDER is a file with an `Order`; the other two are written. The draft is the one that the arguments name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from cloud_worker.__main__ import build_parser
from cloud_worker.engine.draft import choice
from cloud_worker.engine.engine import EngineCore
from cloud_worker.engine.target import load
from cloud_worker.settings import from_arguments
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.errors import FingerprintError
from flexspec_mq.models.text import Turn, encode_turns
from lab.bench.hindsight.order import Order
from lab.recording.neighbour import neighbour
from lab.recording.texts import record
from lab.recording.times import measure
from lab.simulator.cost import keep_times
from lab.simulator.recording import keep_recording
from schemas.messages import PROTOCOL_VERSION, Identity


def main(argv: Sequence[str]) -> int:
    """Record and measure.

    Raises:
        FlexSpecError: models cannot be loaded or do not go together, or a question is too long.
    """
    order = msgspec.json.decode(Path(argv[0]).read_bytes(), type=Order)
    core = order.device_core
    config = from_arguments(build_parser().parse_args(argv[3:])).settings
    logs.configure(config.log)
    settings = config.worker
    with logs.logged_stages() as say:
        target = load(settings, say)
        draft = load_draft(choice(settings, settings.draft), say)
        if (
            draft.model is None
            or draft.loaded.tokenizer_status.vocabulary != target.loaded.tokenizer_status.vocabulary
        ):
            raise FingerprintError("draft and target have different tokenizers")
        torch.set_num_threads(settings.threads)
        loaded, about = target.loaded, order.about
        (temperature,) = about.temperatures
        asked = []
        for text, seed in zip(order.texts, order.seeds, strict=True):
            prompt = encode_turns(
                loaded.tokenizer, [Turn("user", text)], max_context=loaded.max_context - about.tokens
            )
            identity = Identity(
                PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, seed, loaded.eos, False, about.tokens
            )  # fmt: skip
            asked.append((prompt, identity))
        recording = record(about, asked, EngineCore(target.model), draft.model, loaded, say)
        say("times of forwards are measured")
        with contextlib.nullcontext() if core is None else neighbour(core, argv[3:]) as beside:
            times = measure(target, draft.model, rounds=order.rounds, seed=about.seed, neighbour=beside)
    with whole(Path(argv[1])) as part:
        keep_recording(part, recording)
    with whole(Path(argv[2])) as part:
        keep_times(part, times)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
