"""Make what the shipped draft is compared with: ``python scripts/draft_comparison.py --help``.

``prompts`` takes prompts from text that the base wrote, and with them the base's answers, so that versions can
answer the same. ``traditional`` trains all weights of a draft on the base's text: its backbone, its blocks, its norm,
and an embedding and an LM head of its own. Start, text, loss, batches and learning rates are those of `flexspec draft
train --from-delta` with the same options and the whole LM head in every step, so the same steps are the same effort.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.draft.artifact import read_marker
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import load_target, load_text
from flexspec_mq.models.text import Turn, decode, encode_turns
from flexspec_mq.training.architecture import lm_head_weight
from flexspec_mq.training.cache import StateCache
from flexspec_mq.training.losses import Head, LossSums, chunks
from flexspec_mq.training.rows import load_rows, make_rows, save_rows
from flexspec_mq.training.schedule import TrainConfig
from flexspec_mq.training.session import describe
from flexspec_mq.training.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel


def prompts(args: argparse.Namespace) -> int:
    """Write prompts, and the base's own answers to them."""
    text = load_text(args.base)
    found: dict[str, tuple[tuple[int, ...], list[int], float]] = {}
    for file in args.text:
        rows = load_rows(file)
        wanted = len(found) + args.count
        for row in random.Random(args.seed).sample(range(len(rows)), len(rows)):
            ids, length = rows.row(row).tolist(), int(rows.prompt_len[row])
            if length > args.longest or len(found) == wanted:
                continue
            # Between the turns of the chat template, whose marks of turns are special tokens.
            words = decode(text.tokenizer, ids[:length]).split("user\n", 1)[-1].removesuffix("\nassistant\n")
            prompt = encode_turns(text.tokenizer, [Turn("user", words)], max_context=text.max_context)
            if prompt == tuple(ids[:length]):
                answer = ids[length : length + args.tokens]
                found.setdefault(words, (prompt, answer, float(rows.temperature[row])))
    lines = [json.dumps({"prompt": words}, ensure_ascii=False) for words in found]
    random.Random(args.seed).shuffle(lines)
    args.out.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    save_rows(args.answers, make_rows(*zip(*found.values(), strict=True)))
    answers = sum(len(answer) for _, answer, _ in found.values())
    print(json.dumps({"prompts": len(found), "answer_tokens": answers}))
    return 0


class AllWeights(Trainer):
    """Trains all weights of a draft, also those that ours takes from its base.

    Args:
        base: the teacher.
        cache: its states.
        config: how to train, with the whole LM head.
        draft: to begin with; its LM head becomes its own.
    """

    def __init__(
        self, base: PreTrainedModel, cache: StateCache, config: TrainConfig, draft: PreTrainedModel
    ) -> None:
        super().__init__(base, cache, config, on_progress=lambda done: print(describe(done), file=sys.stderr))
        whole: Any = draft
        whole.lm_head.weight = nn.Parameter(whole.lm_head.weight.detach().clone())
        whole.config.tie_word_embeddings = False
        self.draft = whole.requires_grad_()
        self._whole = whole
        self.own(whole.named_parameters())
        self._theirs = lm_head_weight(base)

    def run_student(self, rows: list[int]) -> torch.Tensor:
        """The draft's final states over whole rows, ``(rows, positions, width)``, padded on the right."""
        text = self.cache.text
        ids = torch.zeros(len(rows), int(text.length[rows].max()), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : text.length[row]] = torch.from_numpy(text.row(row))
        states: torch.Tensor = self._whole.model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def differentiate(self, rows: list[int], head: Head, kl_share: float) -> LossSums:
        """Leave the gradients of the mean loss in the draft's parameters, the LM head's among them."""
        student, teacher = self.final_states(rows)
        hidden = student.detach().requires_grad_()
        kl_sum = overlap_sum = 0.0
        for span in chunks(len(student)):
            z = (hidden[span] @ self._whole.lm_head.weight.T).float() / head.temperature
            t = (teacher[span] @ self._theirs.T).float() / head.temperature
            log_q, log_p = z.log_softmax(-1), t.log_softmax(-1)
            kl = (log_p.exp() * (log_p - log_q)).sum()
            overlap = torch.minimum(log_p.exp(), log_q.exp()).sum()
            loss = kl_share * kl - (1 - kl_share) * overlap
            (loss / len(student)).backward()
            kl_sum += float(kl.detach())
            overlap_sum += float(overlap.detach())
        student.backward(hidden.grad)  # type: ignore[no-untyped-call]
        return LossSums(len(student), kl_sum, overlap_sum)


def traditional(args: argparse.Namespace) -> int:
    """Train all weights of the draft that ships, and write a checkpoint."""
    torch.set_num_threads(args.threads)
    base, start = default_model_path(), default_draft_path()
    meta = read_marker(start)
    config = TrainConfig(
        meta.n,
        meta.start,
        max_steps=args.steps,
        step_tokens=args.step_tokens,
        learning_rate=args.learning_rate,
        temperatures=tuple(args.temperatures),
        hybrid_from=args.hybrid_from,
        common_ids=0,
    )
    teacher, draft = load_target(base).model, load_target(start).model
    width = lm_head_weight(teacher).shape[1]
    cache = StateCache(args.cache, load_rows(*args.text), base=meta.base_fingerprint, n=meta.n, width=width)
    trainer = AllWeights(teacher, cache, config, draft)
    trainer.run()
    shutil.copytree(start, args.out)
    draft.save_pretrained(args.out)
    print(describe(trainer.progress))
    return 0


def main() -> int:
    """Run one action."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(required=True)
    one = actions.add_parser("prompts", help="write prompts, and the base's answers to them")
    one.add_argument("--base", default="default", metavar="FOLDER")
    one.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="the base's text")
    one.add_argument(
        "--count", type=int, default=160, metavar="N", help="prompts of each (default: %(default)s)"
    )
    one.add_argument(
        "--longest", type=int, default=200, metavar="TOKENS", help="of a prompt (default: %(default)s)"
    )
    one.add_argument(
        "--tokens", type=int, default=96, metavar="N", help="of an answer (default: %(default)s)"
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="prompts, JSON lines")
    one.add_argument("--answers", type=Path, required=True, metavar="FILE", help="the base's answers (.npz)")
    one.add_argument("--seed", type=int, default=0, metavar="N")
    one.set_defaults(func=prompts)
    two = actions.add_parser("traditional", help="train all weights of the draft that ships")
    two.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="the base's text")
    two.add_argument("--cache", type=Path, required=True, metavar="FOLDER", help="of the base's states")
    two.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint to write")
    two.add_argument("--steps", type=int, required=True, metavar="N")
    two.add_argument("--step-tokens", type=int, default=1024, metavar="TOKENS")
    two.add_argument("--learning-rate", type=float, default=2e-3, metavar="RATE")
    two.add_argument("--temperatures", type=float, nargs="+", default=[1.0], metavar="T")
    two.add_argument("--hybrid-from", type=float, default=0.5, metavar="SHARE")
    two.add_argument("--threads", type=int, default=1, metavar="N")
    two.set_defaults(func=traditional)
    args = parser.parse_args()
    run: Callable[[argparse.Namespace], int] = args.func
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
