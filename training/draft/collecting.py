"""From files of prompts to a file of target-written rows, saved every so often and resumed where it stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.evolution.canaries import load_base
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.load import LoadedText, load_target, load_text
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.text import Turn, decode, encode_turns, read_prompts, render_turns
from flexspec_mq.models.tokenizer import Tokenizer
from training.cli_common import progress_bar
from training.draft.collect import TextOrder, write_texts
from training.draft.rows import TextRows, concat, load_rows, make_rows, save_rows
from training.draft.train import Stopped
from training.draft.version import read_version

log = logging.getLogger(__name__)

INVENTED_TEMPERATURE, INVENTED_TOP_P = 1.0, 0.95
SAVE_SECONDS = 300.0
_MARK = "Where a user's words go."


@dataclass(frozen=True, slots=True)
class CollectFiles:
    """Files that collecting reads and writes.

    Attributes:
        base: Checkpoint folder of the target.
        prompts: JSON lines with ``prompt`` or ``turns``.
        out: The rows, ``.npz``; invented prompts go to ``<out>.prompts.jsonl`` beside it.
        head: Folder of a head: that version answers, not the base.
    """

    base: Path
    prompts: tuple[Path, ...]
    out: Path
    head: Path | None = None

    @property
    def invented(self) -> Path:
        """Prompts that the target wrote itself."""
        return self.out.with_name(self.out.name + ".prompts.jsonl")


@dataclass(frozen=True, slots=True)
class CollectConfig:
    """How texts are written.

    Attributes:
        temperatures: Each prompt is answered at all of them, one after another.
        top_p: Above temperature 0.
        max_new: Tokens of an answer at most.
        max_prompt: Longer prompts are left out, in tokens.
        at_once: Texts that share the forwards.
        limit: Texts at most, those of earlier runs included; None for all.
        invent: Prompts that the target writes itself first, above those of the files.
        seed: seed of the noise.
        device: torch device of the target.
    """

    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)
    top_p: float = 0.95
    max_new: int = 192
    max_prompt: int = 1024
    at_once: int = 48
    limit: int | None = None
    invent: int = 0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: Says what would do.
        """
        different = len(set(self.temperatures)) == len(self.temperatures) > 0
        if not different or not 0 <= min(self.temperatures) <= max(self.temperatures) <= 100:
            raise UsageError(
                "temperatures are between 0 and 100, each named once",
                hint="for example: --temperatures 0 0.7 1",
            )
        least = min(self.max_new, self.max_prompt, self.at_once, 1 if self.limit is None else self.limit)
        if not 0 < self.top_p <= 1 or least < 1 or self.invent < 0:
            raise UsageError("top-p is above 0 and at most 1, lengths and numbers of texts are 1 or more")


def collect_text(
    files: CollectFiles, config: CollectConfig, should_stop: Callable[[], bool]
) -> TextRows | None:
    """Let the target answer prompts, or go on with it.

    A row's identity is its prompt and temperature: what the file has is not written again.

    Args:
        files: Where to read and write.
        config: How texts are written.
        should_stop: Asked after each forward; unfinished texts are then lost, finished ones saved.

    Returns:
        All rows, or None if it was stopped.

    Raises:
        ModelError: A file is unreadable, the model cannot be loaded, or there is nothing to answer.
    """
    words = [prompt for path in files.prompts for _, prompt in read_prompts(path, may_be_blank=True)]
    had = load_rows(files.out) if files.out.exists() else None
    model = load_text(files.base)
    version = None if files.head is None else read_version(files.head, files.base, model)
    if version is None or version.head is None:
        base = load_target(files.base, device=config.device, attn_implementation=register())
        writer = _Writer(PackedModel(base.model), frozenset(model.eos), config, should_stop)
    else:
        holder = load_base(files.base, dtype="bfloat16", device=config.device)
        holder.hold(version.digest, version.head)
        writer = _Writer(holder, frozenset(model.eos), config, should_stop, version.digest)
    try:
        words += invent_prompts(writer, model, files)
        prompts = encode_prompts(
            model.tokenizer, words, min(config.max_prompt, model.max_context - config.max_new)
        )
        if not prompts:
            raise UsageError("there are no prompts to answer", hint="give --prompts or --invent")
        if left_out := len(set(words)) - len(prompts):
            log.info("%d prompts are blank or too long and left out", left_out)
        return _answer(writer, prompts, had, files.out)
    except Stopped:
        return None


def wanted_orders(prompts: Sequence[tuple[int, ...]], config: CollectConfig) -> list[TextOrder]:
    """All texts that a finished collection has, in the order in which they are written."""
    top_p = config.top_p
    return [
        TextOrder(prompt, t, top_p if t else 1.0, config.max_new, config.seed)
        for t in config.temperatures
        for prompt in prompts
    ][: config.limit]


