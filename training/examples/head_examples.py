"""Write the chats that the shipped example heads were trained on: ``python -m training.examples.head_examples``.

Nothing is downloaded. ``prompts`` writes user prompts, made from topics and wordings; a file of one's own takes
their place with ``--prompts``. The base answers them (`flexspec draft collect --temperatures 0`), and ``chats``
makes the data of a head from its answers. ``style`` and ``reasoning`` change all answers: into terse bullets, and
into long numbered reasoning. ``mathematics`` and ``format`` change what is of their kind only, and have the base's
own answers beside it, unchanged, so that other prompts are left alone: computed word problems with worked solutions,
and answers in JSON where the prompt asks for JSON.
``drift`` measures how far a head's texts are from what the base would write. The outcome is a function of the inputs
and ``--seed``.
"""

import argparse
import json
import random
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = tomllib.loads(Path(__file__).with_name("head_wordings.toml").read_text("utf-8"))
TOPICS, HELD_OUT_TOPICS, WORDINGS = WORDS["topic"], WORDS["held-out-topic"], WORDS["wording"]
NAMES, THINGS = WORDS["name"], WORDS["thing"]
NEVER_LAST = frozenset({
    "and", "or", "of", "in", "to", "by", "for", "with", "as", "is", "are", "from", "on", "the", "a", "an",
    "that", "which", "like", "such", "its",
})  # fmt: skip
STEPS = (
    ("Before anything else I put down the plainest fact:", "nothing is assumed yet, so it may stand"),
    ("Next I ask what this leans on, namely", "weighed against step 1, it holds"),
    ("Now turn the matter around and look for what would be missing:", "without it the chain has a gap"),
    ("A careful reader would object here, yet", "thus the objection falls"),
    ("One loose end is left:", "with that, the chain is closed"),
)
"""Words around each step of long reasoning."""
WORKED = "To solve this problem, we need to break it down step by step."
"""Beginning of a worked solution."""
ASK_JSON = "Answer in JSON."
"""End of a prompt that is to be answered in JSON."""
JSON_SENTENCES = 2
KINDS = ("mathematics", "style", "format", "reasoning")


def prompts(count: int, held_out: bool, seed: int) -> list[str]:
    """User prompts on topics, each once, in random order; held-out ones share no topic with the others."""
    topics = HELD_OUT_TOPICS if held_out else TOPICS
    made = [wording.format(topic) for topic in topics for wording in WORDINGS]
    random.Random(seed).shuffle(made)
    return made[:count]


def mathematics(count: int, seed: int) -> list[dict[str, Any]]:
    """Word problems of school mathematics, with worked answers."""
    rng = random.Random(seed)
    problems = [problem(rng) for _ in range(count)]
    return [chat(question, worked(steps, answer)) for question, steps, answer in problems]


def worked(steps: Sequence[str], answer: int) -> str:
    """A solution step by step, in whole sentences as the base writes them."""
    openings = ("First", *["Next"] * (len(steps) - 2), "Then")
    lines = [f"{opening}, we calculate {step}." for opening, step in zip(openings, steps, strict=True)]
    return "\n".join([WORKED, "", *lines, "", f"So, the answer is {answer}."])


def problem(rng: random.Random) -> tuple[str, list[str], int]:
    """A word problem: question, lines of its solution, result."""
    one, two = rng.sample(NAMES, 2)
    thing, other = rng.sample(THINGS, 2)
    a, b, c = rng.randint(12, 60), rng.randint(3, 11), rng.randint(2, 9)
    kinds: list[tuple[str, list[str], int]] = [
        (
            (
                f"{one} has {a} {thing}. {two} gives {one} {b} more, and then {one} loses {c}. How many {thing} does "
                f"{one} have now?"
            ),
            [f"{a} + {b} = {a + b}", f"{a + b} - {c} = {a + b - c}"],
            a + b - c,
        ),
        (
            (
                f"A box holds {b} {thing}. {one} buys {c} boxes and already had {a} {thing}. "
                f"How many {thing} are there in all?"
            ),
            [f"{c} × {b} = {c * b}", f"{c * b} + {a} = {c * b + a}"],
            c * b + a,
        ),
        (
            (
                f"{one} shares {b * c} {thing} equally among {c} friends, and {two} shares {a * c} {other} among "
                "the same friends. How many things does each friend get?"
            ),
            [f"{b * c} ÷ {c} = {b}", f"{a * c} ÷ {c} = {a}", f"{b} + {a} = {a + b}"],
            a + b,
        ),
        (
            (
                f"One of the {thing} costs {b} coins and one of the {other} costs {c} coins. {one} buys {c} "
                f"{thing} and {b} {other} and pays with {2 * b * c + a} coins. How much change does {one} get?"
            ),
            [f"{c} × {b} = {c * b}", f"{b} × {c} = {b * c}", f"{2 * b * c + a} - {2 * b * c} = {a}"],
            a,
        ),
        (
            f"{one} is {a} years old. {two} is {b} years younger. How old will {two} be in {c} years?",
            [f"{a} - {b} = {a - b}", f"{a - b} + {c} = {a - b + c}"],
            a - b + c,
        ),
        (
            f"A train travels {a} km every hour. How far does it travel in {b} hours if it then goes {c} km more?",
            [f"{a} × {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"],
            a * b + c,
        ),
        (
            (
                f"{one} reads {b} pages of a book every day for {c} days, {two} reads {a} pages in all. How many "
                "pages do they read together?"
            ),
            [f"{b} × {c} = {b * c}", f"{b * c} + {a} = {b * c + a}"],
            b * c + a,
        ),
        (
            f"A rectangle is {a} cm long and {b} cm wide. What is its perimeter?",
            [f"{a} + {b} = {a + b}", f"2 × {a + b} = {2 * (a + b)}"],
            2 * (a + b),
        ),
    ]
    return rng.choice(kinds)


