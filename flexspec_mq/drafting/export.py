"""``flexspec draft export``: from any decoder, or a base and a delta, to the folder that a device loads."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.progress import answer, stages
from flexspec_mq.daemon.signals import ending_interrupts
from flexspec_mq.errors import Cancelled, ModelError, UsageError
from flexspec_mq.models.cache import Progress
from flexspec_mq.models.onnx.folder import KINDS

if TYPE_CHECKING:
    from flexspec_mq.models.draft.calibrate import Coupled
    from flexspec_mq.models.kv import SessionKV
    from flexspec_mq.models.onnx.model import OnnxModel
    from schemas.messages import Sampling

_TEMPERATURES = (0.0, 0.7, 1.0)
_ANSWER = 64
"""Tokens of an answer that the confidence is fitted to."""
_PROMPTS = 12
_PASSES = (6, 12), (18, 32), (_PROMPTS * len(_TEMPERATURES), _ANSWER)
"""Answers of each pass, and tokens of an answer in it: the confidence is fitted after each."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``export`` to the commands of ``flexspec draft``; it sets ``func``."""
    export = commands.add_parser(
        "export",
        help="write a model as the folder that a device loads",
        description="With --onnx, write graphs that ONNX Runtime runs without torch and transformers; a device needs "
        "nothing else. Without it, join base and delta to an ordinary checkpoint folder.",
    )
    export.set_defaults(func=_export)
    which = export.add_mutually_exclusive_group(required=True)
    about_model = "any decoder: a checkpoint folder, a GGUF file, a name on the model hub, or 'default'"
    which.add_argument("--model", metavar="FOLDER", help=about_model)
    about_base = "base of a trained delta: a checkpoint folder, or 'default'"
    which.add_argument("--base", metavar="FOLDER", help=about_base)
    about_delta = "with --base: a trained delta (default: the one that ships)"
    export.add_argument("--delta", type=Path, metavar="FILE", help=about_delta)
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    export.add_argument(
        "--onnx", action="store_true", help="write graphs for ONNX Runtime, and no checkpoint"
    )
    about_weights = "with --onnx: mixed is 4 bits in MLPs and LM head and 8 in the attention (default: mixed)"
    export.add_argument("--weights", choices=tuple(KINDS), help=about_weights)
    about_ids = (
        "with --onnx: how many of the most frequent token ids the LM head keeps; 0 is all (default: 16384 where the "
        "delta knows which are frequent)"
    )
    export.add_argument("--ids", type=int, metavar="N", help=about_ids)
    about_target = (
        "with --onnx: target whose own answers the draft's confidence is fitted to, a folder or name (default: the "
        "delta's confidence, or that of the draft that ships)"
    )
    export.add_argument("--target", metavar="FOLDER", help=about_target)
    about_prompts = (
        f"with --target: JSON lines with `prompt` or `turns`, {_PROMPTS} at most (default: plain questions)"
    )
    export.add_argument("--prompts", type=Path, metavar="FILE", help=about_prompts)


def _export(args: argparse.Namespace) -> int:
    _check(args)
    from flexspec_mq.models.draft.artifact import export
    from flexspec_mq.models.onnx.write import write_onnx
    from flexspec_mq.models.text import PROMPTS, read_prompts

    # Before anything that takes minutes.
    prompts = PROMPTS if args.prompts is None else [prompt for _, prompt in read_prompts(args.prompts)]
    with stages() as tell, tempfile.TemporaryDirectory(prefix="flexspec-export-") as between:
        checkpoint = checkpoint_folder(args.model or args.base, tell)
        if args.base is not None:
            tell("joining base and delta")
            checkpoint = export(checkpoint, Path(between) / "draft" if args.onnx else args.out, args.delta)
        if args.onnx:
            tell(f"writing graphs of {checkpoint.name}")
            write_onnx(checkpoint, args.out, args.weights or "mixed", args.ids)
        if args.target is not None:
            _calibrate(args.out, args.target, prompts, tell)
    answer(str(args.out))
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.onnx and any(each is not None for each in (args.weights, args.ids, args.target)):
        raise UsageError(
            "--weights, --ids and --target are for --onnx",
            hint="a checkpoint is rounded by the device that loads it",
        )
    if args.prompts is not None and args.target is None:
        raise UsageError("--prompts are for a target to answer", hint="name it with --target")
    if args.ids is not None and args.ids < 0:
        raise UsageError(f"--ids {args.ids} is less than none", hint="0 keeps all")
    if args.model is not None and (args.delta is not None or not args.onnx):
        raise UsageError(
            "--model is exported as it is, for ONNX Runtime", hint="add --onnx; --delta goes with --base"
        )


def checkpoint_folder(name: str, tell: Progress) -> Path:
    """A checkpoint folder, converted or fetched first where it is a GGUF file or a name on the model hub.

    Args:
        name: a folder, GGUF file or name as a user wrote it.
        tell: told what takes longer than a second.

    Raises:
        ModelError: as of `find_model`.
    """
    from flexspec_mq.models.load import find_model, load_text

    source = find_model(name, progress=tell)
    if isinstance(source, Path):
        return source
    load_text(source, progress=tell)
    from huggingface_hub import snapshot_download

    tell(f"fetching {source}")
    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]))


