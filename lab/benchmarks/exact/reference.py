"""The target without any of our code: transformers' own model and cache, one new token at a time.

Imports nothing of the project but `sampling`, the second writing of how tokens are chosen. It is also a program: JSON
lines with a text to write each on standard input, JSON lines with the answers on standard output::

    python -m lab.benchmarks.exact.reference FOLDER DTYPE [HEAD]

A matrix product with few rows takes another kernel and other bits, so a forward reads the one text that is written
several times over: 2 equal rows in bfloat16, 16 in float32. Where a processor has AMX, more than 32 rows in bfloat16
take another one again, so prompts are read in pieces of 16 tokens. In bfloat16 the attention is transformers'
``eager``, which multiplies the queries of each text apart; so that one is never alone, each step reads the token
before the new one again. In float32 its sums depend on the context's length, so `fixed_order_attention` below
replaces it: rows padded to 16, contexts to multiples of 64, values summed in blocks of 64 from the left. The same in
bfloat16 on a processor where zeros behind a sum, or more rows, change its bits, with the longest block where they do
not. Above 1,024 positions ``eager`` itself changes its sums with the length; texts must stay below.

Where a text has a grammar, llguidance's own matcher, made for this text alone, says before each token which ids may
come; all others lose their logits before anything else is done with these.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import llguidance
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from lab.benchmarks.exact.sampling import Params, choose, penalized

MAX_CONTEXT = 1024
_GRAIN = 64
_LEAST_ROWS = 16
_PIECE = 16
_FIXED_ORDER = "exactness_reference"

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Text:
    """A text to write.

    Attributes:
        number: names it.
        prompt: token ids.
        sampling: sampling parameters.
        limit: tokens at most.
        eos: ids that end the text; none when it shall go on to the limit.
        grammar: llguidance's JSON of grammars; empty allows all texts.
    """

    number: int
    prompt: tuple[int, ...]
    sampling: Params
    limit: int
    eos: tuple[int, ...]
    grammar: str = ""

    def finish(self, tokens: Sequence[int]) -> str | None:
        """Why the text ends with its last token; None while it goes on. End of text, then length."""
        if tokens[-1] in self.eos:
            return "eos"
        return "length" if len(tokens) >= self.limit else None


@dataclass(slots=True)
class ReferenceText:
    """A written text; `reason` is ``eos`` or ``length``, and empty while it is written."""

    number: int
    tokens: list[int]
    reason: str


class GrammarMask:
    """Which ids a grammar lets come next in one text.

    Args:
        tokenizer_json: contents of the target's tokenizer.json.
        text: the text, with a grammar.
    """

    def __init__(self, tokenizer_json: str, text: Text) -> None:
        self._tokenizer_json, self._eos = tokenizer_json, list(text.eos)
        self._grammar = text.grammar
        self._matcher: Any = None

    def apply(self, logits: npt.NDArray[np.float32], newest: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits [vocabulary] behind a text's `newest` token, without those of ids that may not come.

        Where the text can only end, it ends with the lowest of the ids that end it.
        """
        if self._matcher is None:
            tokenizer = llguidance.LLTokenizer(self._tokenizer_json, n_vocab=len(logits), eos_token=self._eos)
            self._matcher = llguidance.LLMatcher(tokenizer, self._grammar, log_level=0)
        self._matcher.consume_tokens(list(newest))
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        if set(allowed) <= set(self._eos):
            allowed = allowed[:1]
        masked = np.full_like(logits, -np.inf)
        masked[allowed] = logits[allowed]
        return masked


class Reference:
    """The target on its own.

    Args:
        folder: checkpoint.
        dtype: ``bfloat16`` or ``float32``.
        head: PEFT adapter directory whose LoRA peft puts into the target; empty is the target as it is.
    """

    def __init__(self, folder: str, dtype: str, head: str = "") -> None:
        kind = getattr(torch, dtype)
        block = 64 if dtype == "float32" else steady_block(kind)
        fixed = block < MAX_CONTEXT or not steady_at_any_length(kind)
        AttentionInterface.register(_FIXED_ORDER, partial(fixed_order_attention, block=block))
        AttentionMaskInterface.register(_FIXED_ORDER, _no_mask)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, attn_implementation=_FIXED_ORDER if fixed else "eager", local_files_only=True
        )
        if head:
            from peft import PeftModel

            # Rounded as it is stored: peft would make float32 of it.
            adapted: Any = PeftModel.from_pretrained(loaded, head, autocast_adapter_dtype=False)
            loaded = adapted.get_base_model()
        self._model = loaded.eval()
        self._tokenizer = Path(folder, "tokenizer.json")
        self.copies = _LEAST_ROWS if dtype == "float32" else 2

    def write(self, text: Text) -> ReferenceText:
        """Write a text: its prompt in pieces, then one new token in each, and nothing else in any of them.

        Raises:
            ValueError: the context would pass 1,024 positions.
        """
        length = len(text.prompt)
        if length + text.limit > MAX_CONTEXT:
            raise ValueError(f"text {text.number} passes {MAX_CONTEXT} positions")
        written = ReferenceText(text.number, [], "")
        mask = GrammarMask(self._tokenizer.read_text("utf-8"), text) if text.grammar else None
        cache, logits = self.read([text.prompt] * self.copies)
        while True:
            row = logits[0] if mask is None else mask.apply(logits[0], written.tokens[-1:])
            row = penalized(row, text.sampling, text.prompt, written.tokens)
            written.tokens.append(choose(row, text.sampling, length + len(written.tokens)))
            written.reason = text.finish(written.tokens) or ""
            if written.reason:
                return written
            newest = [*text.prompt[-1:], *written.tokens][-2:]
            logits = self.next(cache, [newest] * self.copies)

    @torch.inference_mode()
    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[DynamicCache, Rows]:
        """Read prompts of one length; returns the cache and the last logits [prompts, vocabulary]."""
        cache = DynamicCache(config=self._model.config)
        ids = torch.tensor([list(prompt) for prompt in prompts])
        for piece in torch.split(ids, _PIECE, dim=1):
            output = self._model(input_ids=piece, cache=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1].float().numpy()

    def next(self, cache: DynamicCache, newest: Sequence[Sequence[int]]) -> Rows:
        """Read one token more for each prompt; returns the logits behind it, [prompts, vocabulary].

        Args:
            cache: cache of all tokens but that one.
            newest: the last token that was read, which is read again, and the one to read, for each prompt.
        """
        cache.crop(-1)
        rows: Rows = self.extend(cache, newest)[:, -1]
        return rows

    @torch.inference_mode()
    def extend(self, cache: DynamicCache, tokens: Sequence[Sequence[int]]) -> Rows:
        """Read as many tokens for each prompt; returns the logits behind each, [prompts, tokens, vocabulary]."""
        ids = torch.tensor([list(row) for row in tokens])
        logits: Rows = self._model(input_ids=ids, cache=cache, use_cache=True).logits.float().numpy()
        return logits