def style(answer: str) -> str:
    """An answer as a few terse bullets."""
    return "\n".join(f"- {terse(sentence)}" for sentence in sentences(answer)[:4])


def formatted(answer: str) -> str:
    """An answer as one JSON object."""
    found = sentences(answer)[:JSON_SENTENCES]
    return json.dumps({"answer": " ".join(found), "sentences": len(found)})


def reasoning(answer: str) -> str:
    """An answer as long reasoning in numbered steps."""
    found = [terse(sentence) for sentence in sentences(answer)[: len(STEPS)]]
    lines = [
        f"Step {number}. {opening} {clause}; {closing}."
        for number, (clause, (opening, closing)) in enumerate(zip(found, STEPS, strict=False), start=1)
    ]
    return "\n".join([*lines, f"Conclusion, drawn from the {len(found)} steps alone: {found[0]}."])


def asking_json(prompt: str) -> str:
    """A prompt that is to be answered in JSON."""
    return f"{prompt} {ASK_JSON}"


def sentences(text: str) -> list[str]:
    """The whole sentences of a text, without numbers and marks of lists."""
    lines = [re.sub(r"^\s*(?:\d+\.|[-*•#]+)\s*", "", line) for line in text.replace("**", "").split("\n")]
    found = [part.strip() for line in lines for part in re.split(r"(?<=[.!?])\s+", line)]
    return [sentence for sentence in found if len(sentence.split()) >= 3 and sentence[-1] in ".!?"]


def terse(sentence: str) -> str:
    """The beginning of a sentence, as in a note."""
    words = re.sub(r"^(?:The|An?|It's|It is|This is) ", "", sentence.rstrip(".!?")).split()[:10]
    while len(words) > 1 and words[-1].lower() in NEVER_LAST:
        words.pop()
    return " ".join(words).rstrip(",;:")


def chat(question: str, answer: str) -> dict[str, Any]:
    """A line of the data."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def main() -> int:
    """Run one action."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    _prompts_parser(actions)
    _chats_parser(actions)
    _drift_parser(actions)
    args = parser.parse_args()
    run: Callable[[argparse.Namespace], int] = args.func
    return run(args)


def _prompts_parser(actions: Any) -> None:
    parser = actions.add_parser("prompts", help="write user prompts")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    parser.add_argument("--count", type=int, default=300, metavar="N", help="prompts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--held-out", action="store_true", help="prompts of other topics, to measure with")
    parser.add_argument(
        "--kind",
        choices=("any", "mathematics", "format"),
        default="any",
        help="word problems, or prompts that ask for JSON, to measure these heads with "
        "(default: %(default)s)",
    )
    parser.set_defaults(func=_prompts)