def invent_prompts(writer: _Writer, model: LoadedText, files: CollectFiles) -> list[str]:
    """Let the target write what a user would ask; those that are in the file already are kept.

    Each line of the file has its number, and the text is a function of number and seed. Texts that did not
    end by themselves, and empty ones, have an empty prompt there.

    Raises:
        Stopped: As `collect_text` is.
    """
    config, path = writer.config, files.invented
    if not config.invent:
        return []
    known = _read_invented(path) if path.exists() else {}
    begin = invitation(model.tokenizer)
    orders = {
        number: TextOrder(
            begin, INVENTED_TEMPERATURE, INVENTED_TOP_P, config.max_new, (config.seed << 32) + number
        )
        for number in range(config.invent)
        if number not in known
    }
    numbers = {order: number for number, order in orders.items()}

    def on_text(order: TextOrder, tokens: tuple[int, ...]) -> None:
        ended = tokens[-1] in writer.eos
        known[numbers[order]] = decode(model.tokenizer, tokens).strip() if ended else ""

    def save() -> None:
        lines = [json.dumps({"invented": i, "prompt": known[i]}, ensure_ascii=False) for i in sorted(known)]
        with whole(path) as part:
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    writer.write(list(orders.values()), on_text, save, "prompts invented")
    return [known[number] for number in range(config.invent) if known[number]]


def _read_invented(path: Path) -> dict[int, str]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {int(line["invented"]): str(line["prompt"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot read invented prompts from {path}: {error!r}", hint="remove the file to invent them anew"
        ) from error


def _answer(writer: _Writer, prompts: Sequence[tuple[int, ...]], had: TextRows | None, out: Path) -> TextRows:
    rows = [] if had is None else [had]
    done = set() if had is None else _identities(had)
    fresh: list[tuple[TextOrder, tuple[int, ...]]] = []

    def save() -> None:
        if fresh:
            orders, answers = zip(*fresh, strict=True)
            rows.append(make_rows([o.prompt for o in orders], answers, [o.temperature for o in orders]))
            fresh.clear()
            rows[:] = [concat(rows)]
            save_rows(out, rows[0])

    orders = [
        o for o in wanted_orders(prompts, writer.config) if (o.prompt, np.float32(o.temperature)) not in done
    ]
    writer.write(orders, lambda order, tokens: fresh.append((order, tokens)), save, "answers")
    return rows[0]


def _identities(rows: TextRows) -> set[tuple[tuple[int, ...], np.float32]]:
    """Prompt and temperature of each row."""
    return {
        (tuple(rows.row(i)[: rows.prompt_len[i]].tolist()), np.float32(rows.temperature[i]))
        for i in range(len(rows))
    }


@dataclass(slots=True)
class _Writer:
    """Writes texts with progress and saves."""

    model: TargetModel
    eos: frozenset[int]
    config: CollectConfig
    should_stop: Callable[[], bool]
    head: str = ""

    def write(
        self,
        orders: Sequence[TextOrder],
        on_text: Callable[[TextOrder, tuple[int, ...]], None],
        save: Callable[[], None],
        what: str,
    ) -> None:
        """Write all; ``save`` is called every so often and at the end, whatever ends it."""
        began = saved = time.monotonic()
        tokens = finished = in_finished = 0

        def on_finished(order: TextOrder, text: tuple[int, ...]) -> None:
            nonlocal finished, in_finished, saved
            on_text(order, text)
            finished += 1
            in_finished += len(text)
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()

        def describe() -> str:
            speed = tokens / max(1e-9, time.monotonic() - began)
            text = f"{finished} of {len(orders)} {what}, {tokens} tokens, {speed:.0f} tokens/s"
            if not finished:
                return text
            left = len(orders) * in_finished / finished - tokens
            return f"{text}, {max(0.0, left) / max(1e-9, speed) / 60:.0f} min left"

        def on_step(count: int) -> None:
            nonlocal tokens
            tokens += count
            show(finished / len(orders), describe)
            if self.should_stop():
                raise Stopped

        with progress_bar() as show:
            try:
                write_texts(
                    self.model,
                    orders,
                    self.eos,
                    on_finished,
                    head=self.head,
                    at_once=self.config.at_once,
                    on_step=on_step,
                )
                log.info(describe())
            finally:
                save()


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], longest: int) -> list[tuple[int, ...]]:
    """Token ids that the target continues, of prompts that are not blank and have ``longest`` tokens at most.

    Repeated prompts are left out, so that a text is told from others by its prompt and temperature.
    """
    found: dict[tuple[int, ...], None] = {}
    for prompt in prompts:
        try:
            found[encode_turns(tokenizer, [Turn("user", prompt)], max_context=longest + 1)] = None
        except UsageError:  # blank or too long
            continue
    return list(found)


def invitation(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the chat template up to where a user's words begin: what the target continues as a user would.

    Raises:
        ModelError: There is no chat template, or it puts nothing before a user's words.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the model has no chat template, so it cannot invent prompts", hint="give prompts of your own"
        )
    rendered = render_turns(tokenizer, [Turn("user", _MARK)])
    before = rendered.split(_MARK, maxsplit=1)[0]
    ids = tokenizer.encode(before, add_special_tokens=False)
    if not ids or before == rendered:
        raise ModelError(
            "the chat template has nothing before a user's words to continue", hint="give prompts of your own"
        )
    return tuple(ids)