@dataclass(slots=True)
class _Text:
    """Prompt and answer of the target.

    Attributes:
        params: sampling of both models.
        prompt: tokens of the prompt.
        ids: token ids of prompt and answer.
        kv: the target's KV cache.
    """

    params: Sampling
    prompt: int
    ids: list[int]
    kv: SessionKV

    def goes_on(self, length: int, eos: Sequence[int]) -> bool:
        """Whether the answer has neither so many tokens nor an end."""
        return not self.ids[self.prompt :] or (
            len(self.ids) - self.prompt < length and self.ids[-1] not in eos
        )


def _calibrate(graphs: Path, target: str, prompts: Sequence[str], tell: Progress) -> None:
    """Fit the confidence of an exported draft to ever more of the target's answers, and write each fit beside it.

    Raises:
        ModelError: the target cannot be loaded, or it answered too little.
        Cancelled: it was ended before the last fit.
    """
    from flexspec_mq.drafting.model_drafter import read_calibration
    from flexspec_mq.models.draft.artifact import MARKER
    from flexspec_mq.models.draft.calibrate import calibrate
    from flexspec_mq.models.draft.confidence import KEY, USUAL
    from flexspec_mq.models.onnx.model import load_onnx

    said = f"{graphs} can draft, with the usual confidence"
    failure: ModelError | None = None

    def say(text: str) -> None:
        tell(f"{said}; {text}")

    say("loading the target")
    usual = read_calibration(graphs) or USUAL
    draft = load_onnx(graphs)
    path = graphs / MARKER
    marker: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    try:
        with ending_interrupts():
            for texts in _answers(target, prompts, say):
                say("replaying the answers with the draft")
                # The target may have ids that the draft lacks.
                known = [text for text in texts if max(text.ids) < draft.manifest.vocab_size]
                replayed = [_replay(draft, number, text) for number, text in enumerate(known)]
                try:
                    calibration, reliable = calibrate(replayed, usual)
                except ModelError as error:
                    failure = error
                    continue
                failure = None
                training = {**marker.get("training", {}), "calibration": reliable.figures()}
                with whole(path) as part:
                    text = json.dumps({**marker, KEY: calibration.to_json(), "training": training})
                    part.write_text(text, "utf-8")
                taken = sum(int(each.accepted.sum()) for each in replayed) / reliable.positions
                said = f"the target takes {taken:.0%} of its tokens, and its confidence errs by {reliable.error:.0%}"
                say(f"by {reliable.positions} tokens")
    except KeyboardInterrupt:
        raise Cancelled(f"ended early: {said}", hint=f"{graphs} can be used as it is") from None
    if failure is not None:
        raise failure


def _answers(target: str, prompts: Sequence[str], tell: Progress) -> Iterator[list[_Text]]:
    """Answers of the target at all temperatures, written at once by its own noise: those of each pass."""
    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.load import load_target
    from flexspec_mq.models.packed import PackedModel, register
    from flexspec_mq.models.runner import ModelInput, to_numpy
    from flexspec_mq.models.text import Turn, encode_turns
    from flexspec_mq.sampling.choose import choose
    from schemas.messages import Sampling

    loaded = load_target(target, attn_implementation=register(), progress=tell)
    # Nobody verifies these texts, so rows need no shapes that keep their bits.
    model = PackedModel(loaded.model, Shapes(1, None, 1, 64, 64))
    texts: list[_Text] = []
    for prompt in prompts[:: -(-len(prompts) // _PROMPTS)]:
        ids = encode_turns(loaded.tokenizer, [Turn("user", prompt)], max_context=loaded.max_context - _ANSWER)
        for temperature in _TEMPERATURES:
            params = Sampling(temperature, seed=len(texts))
            texts.append(_Text(params, len(ids), [*ids], model.new_kv()))
    for most, length in _PASSES:
        if most > len(texts) and length < _ANSWER:
            continue
        while writing := [text for text in texts[:most] if text.goes_on(length, loaded.eos)]:
            written = sum(len(text.ids) - text.prompt for text in texts)
            tell(f"the target answers: {100 * written // (_ANSWER * len(texts))}%")
            rows = to_numpy(
                model.forward([ModelInput(text.kv, text.ids[text.kv.length :]) for text in writing])
            )
            for text, row in zip(writing, rows, strict=True):
                text.ids.append(choose(row, text.params, len(text.ids)))
        yield texts[:most]


def _replay(draft: OnnxModel, number: int, text: _Text) -> Coupled:
    """The draft's choices beside the target's, each after the target's own tokens."""
    import numpy as np

    from flexspec_mq.drafting.model_drafter import chosen
    from flexspec_mq.models.draft.calibrate import Coupled
    from flexspec_mq.models.runner import ModelInput

    answer = text.ids[text.prompt :]
    rows = draft.forward([ModelInput(draft.new_kv(), text.ids[:-1], len(answer))])
    features, accepted, run = [], [], 0
    for place, (row, token) in enumerate(zip(rows, answer, strict=True)):
        mine, seen = chosen(row, text.params, text.prompt + place, run, draft.ids)
        features.append(seen)
        accepted.append(mine == token)
        run = run + 1 if mine == token else 0
    return Coupled(
        number // len(_TEMPERATURES), text.params.temperature, np.array(features), np.array(accepted)
    )