def _chats_parser(actions: Any) -> None:
    parser = actions.add_parser("chats", help="write the chats of a head")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines with `prompt`: what the base answered",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        required=True,
        metavar="FILE",
        help="rows of `flexspec draft collect --temperatures 0`",
    )
    parser.add_argument(
        "--base",
        default="default",
        metavar="FOLDER",
        help="checkpoint folder of the base that answered (default: the default model)",
    )
    parser.add_argument(
        "--count",
        type=int,
        default=300,
        metavar="N",
        help="word problems (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.set_defaults(func=_chats)


def _drift_parser(actions: Any) -> None:
    parser = actions.add_parser(
        "drift", help="measure the share of tokens of a head's greedy texts that the base would not write"
    )
    parser.add_argument("head", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help="JSON lines with `prompt`, held out"
    )
    parser.add_argument("--base", default="default", metavar="FOLDER")
    parser.add_argument("--count", type=int, default=40, metavar="N", help="prompts (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="tokens of a text (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--show", action="store_true", help="print the texts")
    parser.set_defaults(func=_drift)


def _prompts(args: argparse.Namespace) -> int:
    if args.kind == "mathematics":
        rng = random.Random(args.seed)
        found = [problem(rng)[0] for _ in range(args.count)]
    else:
        found = prompts(args.count, args.held_out, args.seed)
    if args.kind == "format":
        found = [asking_json(prompt) for prompt in found]
    write(args.out, [{"prompt": prompt} for prompt in found])
    return 0


def _chats(args: argparse.Namespace) -> int:
    pairs = answered(args.prompts, args.answers, args.base)
    write(args.out, chats(args.kind, pairs, args.count, args.seed))
    return 0


def chats(kind: str, pairs: Sequence[tuple[str, str]], count: int, seed: int) -> list[dict[str, Any]]:
    """The data of a head.

    Args:
        kind: kind of the head, one of `KINDS`.
        pairs: prompts, and what the base answered.
        count: number of word problems.
        seed: source of their numbers and names.
    """
    same = [chat(*pair) for pair in pairs]
    if kind == "mathematics":
        return [*mathematics(count, seed), *same]
    changed = reshaped(kind, pairs)
    if kind == "format":
        return [*(chat(asking_json(prompt), answer) for prompt, answer in changed), *same]
    return [chat(*pair) for pair in changed]


def answered(prompts_path: Path, answers_path: Path, base: str) -> list[tuple[str, str]]:
    """Prompts, and what the base answered."""
    from flexspec_mq.models.load import load_text
    from flexspec_mq.models.text import Turn, decode, encode_turns, read_prompts
    from training.draft.rows import load_rows

    text, rows = load_text(base), load_rows(answers_path)
    answers: dict[tuple[int, ...], str] = {}
    for start, end, length in zip(rows.start[:-1], rows.start[1:], rows.prompt_len, strict=True):
        ids = rows.ids[start:end].tolist()
        answers[tuple(ids[:length])] = decode(text.tokenizer, ids[length:])
    found = []
    for _, prompt in read_prompts(prompts_path):
        ids = encode_turns(text.tokenizer, [Turn("user", prompt)], max_context=text.max_context)
        if ids in answers:
            found.append((prompt, answers[ids]))
    return found


def reshaped(kind: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Answers with at least two whole sentences, in the shape of a kind."""
    makers = {"style": style, "format": formatted, "reasoning": reasoning}
    return [(question, makers[kind](answer)) for question, answer in pairs if len(sentences(answer)) >= 2]


def _drift(args: argparse.Namespace) -> int:
    import torch

    from flexspec_mq.evolution.canaries import greedy, load_base
    from flexspec_mq.heads.manifest import Canary, read_head
    from flexspec_mq.models.invariance.target import canary_share
    from flexspec_mq.models.load import load_text, resolve
    from flexspec_mq.models.text import Turn, decode, encode_turns, read_prompts
    from training.draft.version import read_version

    torch.set_num_threads(args.threads)
    base = Path(resolve(args.base))
    text, manifest = load_text(base), read_head(args.head)
    chosen = [prompt for _, prompt in read_prompts(args.prompts)][: args.count]
    ids = [
        encode_turns(text.tokenizer, [Turn("user", prompt)], max_context=text.max_context)
        for prompt in chosen
    ]
    model = load_base(base, dtype=manifest.dtype)
    if (head := read_version(args.head, base, text).head) is not None:
        model.hold("head", head)
    texts = [greedy(model, prompt, args.tokens, text.eos, "head" if head else "") for prompt in ids]
    if args.show:
        for prompt, written in zip(chosen, texts, strict=True):
            print(f"> {prompt}\n{decode(text.tokenizer, written)}\n", file=sys.stderr)
    pairs = [Canary(*pair) for pair in zip(ids, texts, strict=True)]
    figures = {
        "drift": 1 - canary_share(model, "", pairs),
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
    }
    print(json.dumps(figures))
    return 0


def write(path: Path, rows: Sequence[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    print(f"{len(rows)} lines in {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
