"""Record texts and measure times with the models of a worker, for simulations.

    python -m lab.recording FOLDER --questions 24 --tokens 64 …arguments of flexspec-cloud…

writes ``recording.json`` and ``times.json``. The draft is the one that the arguments name.
"""

from __future__ import annotations

import random
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

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
from lab.bench.questions import OWN, read_questions, spread
from lab.recording.texts import record
from lab.recording.times import measure
from lab.simulator.cost import keep_times
from lab.simulator.recording import About, keep_recording
from schemas.messages import PROTOCOL_VERSION, Identity

_ROUNDS = 8
"""Repetitions of each timed forward."""


def main(argv: Sequence[str]) -> int:
    """Record and measure.

    Raises:
        FlexSpecError: models cannot be loaded or do not go together, or a question is too long.
    """
    parser = ArgumentParser(prog="python -m lab.recording", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="is made; recording.json and times.json in it are replaced")
    parser.add_argument("--prompts", type=Path, default=OWN, help="JSON lines as of `flexspec bench`")
    parser.add_argument("--questions", type=int, default=24, help="only so many of them, evenly spaced")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of a text at most")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], help="one text at each")
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args(argv)
    questions = spread(read_questions(options.prompts), options.questions)
    config = from_arguments(build_parser().parse_args(["--worker", "recorded", *rest])).settings
    logs.configure(config.log)
    settings = config.worker
    with logs.logged_stages() as say:
        target = load(settings, say)
        draft = load_draft(choice(settings, settings.draft), say)
        loaded = target.loaded
        if (
            draft.model is None
            or draft.loaded.tokenizer_status.vocabulary != loaded.tokenizer_status.vocabulary
        ):
            raise FingerprintError("draft and target have different tokenizers")
        torch.set_num_threads(settings.threads)
        asked = []
        rng = random.Random(options.seed)
        for question in questions:
            turns = [Turn("user", question.text)]
            prompt = encode_turns(loaded.tokenizer, turns, max_context=loaded.max_context - options.tokens)
            for temperature in options.temperatures:
                identity = Identity(
                    PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, rng.getrandbits(64), loaded.eos, False,
                    options.tokens,
                )  # fmt: skip
                asked.append((prompt, identity))
        about = About(
            target=settings.target,
            draft=settings.draft,
            questions=tuple(f"{question.category} {question.name}" for question in questions),
            temperatures=tuple(options.temperatures),
            tokens=options.tokens,
            seed=options.seed,
        )
        recording = record(about, asked, EngineCore(target.model), draft.model, loaded, say)
        say("times of forwards are measured")
        times = measure(target, draft.model, rounds=_ROUNDS, seed=options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    with whole(options.folder / "recording.json") as part:
        keep_recording(part, recording)
    with whole(options.folder / "times.json") as part:
        keep_times(part, times)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