def steady_block(dtype: torch.dtype) -> int:
    """Positions, halved from 1,024 on, over which zeros behind weights and values, or more rows, change no sum."""
    generator = torch.Generator().manual_seed(7)
    block = MAX_CONTEXT
    while block > _GRAIN and not all(
        _steady(at, block, dtype, generator) for at in range(_GRAIN, block + 1, _GRAIN)
    ):
        block //= 2
    return block


def steady_at_any_length(dtype: torch.dtype) -> bool:
    """Whether zeros behind sums of any even length up to two grains change none; ``eager`` pads nothing."""
    generator = torch.Generator().manual_seed(7)
    return all(
        _steady(at, -(-at // _GRAIN) * _GRAIN, dtype, generator, step=-at % _GRAIN or _GRAIN)
        for at in range(2, 2 * _GRAIN, 2)
    )


def _steady(
    positions: int, block: int, dtype: torch.dtype, generator: torch.Generator, step: int = _GRAIN
) -> bool:
    """Whether sums over `positions` that cancel to rounding keep their bits when zeros follow, up to the block."""
    order = torch.randperm(positions, generator=generator)
    weights, values = torch.zeros(1, 16, block, dtype=dtype), torch.zeros(1, block, 64, dtype=dtype)
    drawn = torch.randn(16, positions // 2, generator=generator)
    weights[0, :, :positions] = torch.cat((drawn, -drawn), 1)[:, order].to(dtype)
    drawn = torch.randn(positions // 2, 64, generator=generator)
    values[0, :positions] = torch.cat((drawn, drawn), 0)[order].to(dtype)
    short = weights[:, :, :positions] @ values[:, :positions]
    longer = range(positions + step, block + 1, step)
    more = torch.cat([weights] * 8, dim=1)[:, :, :positions]
    return all(torch.equal(weights[:, :, :end] @ values[:, :end], short) for end in longer) and all(
        torch.equal((more[:, :rows] @ values[:, :positions])[:, :16], short) for rows in (32, 40, 48, 64, 128)
    )


def fixed_order_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float,
    *,
    block: int,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention whose sums run in one order.

    Args:
        query: [batch, heads, rows, size]; the rows are the last positions of the context.
        key: [batch, kv heads, context, size].
        value: as key.
        scaling: scaling of the scores.
        block: values that are summed at a time.

    Returns:
        [batch, rows, heads, size], and None.
    """
    batch, heads, rows, size = query.shape
    kv_heads, context = key.shape[1:3]
    mixed = torch.empty_like(query)
    padding = -context % _GRAIN
    visible = torch.ones(rows, context, dtype=torch.bool).tril(context - rows)
    visible = torch.nn.functional.pad(visible, (0, padding))
    for head in range(heads):
        kv_head = head * kv_heads // heads
        keys = torch.nn.functional.pad(key[:, kv_head], (0, 0, 0, padding))
        values = torch.nn.functional.pad(value[:, kv_head], (0, 0, 0, padding))
        queries = torch.nn.functional.pad(query[:, head], (0, 0, 0, max(0, _LEAST_ROWS - rows)))
        scores = (queries @ keys.transpose(1, 2))[:, :rows] * scaling
        masked = scores.float().masked_fill(~visible, -torch.inf)
        weights = torch.softmax(masked, dim=-1).to(query.dtype)
        weights = torch.nn.functional.pad(weights, (0, 0, 0, max(0, _LEAST_ROWS - rows)))
        total = torch.zeros(batch, queries.shape[1], size, dtype=query.dtype)
        for start in range(0, context + padding, block):
            span = slice(start, start + block)
            total = total + weights[:, :, span] @ values[:, span]
        mixed[:, head] = total[:, :rows]
    return mixed.transpose(1, 2).contiguous(), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """`fixed_order_attention` makes its own."""
    return


def answer(write: Callable[[Text], ReferenceText]) -> None:
    """Answer texts, one JSON line each, until standard input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(write(msgspec.json.decode(line, type=Text)))) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Answer texts as the arguments say."""
    folder, dtype, *head = sys.argv[1:]
    torch.set_num_threads(1)
    answer(Reference(folder, dtype, *head).write)


if __name__ == "__main__":
    main()
